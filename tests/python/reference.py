"""The selective scan in float64, written as the formula reads and sharing nothing with the package."""

from __future__ import annotations

from itertools import pairwise

import torch


def _numbers(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Float64 or complex128, on the CPU."""
    if tensor is None:
        return None
    return tensor.cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _pairs_to_complex(projection: torch.Tensor) -> torch.Tensor:
    """Of B or C varying in time: pairs (re, im) along the last axis -> complex."""
    return projection if projection.is_complex() else torch.complex(projection[..., ::2], projection[..., 1::2])


def _per_channel(projection: torch.Tensor, u: torch.Tensor, layout: str, is_complex: bool) -> torch.Tensor:
    """B or C in any form -> (batch, seqlen, dim, dstate); u is (batch, seqlen, dim)."""
    batch, seqlen, dim = u.shape
    if projection.ndim == 2:
        return projection.expand(batch, seqlen, *projection.shape)
    if is_complex:
        projection = _pairs_to_complex(projection)
    if layout == "bdl":
        projection = projection.movedim(-1, 1)
    if projection.ndim == 3:
        projection = projection.unsqueeze(2)
    return projection.repeat_interleave(dim // projection.shape[2], dim=2)


def _scan(u, delta, A, B, C, state, order):
    """Return (batch, len(order), dim), y in the order of the steps, and the state after the last of `order`."""
    y = torch.empty_like(u)
    first = min(order, default=0)
    for t in order:
        step = delta[:, t, :, None]
        state = torch.exp(step * A) * state + step * u[:, t, :, None] * B[:, t]
        h_c = (state * C[:, t]).sum(-1)
        y[:, t] = 2 * h_c.real if A.is_complex() else h_c
    return y[:, first : first + len(order)], state


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
    reverse=False,
    cu_seqlens=None,
    chunk_invariant=False,  # changes no result
):
    """Return y (float64) and the final state (float64 or complex128) on the CPU."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    u, delta, A, B, C, D, z, delta_bias, initial_state = map(_numbers, tensors)
    if layout == "bdl":
        u, delta = u.transpose(1, 2), delta.transpose(1, 2)
        z = None if z is None else z.transpose(1, 2)
    B, C = (_per_channel(projection, u, layout, A.is_complex()) for projection in (B, C))
    batch, seqlen, dim = u.shape

    if delta_bias is not None:
        delta = delta + delta_bias
    if delta_softplus:
        delta = torch.logaddexp(delta, torch.zeros_like(delta))
    bounds = [0, seqlen] if cu_seqlens is None else cu_seqlens.tolist()
    rows = batch if cu_seqlens is None else len(bounds) - 1
    states = torch.zeros(rows, dim, A.shape[1], dtype=A.dtype) if initial_state is None else initial_state
    pieces, finals = [], []
    for i, (begin, end) in enumerate(pairwise(bounds)):
        state = states if cu_seqlens is None else states[i : i + 1]
        order = range(end - 1, begin - 1, -1) if reverse else range(begin, end)
        piece, final = _scan(u, delta, A, B, C, state, order)
        pieces.append(piece)
        finals.append(final)
    y = torch.cat(pieces, 1)
    if D is not None:
        y = y + D * u
    if z is not None:
        y = y * z * torch.sigmoid(z)
    return (y.transpose(1, 2) if layout == "bdl" else y), torch.cat(finals)
