"""Random problems for the tests, and how close a result must be."""

from __future__ import annotations

import torch
from reference import selective_scan_reference

# Largest deviation over the largest reference value. y is rounded once to its dtype; the state stays float32.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
STATE_TOLERANCE = 1e-5
TABULATED_STATE_TOLERANCE = 5e-5  # some GPUs take softplus of 16-bit delta from a table, off by 6e-5 at most
FEW_VALUES = 64


def make_problem(
    batch=2,
    seqlen=33,
    dim=24,
    dstate=16,
    *,
    groups=None,
    dtype=torch.float32,
    layout="bld",
    device="cpu",
    seed=0,
    full=True,
    constant="",
    is_complex=False,
    pairs=False,
    reverse=False,
    sequences=None,
):
    """Arguments of selective_scan as a dictionary.

    groups: None for B and C without a group axis. constant: letters of those that do not vary in time, e.g. "BC".
    full: with D, z, delta_bias, delta_softplus and an initial state.
    is_complex: complex A, B, C and state; pairs: B and C as pairs (re, im), as they always are in 16 bits.
    sequences: that many packed ones (batch must be 1), of random lengths, the second empty.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    def number(*shape):
        return torch.complex(normal(*shape), normal(*shape)) if is_complex else normal(*shape)

    def sequence():
        return normal(batch, seqlen, dim) if layout == "bld" else normal(batch, dim, seqlen)

    def projection(name):
        if name in constant:
            return number(dim, dstate)
        if groups is None:
            shape = (batch, seqlen, dstate) if layout == "bld" else (batch, dstate, seqlen)
        else:
            shape = (batch, seqlen, groups, dstate) if layout == "bld" else (batch, groups, dstate, seqlen)
        if is_complex and (pairs or dtype is not torch.float32):
            shape = (*shape[:-1], 2 * shape[-1])
            return normal(*shape).to(dtype)
        return number(*shape) if is_complex else normal(*shape).to(dtype)

    problem = {
        "u": sequence().to(dtype),
        "delta": (sequence() * (1.0 if full else 0.0) + (0.0 if full else 0.05)).to(dtype),
        "A": torch.complex(-torch.exp(normal(dim, dstate)), 3 * normal(dim, dstate))
        if is_complex
        else -torch.exp(normal(dim, dstate)),
        "B": projection("B"),
        "C": projection("C"),
        "layout": layout,
    }
    if full:
        problem |= {
            "D": normal(dim),
            "z": sequence().to(dtype),
            "delta_bias": normal(dim) - 2,
            "delta_softplus": True,
            "initial_state": number(batch if sequences is None else sequences, dim, dstate),
        }
    if reverse:
        problem["reverse"] = True
    if sequences is not None:
        cuts = torch.randint(0, seqlen + 1, (sequences - 1,), generator=generator).sort().values.tolist()
        if len(cuts) > 1:
            cuts[1] = cuts[0]
        problem["cu_seqlens"] = torch.tensor([0, *cuts, seqlen], dtype=torch.int32)
    return to_device(problem, device)


def to_device(problem, device):
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in problem.items()}


def relative_error(value, reference, terms=None):
    """Largest deviation over the largest reference value; NaN where either has one.

    terms: of a few values, which may all be sums that cancel, the sums of their terms' magnitudes. The largest of
    these is what the deviation is compared with.
    """
    if reference.numel() == 0:
        return 0.0
    scale = max((reference if terms is None else terms).abs().max().item(), 1e-30)
    return ((value.cpu().to(reference.dtype) - reference).abs().max() / scale).item()


def magnitudes(problem):
    """The same problem with every term positive."""
    projections = {}
    for name in "BC":
        tensor = problem[name]
        if problem["A"].is_complex() and not tensor.is_complex():
            tensor = torch.view_as_complex(tensor.float().unflatten(-1, (-1, 2)).contiguous())
        projections[name] = tensor.abs() + (0j if tensor.is_complex() else 0)
    positive = {name: problem[name].abs() for name in ("u", "D", "initial_state") if problem.get(name) is not None}
    A = problem["A"]
    return problem | projections | positive | {"A": A.real + 0j if A.is_complex() else A}


def rounding_of_tiny(dtype, scale):
    """What rounding subnormal numbers to dtype costs at most, relative to scale."""
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps / 2 / scale


def assert_matches_reference(problem, y, state=None):
    """Compare a result with the float64 recurrence."""
    expected_y, expected_state = selective_scan_reference(**problem)
    assert tuple(y.shape) == tuple(expected_y.shape)
    assert y.dtype is problem["u"].dtype
    terms_y, terms_state = expected_y, expected_state
    if expected_y.numel() < FEW_VALUES:
        terms_y, terms_state = selective_scan_reference(**magnitudes(problem))
    if y.numel() > 0:
        error = relative_error(y, expected_y, terms_y)
        limit = TOLERANCE[y.dtype] + rounding_of_tiny(y.dtype, max(terms_y.abs().max().item(), 1e-30))
        assert error <= limit, f"y: relative error {error}"
    if state is not None:
        assert state.dtype is (torch.complex64 if problem["A"].is_complex() else torch.float32)
        assert tuple(state.shape) == tuple(expected_state.shape)
        error = relative_error(state, expected_state, terms_state)
        may_be_tabulated = y.is_cuda and y.dtype is not torch.float32 and problem.get("delta_softplus", False)
        limit = TABULATED_STATE_TOLERANCE if may_be_tabulated else STATE_TOLERANCE
        assert error <= limit, f"state: relative error {error}"
