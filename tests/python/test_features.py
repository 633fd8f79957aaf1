"""Scans from the end, packed sequences, complex states and cut-invariant scans against the float64 recurrence."""

from __future__ import annotations

import itertools
import random

import mamba_scan
import pytest
import torch
from problems import assert_matches_reference, make_problem

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = ["bld", "bdl"]
STEPS = 2048  # cuts at multiples of this change no bit


def scan(problem, **changes):
    return mamba_scan.selective_scan(**problem | changes, return_final_state=True)


def seq_axis(problem):
    return 1 if problem["layout"] == "bld" else 2


def steps(problem, begin, end):
    """The steps from begin to end as a problem of their own (of a real scan)."""
    cut = {name: problem[name].narrow(seq_axis(problem), begin, end - begin) for name in ("u", "delta", "z")}
    for name in "BC":
        tensor = problem[name]
        if tensor.ndim > 2:
            cut[name] = tensor.narrow(1 if problem["layout"] == "bld" else -1, begin, end - begin)
    return problem | cut


# ---- every combination


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["plain", "every_option"])
@pytest.mark.parametrize(
    "features",
    [c for n in (1, 2, 3) for c in itertools.combinations(("reverse", "packed", "complex"), n)],
    ids="_".join,
)
def test_matches_float64(device, features, full, dtype, layout):
    packed = "packed" in features
    for seqlen, dim, dstate in ((1, 1, 1), (67, 13, 3), (130, 33, 16)):
        problem = make_problem(
            1 if packed else 2,
            seqlen,
            dim,
            dstate,
            dtype=dtype,
            layout=layout,
            full=full,
            reverse="reverse" in features,
            sequences=5 if packed else None,
            is_complex="complex" in features,
            seed=random.randrange(1000),
            device=device,
        )
        assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [None, 2, 3])
@pytest.mark.parametrize("constant", ["", "B", "C", "BC"])
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_groups_and_constant_projections(device, is_complex, constant, groups, layout):
    for dtype in (torch.float32, torch.bfloat16):
        problem = make_problem(
            1, 45, dtype=dtype, groups=groups, constant=constant, layout=layout, is_complex=is_complex, device=device
        )
        problem |= {"reverse": True, "cu_seqlens": torch.tensor([0, 11, 45], dtype=torch.int32, device=device)}
        problem["initial_state"] = problem["initial_state"].repeat(2, 1, 1)
        assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dstate", [1, 2, 3, 15, 16, 17, 64, 255, 256])
def test_every_number_of_complex_states(device, dstate, layout):
    problem = make_problem(1, 21, 18, dstate, layout=layout, is_complex=True, device=device)
    assert_matches_reference(problem, *scan(problem))


# ---- reverse


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reverse_is_a_scan_of_flipped_tensors(device, layout):
    problem = make_problem(seqlen=100, layout=layout, device=device)
    axis = seq_axis(problem)
    flipped = problem | {name: problem[name].flip(axis) for name in ("u", "delta", "z", "B", "C")}
    y, state = scan(problem, reverse=True)
    expected_y, expected_state = scan(flipped)
    torch.testing.assert_close(y, expected_y.flip(axis), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, expected_state, rtol=1e-5, atol=1e-5)


# ---- packed sequences


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reverse", [False, True])
def test_each_sequence_is_scanned_on_its_own(device, reverse, layout):
    problem = make_problem(1, 200, sequences=6, layout=layout, reverse=reverse, device=device)
    y, state = scan(problem)
    bounds = problem["cu_seqlens"].tolist()
    single = {name: value for name, value in problem.items() if name != "cu_seqlens"}
    for i, (begin, end) in enumerate(itertools.pairwise(bounds)):
        initial = problem["initial_state"][i : i + 1]
        expected_y, expected_state = scan(steps(single, begin, end) | {"initial_state": initial})
        torch.testing.assert_close(y.narrow(seq_axis(problem), begin, end - begin), expected_y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state[i : i + 1], expected_state, rtol=1e-5, atol=1e-5)


