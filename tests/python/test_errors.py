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
    "u nested": ({"u": torch.nested.nested_tensor([shaped(33, 24)] * 2)}, "u has nested tensors; needs a dense"),
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
    "A pairs": ({"A": shaped(24, 16, 2)}, "A has shape (24, 16, 2); needs shape (dim, dstate)"),
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
    "reverse": ({"reverse": "yes"}, "reverse is 'yes'; needs True or False"),
    "reverse as a number": ({"reverse": 1}, "reverse is 1; needs True or False"),
    "chunk_invariant": ({"chunk_invariant": "no"}, "chunk_invariant is 'no'; needs True or False"),
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


def packed(*values):
    """One row of 33 steps with these cu_seqlens."""
    return make_problem(1) | {"cu_seqlens": torch.tensor(values, dtype=torch.int32), "initial_state": None}


PACKED_CASES = {
    "batch": ({"u": shaped(2, 33, 24), "delta": shaped(2, 33, 24)}, "B has shape (1, 33, 16); needs shape (2, 33"),
    "list": ({"cu_seqlens": [0, 33]}, "cu_seqlens has type list; needs a torch.Tensor"),
    "dtype": ({"cu_seqlens": torch.tensor([0, 33])}, "cu_seqlens has dtype int64; needs int32"),
    "rank": ({"cu_seqlens": shaped(2, 2, dtype=torch.int32)}, "cu_seqlens has shape (2, 2); needs shape (sequences"),
    "one": ({"cu_seqlens": shaped(1, dtype=torch.int32)}, "cu_seqlens has shape (1,); needs shape (sequences + 1,)"),
    "states": ({"initial_state": shaped(1, 24, 16)}, "initial_state has shape (1, 24, 16); needs shape (2, 24, 16)"),
    "first": (packed(1, 10, 33), "cu_seqlens has first element 1; needs 0"),
    "decreasing": (packed(0, 20, 10, 33), "cu_seqlens has element 10 after 20 at 2; needs elements that do not"),
    "negative": (packed(0, -1, 33), "cu_seqlens has element -1 after 0 at 1; needs elements that do not decrease"),
    "short": (packed(0, 10, 32), "cu_seqlens has last element 32; needs 33 = seqlen"),
    "long": (packed(0, 10, 34), "cu_seqlens has last element 34; needs 33 = seqlen"),
}


@pytest.mark.parametrize("values", [(0, 5), (3, 3), (0, 5, 0)])
def test_the_values_of_cu_seqlens_are_checked_without_a_step_too(values):
    problem = {name: x[:, :0] if name in ("u", "delta", "B", "C", "z") else x for name, x in packed(*values).items()}
    with pytest.raises(ValueError, match="cu_seqlens has "):
        mamba_scan.selective_scan(**problem)


@pytest.mark.parametrize("case", PACKED_CASES)
@pytest.mark.parametrize("ready", [True, False])
def test_the_message_about_packed_sequences(case, ready):
    change, message = PACKED_CASES[case]
    problem = packed(0, 10, 33) | change
    if not ready:
        problem["A"] = problem["A"].half()  # converted before the operator is called
    with pytest.raises(ValueError) as caught:
        mamba_scan.selective_scan(**problem)
    assert str(caught.value).startswith("selective_scan: ")
    assert message in str(caught.value)
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        call_operator(problem)


def test_cu_seqlens_on_another_device(cuda):
    problem = make_problem(1, sequences=3, device=cuda)
    problem["cu_seqlens"] = problem["cu_seqlens"].cpu()
    with pytest.raises(ValueError, match="cu_seqlens has device cpu; needs cuda:0, the device of u"):
        mamba_scan.selective_scan(**problem)


def test_packed_sequences_need_batch_1():
    problem = make_problem(2) | {"cu_seqlens": torch.tensor([0, 33], dtype=torch.int32)}
    with pytest.raises(ValueError, match="u has batch 2; needs batch 1 with cu_seqlens"):
        mamba_scan.selective_scan(**problem)
    with pytest.raises(RuntimeError, match="u has batch 2, needs 1 with cu_seqlens"):
        call_operator(problem)


def complex_problem(**change):
    problem = make_problem() | {name: shaped(24, 16, dtype=torch.complex64) for name in "ABC"}
    return problem | {"initial_state": shaped(2, 24, 16, dtype=torch.complex64)} | change


