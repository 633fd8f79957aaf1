"""The selective scan as a module, with the interface of mamba-windows-cuda."""

import torch
from torch import nn

from .ops import selective_scan


class SelectiveScan(nn.Module):
    """Plain selective scan over (b, l, d) without softplus, bias or gate; it holds no parameters.

    Computes in float32 whatever the dtype of its arguments.
    """

    def forward(
        self,
        u: torch.Tensor,
        delta: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        D: torch.Tensor | None,
        h_prev: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return y.

        Parameters
        ----------
        u, delta : Tensor, (b, l, d)
            Input and step size; float32, float16 or bfloat16.
        A : Tensor, (d, n)
            State decay.
        B, C : Tensor, (b, l, n)
            Input and output projections.
        D : Tensor, (d,), or None
            Skip connection.
        h_prev : Tensor, (b, d, n), optional
            State before the first step; zero when absent.

        Returns
        -------
        y : Tensor, (b, l, d), dtype of u

        Raises
        ------
        ValueError
            As :func:`mamba_scan.selective_scan` does; ``h_prev`` is called ``initial_state`` there.
        """
        return selective_scan(u, delta, A, B, C, D, initial_state=h_prev)

    def forward_with_state(
        self,
        u: torch.Tensor,
        delta: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        D: torch.Tensor | None,
        h_prev: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return y and the state after the last step.

        Parameters are those of :meth:`forward`.

        Returns
        -------
        y : Tensor, (b, l, d), dtype of u
        h : Tensor, (b, d, n)
            In the dtype of ``h_prev``; float32, which loses nothing from call to call, when ``h_prev`` is absent.
        """
        y, state = selective_scan(u, delta, A, B, C, D, initial_state=h_prev, return_final_state=True)
        return y, state if h_prev is None else state.to(h_prev.dtype)


class SelectiveScanCuda(SelectiveScan):
    """:class:`SelectiveScan` for programs written for mamba-windows-cuda, whose names its parameters have."""

    def forward(
        self,
        u: torch.Tensor,
        delta: torch.Tensor,
        A: torch.Tensor,
        B_ssm: torch.Tensor,
        C_ssm: torch.Tensor,
        D_ssm: torch.Tensor | None,
        h_prev: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return y, as :meth:`SelectiveScan.forward` does."""
        return super().forward(u, delta, A, B_ssm, C_ssm, D_ssm, h_prev)

    def forward_with_state(
        self,
        u: torch.Tensor,
        delta: torch.Tensor,
        A: torch.Tensor,
        B_ssm: torch.Tensor,
        C_ssm: torch.Tensor,
        D_ssm: torch.Tensor | None,
        h_prev: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return y and the state after the last step, as :meth:`SelectiveScan.forward_with_state` does."""
        return super().forward_with_state(u, delta, A, B_ssm, C_ssm, D_ssm, h_prev)