def test_empty_sequences_hand_their_state_on(device):
    problem = make_problem(1, 4, device=device)
    cu_seqlens = torch.tensor([0, 0, 4, 4, 4], dtype=torch.int32, device=device)
    problem |= {"cu_seqlens": cu_seqlens, "initial_state": torch.randn(4, 24, 16, device=device)}
    _, state = scan(problem)
    assert torch.equal(state[[0, 2, 3]], problem["initial_state"][[0, 2, 3]])
    del problem["initial_state"]
    _, state = scan(problem)
    assert not state[[0, 2, 3]].any()
    assert state[1].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_packed_row_without_steps(device, layout):
    problem = make_problem(1, 0, layout=layout, device=device)
    problem |= {"cu_seqlens": torch.zeros(3, dtype=torch.int32, device=device)}
    problem["initial_state"] = torch.randn(2, 24, 16, device=device)
    y, state = scan(problem)
    assert y.numel() == 0
    assert torch.equal(state, problem["initial_state"])


def test_thousands_of_short_sequences(device):
    lengths = torch.tensor([i % 4 for i in range(3000)])
    cu_seqlens = torch.cat([torch.zeros(1), lengths.cumsum(0)]).to(torch.int32)
    problem = make_problem(1, int(cu_seqlens[-1]), 20, 5, device=device)
    problem |= {"cu_seqlens": cu_seqlens.to(device), "initial_state": torch.randn(3000, 20, 5, device=device)}
    assert_matches_reference(problem, *scan(problem))


def test_cu_seqlens_may_be_a_strided_view(device):
    problem = make_problem(1, 60, sequences=4, device=device)
    expected = scan(problem)
    spread = torch.full((2 * 5,), -1, dtype=torch.int32, device=device)
    spread[::2] = problem["cu_seqlens"]
    y, state = scan(problem, cu_seqlens=spread[::2])
    assert torch.equal(y, expected[0])
    assert torch.equal(state, expected[1])


# ---- complex


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [None, 2])
def test_pairs_and_complex_tensors_give_the_same(device, groups, layout):
    problem = make_problem(groups=groups, layout=layout, is_complex=True, device=device)
    expected_y, expected_state = scan(problem)
    pairs = {name: torch.view_as_real(problem[name]).flatten(-2) for name in "BC"}
    y, state = scan(problem, **pairs)
    assert torch.equal(y, expected_y)
    assert torch.equal(state, expected_state)
    assert_matches_reference(problem, y, state)


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex32], ids=str)
def test_complex_weights_of_any_dtype(device, dtype):
    problem = make_problem(is_complex=True, constant="BC", device=device)
    for name in ("A", "B", "C", "initial_state"):
        problem[name] = problem[name].to(dtype)
    rounded = {
        k: v.to(torch.complex64) if isinstance(v, torch.Tensor) and v.is_complex() else v for k, v in problem.items()
    }
    assert_matches_reference(rounded, *scan(problem))