COMPLEX_CASES = {
    "B constant real": ({"B": shaped(24, 16)}, "B has dtype float32; needs a complex dtype, because A is complex"),
    "B varying real": (
        {"B": shaped(2, 33, 16)},
        "B has shape (2, 33, 16); needs shape (2, 33, 32) = (batch, seqlen, 2",
    ),
    "B dtype": (
        {"B": shaped(2, 33, 16, dtype=torch.complex128)},
        "B has dtype complex128; needs complex64, or pairs (re, im) of float32, the dtype of u, along the last axis",
    ),
    "C pairs": (
        {"C": shaped(2, 33, 2, 31)},
        "C has shape (2, 33, 2, 31); needs shape (2, 33, 2, 32) = (batch, seqlen,",
    ),
    "C complex": (
        {"C": shaped(2, 33, 32, dtype=torch.complex64)},
        "C has shape (2, 33, 32); needs shape (2, 33, 16) = (batch, seqlen, dstate)",
    ),
    "state": ({"initial_state": shaped(2, 24, 16)}, "initial_state has dtype float32; needs a complex dtype, because"),
    "D": ({"D": shaped(24, dtype=torch.complex64)}, "D has dtype complex64; needs a real floating point dtype"),
    "A real": ({"A": shaped(24, 16)}, "B has dtype complex64; needs a real floating point dtype"),
}


@pytest.mark.parametrize("case", COMPLEX_CASES)
def test_the_message_about_complex_arguments(case):
    change, message = COMPLEX_CASES[case]
    with pytest.raises(ValueError) as caught:
        mamba_scan.selective_scan(**complex_problem(**change))
    assert str(caught.value).startswith("selective_scan: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"A": shaped(24, 16, 3)},
        {"B": shaped(24, 16)},
        {"B": shaped(24, 16, 1)},
        {"C": shaped(2, 33, 2, 16, 2, 1)},
        {"initial_state": shaped(2, 24, 16)},
        {"initial_state": shaped(2, 24, 16, 1)},
        {"initial_state": shaped(2, 24, 2)},
    ],
    ids=lambda change: str([(name, tuple(value.shape)) for name, value in change.items()]),
)
def test_the_operator_refuses_what_are_no_pairs(change):
    problem = make_problem() | {name: shaped(24, 16, 2) for name in "ABC"} | {"initial_state": shaped(2, 24, 16, 2)}
    call_operator(problem)
    with pytest.raises(RuntimeError, match=f"selective_scan: {next(iter(change))} has shape"):
        call_operator(problem | change)


# Arguments that the operator does not have, or not in this form.
PYTHON_ONLY = ("layout", "return", "reverse", "chunk", "A pairs")


def call_operator(problem):
    tensors = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state", "cu_seqlens")
    values = [problem.get(name) for name in tensors]
    torch.ops.mamba_scan.selective_scan_forward(*values, problem["delta_softplus"], False, False, False, False)


@pytest.mark.parametrize("case", [name for name in CASES if not name.startswith(PYTHON_ONLY)])
def test_the_operator_itself_refuses_too(case):
    """Memory safety does not rest on the Python layer."""
    problem = make_problem() | CASES[case][0]
    # Not every error of the schema is a RuntimeError, but none may get through.
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        call_operator(problem)


@pytest.mark.parametrize("weight", ["A", "D", "delta_bias", "initial_state"])
def test_the_operator_takes_weights_in_float32_only(weight):
    problem = make_problem()
    problem[weight] = problem[weight].half()
    with pytest.raises(RuntimeError, match=f"selective_scan: {weight} has another dtype, needs float32"):
        call_operator(problem)


def test_many_refused_calls_leave_no_memory_behind():
    """Inputs that the operator has taken over are given back when it refuses."""
    u = torch.zeros(1, 256, 1024)
    references = [torch.zeros_like(u) for _ in range(3)]
    before = [tensor._use_count() for tensor in references] if hasattr(u, "_use_count") else None
    for _ in range(50):
        with pytest.raises(RuntimeError):
            torch.ops.mamba_scan.selective_scan_forward(
                *references, u, u, None, references[0], None, None, None, False, False, False, False, False
            )
    if before is not None:
        assert [tensor._use_count() for tensor in references] == before
