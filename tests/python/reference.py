"""The selective scan in float64, written as the formula reads and sharing nothing with the package."""

from __future__ import annotations

import torch


def _per_channel(projection: torch.Tensor, u: torch.Tensor, layout: str) -> torch.Tensor:
    """B or C in any form -> (batch, seqlen, dim, dstate); u is (batch, seqlen, dim)."""
    batch, seqlen, dim = u.shape
    projection = projection.double()
    if projection.ndim == 2:
        return projection.expand(batch, seqlen, *projection.shape)
    if layout == "bdl":
        projection = projection.movedim(-1, 1)
    if projection.ndim == 3:
        projection = projection.unsqueeze(2)
    return projection.repeat_interleave(dim // projection.shape[2], dim=2)


def selective_scan_reference(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    *,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    initial_state=None,
    layout="bld",
):
    """Return y and the final state, both float64 on the CPU."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    u, delta, A, B, C, D, z, delta_bias, initial_state = (None if t is None else t.cpu().double() for t in tensors)
    if layout == "bdl":
        u, delta = u.transpose(1, 2), delta.transpose(1, 2)
        z = None if z is None else z.transpose(1, 2)
    B, C = _per_channel(B, u, layout), _per_channel(C, u, layout)
    batch, seqlen, dim = u.shape

    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = torch.logaddexp(delta, torch.zeros_like(delta))
    state = torch.zeros(batch, dim, A.shape[1], dtype=torch.float64) if initial_state is None else initial_state
    y = torch.empty(batch, seqlen, dim, dtype=torch.float64)
    for t in range(seqlen):
        step = delta[:, t, :, None]
        state = torch.exp(step * A) * state + step * u[:, t, :, None] * B[:, t]
        y[:, t] = (state * C[:, t]).sum(-1)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * z * torch.sigmoid(z)
    return (y.transpose(1, 2) if layout == "bdl" else y), state
