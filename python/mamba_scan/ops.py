"""The selective scan as a function."""

import torch

from ._arguments import check_arguments
from ._library import selective_scan_forward as _forward

_FLOAT32 = torch.float32
# u, delta, A, B, C, D, z, delta_bias, initial_state, in the operator's order
_Tensors = tuple[torch.Tensor | None, ...]
# Skips the autograd layer, which for an operator whose autograd is registered from Python costs 6 us per call.
_below_autograd = torch._C._AutoDispatchBelowAutograd


def _is_ready(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    initial_state: torch.Tensor | None,
) -> bool:
    """Whether every tensor already has the dtype that the operator takes."""
    dtype = u.dtype
    return (
        A.dtype is _FLOAT32
        and delta.dtype is dtype
        and B.dtype is (_FLOAT32 if B.ndim == 2 else dtype)
        and C.dtype is (_FLOAT32 if C.ndim == 2 else dtype)
        and (D is None or (D.dtype is _FLOAT32 and D.is_contiguous()))
        and (z is None or z.dtype is dtype)
        and (delta_bias is None or (delta_bias.dtype is _FLOAT32 and delta_bias.is_contiguous()))
        and (initial_state is None or initial_state.dtype is _FLOAT32)
    )


def _converted(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    initial_state: torch.Tensor | None,
) -> _Tensors:
    """Weights in float32, activations in the dtype of u; what already is so stays the same memory."""
    dtype = u.dtype
    return (
        u,
        delta.to(dtype),
        A.to(_FLOAT32),
        B.to(_FLOAT32 if B.ndim == 2 else dtype),
        C.to(_FLOAT32 if C.ndim == 2 else dtype),
        None if D is None else D.to(_FLOAT32).contiguous(),
        None if z is None else z.to(dtype),
        None if delta_bias is None else delta_bias.to(_FLOAT32).contiguous(),
        None if initial_state is None else initial_state.to(_FLOAT32),
    )


def _check(tensors: _Tensors, delta_softplus: bool, return_final_state: bool, layout: str) -> None:
    *before, initial_state = tensors
    check_arguments(*before, delta_softplus, initial_state, return_final_state, layout)


def _needs_grad(tensors: _Tensors) -> bool:
    for tensor in tensors:  # noqa: SIM110 (any() over a generator costs twice as much)
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    *,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: torch.Tensor | None = None,
    return_final_state: bool = False,
    layout: str = "bld",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    r"""Run the selective scan of Mamba along the sequence.

    For every batch b, step t, channel d and state n::

        dt       = softplus?(delta[b, t, d] + delta_bias[d])
        h[n]     = exp(dt * A[d, n]) * h[n] + dt * u[b, t, d] * B[b, t, g, n]      g = d // (dim // groups)
        y[b,t,d] = (sum over n of h[n] * C[b, t, g, n]  +  D[d] * u[b, t, d]) * (silu(z[b, t, d]) if z given)

    Parameters
    ----------
    u : Tensor, (b, l, d)
        Input; float32, float16 or bfloat16, any strides. ``layout="bdl"``: (b, d, l).
    delta : Tensor, shape and dtype of u
        Step size, before bias and softplus.
    A : Tensor, (d, n)
        State decay, normally negative. Any real floating dtype, computed in float32.
    B, C : Tensor, (b, l, n) or (b, l, g, n), dtype of u; or (d, n), any floating dtype
        Input and output projections, with groups of d // g channels, or constant in time.
        ``layout="bdl"``: (b, n, l) or (b, g, n, l), or (d, n).
    D : Tensor, (d,), optional
        Skip connection, any floating dtype.
    z : Tensor, shape and dtype of u, optional
        Gate; y is multiplied by silu(z).
    delta_bias : Tensor, (d,), optional
        Added to delta, any floating dtype.
    delta_softplus : bool
        Apply softplus to delta + delta_bias; above 20 softplus is the identity, as in PyTorch.
    initial_state : Tensor, (b, d, n), optional
        State before the first step, any floating dtype, computed in float32; zero when absent.
    return_final_state : bool
        Also return the state after the last step.
    layout : {"bld", "bdl"}
        Order of the axes: sequence in the middle, or last.

    Returns
    -------
    y : Tensor, shape and dtype of u
        Dense; its innermost axis is the one that is contiguous in u.
    final_state : Tensor, (b, d, n), float32
        Only with ``return_final_state``.

    Raises
    ------
    ValueError
        An argument cannot be served: the message names it, what it has and what it needs. Nothing has run then.
    NotImplementedError
        On a backward pass through the result: this version has none.

    Notes
    -----
    Under ``torch.autocast`` the scan runs in the dtype of u, and delta, z, B and C are cast to it; without autocast a
    different dtype is an error. State and sums are float32 in any case. Big tensors are never copied for their
    strides.

    References
    ----------
    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, equation 2, with the
    simplified Euler step for B that its implementation uses.
    """
    seq_last = layout == "bdl"
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if torch.compiler.is_compiling():
        _check(tensors, delta_softplus, return_final_state, layout)
        y, state = _forward(*_converted(*tensors), delta_softplus, seq_last, return_final_state)
        return (y, state) if return_final_state else y

    try:
        if not ((seq_last or layout == "bld") and _is_ready(*tensors)):
            _check(tensors, delta_softplus, return_final_state, layout)
            tensors = _converted(*tensors)
        if torch.is_grad_enabled() and _needs_grad(tensors):
            y, state = _forward(*tensors, delta_softplus, seq_last, return_final_state)
        else:
            with _below_autograd():
                y, state = _forward(*tensors, delta_softplus, seq_last, return_final_state)
    except (RuntimeError, TypeError, AttributeError):
        # The operator refused: explain which argument is wrong. Where none is, the error speaks for itself.
        _check(tensors, delta_softplus, return_final_state, layout)
        raise
    return (y, state) if return_final_state else y
