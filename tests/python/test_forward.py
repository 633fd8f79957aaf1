"""The result of selective_scan against the float64 recurrence."""

from __future__ import annotations

import mamba_scan
import pytest
import torch
from problems import assert_matches_reference, make_problem

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = ["bld", "bdl"]


def scan(problem):
    return mamba_scan.selective_scan(**problem, return_final_state=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["plain", "every_option"])
def test_matches_float64(device, dtype, layout, full):
    problem = make_problem(seqlen=130, dim=70, dtype=dtype, layout=layout, full=full, device=device)
    assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seqlen", [1, 2, 31, 64, 257])
@pytest.mark.parametrize(("batch", "dim"), [(1, 1), (3, 7), (1, 129)])
def test_odd_sizes(device, batch, seqlen, dim, layout):
    problem = make_problem(batch, seqlen, dim, layout=layout, device=device)
    assert_matches_reference(problem, *scan(problem))


# Few and short sequences, which have a kernel of their own where their rows are aligned; 77 and 50 leave them unaligned
# in one layout and in 16 bits.
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "seqlen", "dim", "dstate"),
    [(1, 1024, 256, 16), (1, 304, 96, 16), (2, 77, 50, 16), (1, 200, 24, 4), (3, 65, 8, 32), (1, 1024, 1000, 64)],
)
def test_few_and_short_sequences(device, batch, seqlen, dim, dstate, dtype, layout):
    problem = make_problem(batch, seqlen, dim, dstate, dtype=dtype, layout=layout, device=device)
    assert_matches_reference(problem, *scan(problem))


# About as many rows of channels as a large GPU has schedulers, which are scanned by warps that others serve there; on a
# CPU a 32nd of them. Lengths end inside tiles, and the last shape's rows are not aligned.
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["softplus", "every_option"])
@pytest.mark.parametrize(
    ("batch", "seqlen", "dim", "dstate"), [(8, 333, 2048, 8), (8, 257, 2048, 4), (4, 201, 2048, 16), (8, 130, 2015, 7)]
)
def test_as_many_rows_as_schedulers(device, batch, seqlen, dim, dstate, dtype, layout, full):
    dim = dim if torch.device(device).type == "cuda" else dim // 32
    problem = make_problem(batch, seqlen, dim, dstate, dtype=dtype, layout=layout, device=device)
    if not full:
        for name in ("D", "z", "delta_bias", "initial_state"):
            del problem[name]
    assert_matches_reference(problem, *scan(problem))


# Prompts and images as they are, of no particular length: rows of 16 bits that begin anywhere, of which a large GPU has
# few, about as many as schedulers, more, and few long ones; on a CPU a 32nd of them.
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reverse"])
@pytest.mark.parametrize(
    ("batch", "seqlen", "dim", "dstate"),
    [(1, 251, 2048, 16), (2, 203, 2048, 16), (16, 197, 3072, 16), (1, 4001, 2048, 31)],
)
def test_any_length(device, batch, seqlen, dim, dstate, layout, reverse):
    dim = dim if torch.device(device).type == "cuda" else dim // 32
    problem = make_problem(
        batch, seqlen, dim, dstate, dtype=torch.bfloat16, layout=layout, reverse=reverse, device=device
    )
    assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("dstate", [1, 2, 3, 8, 15, 16, 17, 31, 64, 100, 128, 255, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_number_of_states(device, dstate, dtype):
    problem = make_problem(1, 21, 18, dstate, dtype=dtype, device=device)
    assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2, 3, 24])
def test_groups(device, groups, layout):
    problem = make_problem(groups=groups, layout=layout, device=device)
    assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("constant", ["B", "C", "BC"])
@pytest.mark.parametrize("groups", [None, 2])
def test_projections_constant_in_time(device, constant, groups, layout):
    problem = make_problem(groups=groups, constant=constant, layout=layout, dtype=torch.float16, device=device)
    assert_matches_reference(problem, *scan(problem))


def test_one_projection_without_groups_serves_every_group(device):
    problem = make_problem(groups=3, device=device)
    problem["C"] = problem["C"][:, :, 0]
    assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("option", ["D", "z", "delta_bias", "delta_softplus", "initial_state"])
def test_each_option_alone(device, option):
    everything = make_problem(device=device)
    everything["delta_bias"] = everything["delta_bias"].abs()  # without softplus a negative step would explode
    problem = make_problem(full=False, device=device) | {option: everything[option]}
    assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("weight_dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_any_floating_dtype(device, weight_dtype):
    problem = make_problem(constant="C", dtype=torch.bfloat16, device=device)
    for name in ("A", "C", "D", "delta_bias", "initial_state"):
        problem[name] = problem[name].to(weight_dtype)
    # Computed in float32: what float64 weights have beyond it is not used.
    rounded = {
        k: v.float() if isinstance(v, torch.Tensor) and k not in "u delta B z" else v for k, v in problem.items()
    }
    assert_matches_reference(rounded, *scan(problem))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("batch", "seqlen", "dim"), [(0, 5, 4), (2, 0, 4), (2, 5, 0), (0, 0, 0)])
