"""Every argument error is a ValueError that names the argument, what it has and what it needs."""

from __future__ import annotations

import mamba_scan
import pytest
import torch
from problems import make_problem


def shaped(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


# u is (2, 33, 24), n = 16, no groups. Each case replaces one argument; the message must match.
CASES = {
    "u not a tensor": ({"u": [1.0]}, "u has type list; needs a torch.Tensor"),
    "u rank": ({"u": shaped(33, 24)}, "u has shape (33, 24); needs 3 axes, (batch, seqlen, dim)"),
    "u dtype": ({"u": shaped(2, 33, 24, dtype=torch.float64)}, "u has dtype float64; needs float32, float16 or"),
    "u integer": ({"u": shaped(2, 33, 24, dtype=torch.int32)}, "u has dtype int32; needs float32, float16 or"),
    "u sparse": ({"u": shaped(2, 33, 24).to_sparse()}, "u has layout torch.sparse_coo; needs a dense"),
    "delta none": ({"delta": None}, "delta has type NoneType; needs a torch.Tensor"),
    "delta shape": (
        {"delta": shaped(2, 33, 23)},
        "delta has shape (2, 33, 23); needs shape (2, 33, 24) = the shape of u",
    ),
    "delta rank": ({"delta": shaped(33, 24)}, "delta has shape (33, 24); needs shape (2, 33, 24)"),
    "delta dtype": (
        {"delta": shaped(2, 33, 24, dtype=torch.half)},
        "delta has dtype float16; needs float32, the dtype",
    ),
    "A rank": ({"A": shaped(24)}, "A has shape (24,); needs shape (dim, dstate)"),
    "A without states": ({"A": shaped(24, 0)}, "A has shape (24, 0); needs shape (dim, dstate) with at least one"),
    "A dim": ({"A": shaped(23, 16)}, "A has shape (23, 16); needs shape (24, 16) = (dim, dstate)"),
    "A complex": ({"A": shaped(24, 16, dtype=torch.complex64)}, "A has dtype complex64; needs a real floating"),
    "A integer": ({"A": shaped(24, 16, dtype=torch.int64)}, "A has dtype int64; needs a real floating"),
    "B rank": ({"B": shaped(16)}, "B has shape (16,); needs (b, l, n), (b, l, g, n) or (d, n)"),
    "B states": ({"B": shaped(2, 33, 15)}, "B has shape (2, 33, 15); needs shape (2, 33, 16)"),
    "B transposed": ({"B": shaped(2, 16, 33)}, "B has shape (2, 16, 33); needs shape (2, 33, 16)"),
    "B batch": ({"B": shaped(1, 33, 16)}, "B has shape (1, 33, 16); needs shape (2, 33, 16)"),
    "B dtype": ({"B": shaped(2, 33, 16, dtype=torch.bfloat16)}, "B has dtype bfloat16; needs float32, the dtype of u"),
    "B constant": ({"B": shaped(16, 24)}, "B has shape (16, 24); needs shape (24, 16) = (dim, dstate), constant"),
    "B constant integer": ({"B": shaped(24, 16, dtype=torch.int8)}, "B has dtype int8; needs a real floating"),
    "B groups": ({"B": shaped(2, 33, 5, 16)}, "B has 5 groups in shape (2, 33, 5, 16); needs a number of groups that"),
    "B zero groups": ({"B": shaped(2, 33, 0, 16)}, "B has 0 groups in shape (2, 33, 0, 16); needs a number"),
    "C states": ({"C": shaped(2, 33, 1)}, "C has shape (2, 33, 1); needs shape (2, 33, 16)"),
    "C rank": ({"C": shaped(2, 33, 1, 1, 16)}, "C has shape (2, 33, 1, 1, 16); needs (b, l, n), (b, l, g, n)"),
    "C groups": ({"B": shaped(2, 33, 2, 16), "C": shaped(2, 33, 3, 16)}, "C has 3 groups; needs 2 groups, as B has"),
    "D shape": ({"D": shaped(1)}, "D has shape (1,); needs shape (24,) = (dim,)"),
    "D rank": ({"D": shaped(24, 1)}, "D has shape (24, 1); needs shape (24,) = (dim,)"),
    "D integer": ({"D": shaped(24, dtype=torch.int32)}, "D has dtype int32; needs a real floating point dtype"),
    "D number": ({"D": 1.0}, "D has type float; needs a torch.Tensor"),
    "z shape": ({"z": shaped(2, 24, 33)}, "z has shape (2, 24, 33); needs shape (2, 33, 24) = the shape of u"),
    "z dtype": ({"z": shaped(2, 33, 24, dtype=torch.half)}, "z has dtype float16; needs float32, the dtype of u"),
    "delta_bias": ({"delta_bias": shaped(25)}, "delta_bias has shape (25,); needs shape (24,) = (dim,)"),
    "initial_state": ({"initial_state": shaped(24, 16)}, "initial_state has shape (24, 16); needs shape (2, 24, 16)"),
    "initial_state dtype": (
        {"initial_state": shaped(2, 24, 16, dtype=torch.complex64)},
        "initial_state has dtype complex64; needs a real floating",
    ),
    "layout": ({"layout": "lbd"}, "layout is 'lbd'; needs 'bld' (batch, seqlen, dim) or 'bdl'"),
    "layout none": ({"layout": None}, "layout is None; needs 'bld'"),
    "layout mismatch": ({"layout": "bdl"}, "A has shape (24, 16); needs shape (33, 16)"),
    "delta_softplus": ({"delta_softplus": "yes"}, "delta_softplus is 'yes'; needs True or False"),
    "return_final_state": ({"return_final_state": "no"}, "return_final_state is 'no'; needs True or False"),
    "meta": ({"delta": torch.empty(2, 33, 24, device="meta")}, "delta has device meta; needs cpu, the device of u"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_names_argument_got_and_needed(case):
    change, message = CASES[case]
    with pytest.raises(ValueError) as caught:
        mamba_scan.selective_scan(**make_problem() | change)
    assert str(caught.value).startswith("selective_scan: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"])
def test_mixed_devices(cuda, name):
    problem = make_problem(device=cuda)
    problem[name] = problem[name].cpu()
    with pytest.raises(ValueError, match=f"{name} has device cpu; needs cuda:0, the device of u"):
        mamba_scan.selective_scan(**problem)


def test_only_the_arguments_of_this_version_exist():
    with pytest.raises(TypeError, match="reverse"):
        mamba_scan.selective_scan(**make_problem(), reverse=True)


@pytest.mark.parametrize("case", [name for name in CASES if "layout" not in name and "return" not in name])
def test_the_operator_itself_refuses_too(case):
    """Memory safety does not rest on the Python layer."""
    problem = make_problem() | CASES[case][0]
    order = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state", "delta_softplus")
    # Not every error of the schema is a RuntimeError, but none may get through.
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        torch.ops.mamba_scan.selective_scan_forward(*(problem[name] for name in order), False, False)


@pytest.mark.parametrize("weight", ["A", "D", "delta_bias", "initial_state"])
def test_the_operator_takes_weights_in_float32_only(weight):
    problem = make_problem()
    problem[weight] = problem[weight].half()
    order = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state", "delta_softplus")
    with pytest.raises(RuntimeError, match=f"selective_scan: {weight} has another dtype, needs float32"):
        torch.ops.mamba_scan.selective_scan_forward(*(problem[name] for name in order), False, False)


def test_many_refused_calls_leave_no_memory_behind():
    """Inputs that the operator has taken over are given back when it refuses."""
    u = torch.zeros(1, 256, 1024)
    references = [torch.zeros_like(u) for _ in range(3)]
    before = [tensor._use_count() for tensor in references] if hasattr(u, "_use_count") else None
    for _ in range(50):
        with pytest.raises(RuntimeError):
            torch.ops.mamba_scan.selective_scan_forward(
                *references, u, u, None, references[0], None, None, False, False, False
            )
    if before is not None:
        assert [tensor._use_count() for tensor in references] == before