def test_conjugated_views(device):
    problem = make_problem(is_complex=True, device=device)
    views = {name: problem[name].conj() for name in ("A", "B", "C", "initial_state")}
    y, state = scan(problem, **views)
    # Everything conjugated: the same real part.
    expected_y, expected_state = scan(problem)
    torch.testing.assert_close(y, expected_y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, expected_state.conj().resolve_conj(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("imaginary", [10.0, 1e3, 1e5])
def test_decay_rates_of_many_turns_per_step(device, imaginary):
    """Without softplus and bias the step is exact, so the phase dt * Im(A) must be too."""
    problem = make_problem(1, 1, 50, 8, full=False, is_complex=True, device=device)
    problem["A"] = torch.complex(problem["A"].real, imaginary * problem["A"].imag)
    problem["delta"] = torch.rand_like(problem["delta"])
    problem["u"] = torch.zeros_like(problem["u"])
    problem["initial_state"] = torch.randn(1, 50, 8, dtype=torch.complex64, device=device)
    _, state = scan(problem)
    exact = (problem["delta"][0, 0, :, None].double() * problem["A"].to(torch.complex128)).exp()
    exact = exact * problem["initial_state"]
    assert ((state - exact).abs() / exact.abs()).max() < 2e-6


# ---- sizes


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("dstate", [257, 600])
def test_more_than_256_states(device, dstate, is_complex):
    problem = make_problem(1, 9, 10, dstate, is_complex=is_complex, device=device)
    assert_matches_reference(problem, *scan(problem))


@pytest.mark.parametrize(("batch", "dim"), [(65537, 2), (1, 65537), (1, 131073)])
def test_dim_and_batch_beyond_65535(device, batch, dim):
    problem = make_problem(batch, 3, dim, 2, device=device)
    assert_matches_reference(problem, *scan(problem))


# ---- bitwise invariance


def in_pieces(problem, cuts):
    """The scan cut into calls at `cuts`, the state handed on in the order of scanning."""
    seqlen = problem["u"].shape[seq_axis(problem)]
    pieces = list(itertools.pairwise([0, *sorted(cuts), seqlen]))
    if problem.get("reverse"):
        pieces.reverse()
    state, results = problem.get("initial_state"), []
    for begin, end in pieces:
        y, state = scan(steps(problem, begin, end) | {"initial_state": state})
        results.append(y)
    if problem.get("reverse"):
        results.reverse()
    return torch.cat(results, seq_axis(problem)), state


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(1, 5 * STEPS + 77, 33, 16), (2, 4 * STEPS, 256, 4), (1, 9 * STEPS + 1, 8, 17)], ids=str
)
def test_cuts_at_multiples_of_2048_steps_change_no_bit(device, shape, layout, reverse):
    batch, seqlen, dim, dstate = shape
    seed = random.randrange(10**6)
    problem = make_problem(batch, seqlen, dim, dstate, layout=layout, dtype=torch.float16, seed=seed, device=device)
    problem |= {"chunk_invariant": True, "reverse": reverse}
    whole = scan(problem)
    generator = random.Random(seed)
    for _ in range(4):
        blocks = range(1, seqlen // STEPS + 1)
        cuts = [STEPS * i for i in generator.sample(blocks, generator.randint(1, len(blocks)))]
        if reverse:  # counted in the order of scanning
            cuts = [seqlen - cut for cut in cuts]
        y, state = in_pieces(problem, cuts)
        assert torch.equal(y, whole[0]), (seed, cuts)
        assert torch.equal(state, whole[1]), (seed, cuts)


@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_on_the_cpu_no_cut_changes_a_bit(reverse, is_complex):
    seed = random.randrange(10**6)
    problem = make_problem(2, 400, 21, 7, seed=seed, is_complex=is_complex) | {"reverse": reverse}
    whole = scan(problem)
    generator = random.Random(seed)
    for _ in range(10):
        cuts = [generator.randint(0, 400) for _ in range(generator.randint(1, 6))]
        y, state = in_pieces(problem, cuts)
        assert torch.equal(y, whole[0]), (seed, cuts)
        assert torch.equal(state, whole[1]), (seed, cuts)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_packing_changes_no_bit_of_an_invariant_scan(device, reverse):
    """A sequence packed with others gives what it gives packed alone, and on a CPU what it gives as it is."""
    seqlen = 4 * STEPS
    problem = make_problem(1, seqlen, 24, 16, device=device) | {"chunk_invariant": True, "reverse": reverse}
    bounds = [0, 700, 700 + STEPS + 5, seqlen]
    initial = torch.randn(3, 24, 16, device=device)
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32, device=device)
    y, state = scan(problem, cu_seqlens=cu_seqlens, initial_state=initial)
    for i, (begin, end) in enumerate(itertools.pairwise(bounds)):
        alone = torch.tensor([0, end - begin], dtype=torch.int32, device=device) if device == "cuda" else None
        expected_y, expected_state = scan(
            steps(problem, begin, end) | {"initial_state": initial[i : i + 1], "cu_seqlens": alone}
        )
        assert torch.equal(y[:, begin:end], expected_y)
        assert torch.equal(state[i : i + 1], expected_state)