def test_empty_sizes(device, batch, seqlen, dim, layout):
    problem = make_problem(batch, seqlen, dim, layout=layout, device=device)
    y, state = scan(problem)
    assert y.shape == problem["u"].shape
    torch.testing.assert_close(state, problem["initial_state"], rtol=0, atol=0)
    del problem["initial_state"]
    assert not scan(problem)[1].any()


def test_the_state_carries_a_sequence_on(device):
    problem = make_problem(seqlen=50, device=device)
    whole, final = scan(problem)
    timed = {"u", "delta", "B", "C", "z"}
    first = {k: v[:, :17] if k in timed else v for k, v in problem.items()}
    y1, middle = scan(first)
    second = {k: v[:, 17:] if k in timed else v for k, v in problem.items()} | {"initial_state": middle}
    y2, last = scan(second)
    torch.testing.assert_close(torch.cat([y1, y2], 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, final, rtol=1e-5, atol=1e-5)


def test_inputs_stay_as_they_were(device):
    problem = make_problem(device=device)
    copies = {k: v.clone() for k, v in problem.items() if isinstance(v, torch.Tensor)}
    scan(problem)
    for name, copy in copies.items():
        assert torch.equal(problem[name], copy), name


def test_same_call_gives_the_same_bits(device):
    problem = make_problem(4, 300, 64, device=device)
    first = scan(problem)
    for _ in range(3):
        again = scan(problem)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])


def test_every_element_of_the_outputs_is_written(device):
    """The outputs reuse memory that held NaN just before."""
    problem = make_problem(2, 37, 24, full=False, device=device)
    for _ in range(5):
        poison = [torch.full_like(problem["u"], float("nan")) for _ in range(3)]
        poison += [torch.full((2, 24, 16), float("nan"), device=device) for _ in range(3)]
        del poison
        y, state = scan(problem)
        assert not y.isnan().any()
        assert not state.isnan().any()


def test_returns_only_y_unless_the_state_is_asked_for(device):
    problem = make_problem(device=device)
    assert torch.equal(mamba_scan.selective_scan(**problem), scan(problem)[0])


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gate_and_softplus_of_every_value(device, dtype, layout):
    """Of all values up to 1e4, in a scan that fills a GPU: y is silu(z) or softplus(delta), each by itself."""
    batch, seqlen, dim, dstate = 44, 32, 1536, 16
    values = torch.arange(65536, device=device).to(torch.int16).view(dtype)
    values = torch.where((values.abs() < 1e4) | values.isnan(), values, 0)
    shape = (batch, seqlen, dim) if layout == "bld" else (batch, dim, seqlen)
    sequence = values.repeat(batch * seqlen * dim // 65536 + 1)[: batch * seqlen * dim].view(shape)
    ones, zeros = torch.ones_like(sequence), torch.zeros_like(sequence)
    projection = torch.ones(batch, seqlen, dstate, device=device, dtype=dtype) / dstate
    projection = projection if layout == "bld" else projection.transpose(1, 2).contiguous()
    common = {"A": torch.full((dim, dstate), -1e30, device=device), "layout": layout}
    y = mamba_scan.selective_scan(
        ones, zeros, B=projection, C=projection, D=torch.ones(dim, device=device), z=sequence, **common
    )
    close = {"rtol": torch.finfo(dtype).eps, "atol": 1e-7, "equal_nan": True}
    torch.testing.assert_close(y.double(), torch.nn.functional.silu(sequence.double()), **close)
    delta = sequence.nan_to_num().clamp(min=-20)  # far below, a step of zero leaves the state as it is
    y = mamba_scan.selective_scan(ones, delta, B=projection * dstate, C=projection, delta_softplus=True, **common)
    torch.testing.assert_close(y.double(), torch.nn.functional.softplus(delta.double()), **close)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_stays_in_its_channel(device, bad):
    problem = make_problem(full=False, device=device)
    clean, _ = scan(problem)
    problem["u"][0, 5, 3] = bad
    y, _ = scan(problem)
    spoilt = torch.zeros_like(y, dtype=torch.bool)
    spoilt[0, 5:, 3] = True
    assert not y[spoilt].isfinite().any()
    assert torch.equal(y[~spoilt], clean[~spoilt])
