"""Views of any kind give what contiguous copies give, and nothing outside a view is touched."""

from __future__ import annotations

import mamba_scan
import pytest
import torch
from problems import assert_matches_reference, make_problem
from torch.utils._python_dispatch import TorchDispatchMode

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


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dstate", [1, 4, 16])
@pytest.mark.parametrize("seqlen", [3, 49, 50, 52, 56, 131])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_short_rows_side_by_side(device, dtype, seqlen, dstate, reverse):
    """Vision models' rows, of which each begins where the one before it ends: tensors that begin anywhere, too."""
    problem = make_problem(3, seqlen, 140, dstate, groups=2, dtype=dtype, layout="bdl", device=device)
    problem["reverse"] = reverse
    assert_matches_reference(problem, *scan(problem))
    for name, shift in (("u", 1), ("delta", 2), ("z", 5)):
        tensor = problem[name]
        larger = torch.full([tensor.numel() + shift], float("nan"), dtype=dtype, device=tensor.device)
        problem[name] = larger[shift:].view(tensor.shape).copy_(tensor)
    assert_matches_reference(problem, *scan(problem))


class NoCopies(TorchDispatchMode):
    """Notes what reaches the operator, and fails when anything but its outputs is written to memory of its own."""

    def __init__(self, *tensors):
        super().__init__()
        self.storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self.operands = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.mamba_scan.selective_scan_forward.default:
            self.operands = args
            self.storages |= {output.untyped_storage().data_ptr() for output in result}
            return result
        is_view = result.untyped_storage().data_ptr() in self.storages
        assert is_view, f"{function} copied"
        return result


def fused_projections(kind, batch, seqlen, dim, dstate, dtype, device):
    """u, delta, B, C, z as models pass them: views of what one matrix product wrote; and the layout."""

    def product(*shape):
        return torch.randn(shape, device=device).to(dtype)

    if kind == "bld":
        u, z = product(batch, seqlen, 2 * dim).chunk(2, dim=-1)
        delta, B, C = product(batch, seqlen, dim + 2 * dstate).split([dim, dstate, dstate], dim=-1)
        return {"u": u, "delta": delta, "B": B, "C": C, "z": z, "layout": "bld"}
    delta = product(batch, dim, seqlen)
    if kind == "transformers":  # u and z are halves of a transposed product, B and C of a product per step
        u, z = product(batch, seqlen, 2 * dim).transpose(1, 2).chunk(2, dim=1)
        _, B, C = product(batch, seqlen, 7 + 2 * dstate).split([7, dstate, dstate], dim=-1)
        B, C = B.transpose(1, 2), C.transpose(1, 2)
    else:  # mamba_ssm: (channels, batch * seqlen) products
        u, z = product(2 * dim, batch, seqlen).transpose(0, 1).chunk(2, dim=1)
        delta = product(dim, batch, seqlen).transpose(0, 1)
        _, B, C = product(batch, seqlen, 7 + 2 * dstate).split([7, dstate, dstate], dim=-1)
        B, C = (part.transpose(1, 2).unsqueeze(1) for part in (B, C))
    return {"u": u, "delta": delta, "B": B, "C": C, "z": z, "layout": "bdl"}


@pytest.mark.parametrize("kind", ["bld", "transformers", "mamba_ssm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_views_of_fused_projections_reach_the_operator_without_a_copy(device, kind, dtype, reverse):
    problem = make_problem(2, 35, 21, 5, device=device) | fused_projections(kind, 2, 35, 21, 5, dtype, device)
    problem["reverse"] = reverse
    views = [problem[name] for name in SEQUENCES]
    assert not any(view.is_contiguous() for view in views if view is not problem["delta"])
    with NoCopies(*(value for value in problem.values() if isinstance(value, torch.Tensor))) as mode:
        results = scan(problem)
    u, delta, _, B, C, _, z, *_ = mode.operands
    reached = (u, delta, B, C, z)
    assert [t.data_ptr() for t in reached] == [t.data_ptr() for t in views]
    assert [t.stride() for t in reached] == [t.stride() for t in views]
    assert_matches_reference(problem, *results)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("pairs", [False, True])
def test_complex_operands_reach_the_operator_without_a_copy(device, pairs, layout):
    problem = make_problem(2, 12, 10, 6, layout=layout, is_complex=True, pairs=pairs, device=device)
    for name in "BC":
        problem[name] = torch.cat([problem[name]] * 2, dim=-1).chunk(2, dim=-1)[1]
    with NoCopies(*(value for value in problem.values() if isinstance(value, torch.Tensor))) as mode:
        results = scan(problem)
    assert mode.operands[3].data_ptr() == problem["B"].data_ptr()
    assert_matches_reference(problem, *results)


@pytest.mark.parametrize("kind", ["bld", "transformers", "mamba_ssm"])
def test_views_of_fused_projections_take_no_memory(cuda, kind):
    problem = fused_projections(kind, 64, 1024, 1536, 16, torch.float16, cuda)
    problem |= {"A": -torch.rand(1536, 16, device=cuda), "delta_softplus": True}
    mamba_scan.selective_scan(**problem)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = mamba_scan.selective_scan(**problem)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 1.1 * y.nbytes


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
