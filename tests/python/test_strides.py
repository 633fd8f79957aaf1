"""Views of any kind give what contiguous copies give, and nothing outside a view is touched."""

from __future__ import annotations

import mamba_scan
import pytest
import torch
from problems import assert_matches_reference, make_problem

SEQUENCES = ("u", "delta", "B", "C", "z")
TENSORS = (*SEQUENCES, "A", "D", "delta_bias", "initial_state")


def padded(tensor):
    """Return the same values as a view into a larger tensor whose other elements are NaN."""
    larger = torch.full([2 * size + 3 for size in tensor.shape], float("nan"), dtype=tensor.dtype, device=tensor.device)
    view = larger[tuple(slice(1, 1 + 2 * size, 2) for size in tensor.shape)]
    view.copy_(tensor)
    return view


def transposed(tensor):
    """Return the same values with the memory order of the axes reversed."""
    axes = tuple(reversed(range(tensor.ndim)))
    return tensor.permute(axes).contiguous().permute(axes)


def scan(problem):
    return mamba_scan.selective_scan(**problem, return_final_state=True)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("view", [padded, transposed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_every_tensor_as_a_view(device, view, dtype, layout):
    problem = make_problem(2, 35, 20, 5, groups=2, dtype=dtype, layout=layout, device=device)
    views = problem | {name: view(problem[name]) for name in TENSORS}
    assert_matches_reference(problem, *scan(views))


@pytest.mark.parametrize("name", TENSORS)
def test_one_tensor_as_a_view(device, name):
    problem = make_problem(device=device)
    expected = scan(problem)
    y, state = scan(problem | {name: padded(problem[name])})
    torch.testing.assert_close(y, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TENSORS)
def test_one_expanded_tensor(device, name):
    """Stride zero along every axis."""
    problem = make_problem(device=device)
    tensor = problem[name]
    problem[name] = tensor[(0,) * tensor.ndim].expand(tensor.shape)
    assert_matches_reference(problem, *scan(problem))


def test_a_slice_of_one_fused_projection(device):
    """How models hand over delta, B and C: neighbours in one tensor."""
    problem = make_problem(2, 40, 24, 16, dtype=torch.bfloat16, device=device)
    fused = torch.cat([problem["delta"], problem["B"], problem["C"]], dim=-1)
    problem["delta"], problem["B"], problem["C"] = fused.split([24, 16, 16], dim=-1)
    assert problem["B"].stride(1) == 56
    assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("layout", ["bld", "bdl"])
def test_y_is_dense_and_innermost_where_u_is(device, layout):
    problem = make_problem(2, 12, 10, full=False, layout=layout, device=device)
    assert mamba_scan.selective_scan(**problem).is_contiguous()
    swapped = problem | {"u": problem["u"].transpose(1, 2).contiguous().transpose(1, 2)}
    y = mamba_scan.selective_scan(**swapped)
    assert y.stride() == swapped["u"].stride()
    torch.testing.assert_close(y, mamba_scan.selective_scan(**problem), rtol=1e-5, atol=1e-5)


def test_strided_big_tensors_are_not_copied(cuda):
    """What a call allocates on the device is its output: enough rows to fill any GPU, so none is cut in time."""
    u = torch.randn(64, 1536, 256, device=cuda).transpose(1, 2)
    problem = make_problem(64, 256, 1536, full=False, device=cuda) | {"u": u, "delta": u.abs() * 0.01}
    mamba_scan.selective_scan(**problem)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = mamba_scan.selective_scan(**problem)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 1.1 * y.nbytes


def test_a_sequence_cut_in_time_allocates_little_more(cuda):
    """Few channels, many steps: the carries between the pieces are a small part of the output."""
    problem = make_problem(1, 65536, 1024, full=False, device=cuda)
    mamba_scan.selective_scan(**problem)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = mamba_scan.selective_scan(**problem)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 1.1 * y.nbytes
