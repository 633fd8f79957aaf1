"""StreamingScan gives what one shot gives, wherever the sequence is cut, and goes on in another process."""

from __future__ import annotations

import io
import itertools

import mamba_scan
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mamba_scan.streaming import fingerprint
from problems import assert_matches_reference, make_problem

PARAMETERS = ("D", "delta_bias", "delta_softplus", "layout")


def make_stream(problem, **changes):
    options = {name: problem[name] for name in PARAMETERS if name in problem} | changes
    return mamba_scan.StreamingScan(problem["A"], options.pop("D", None), **options)


def step(stream, problem, begin, end):
    """Scan steps begin to end."""

    def cut(name):
        tensor = problem.get(name)
        if tensor is None or tensor.ndim == 2:
            return tensor
        return tensor[:, begin:end] if problem["layout"] == "bld" else tensor[..., begin:end]

    return stream.step(cut("u"), cut("delta"), cut("B"), cut("C"), cut("z"))


def run(problem, cuts):
    seqlen = problem["u"].shape[1 if problem["layout"] == "bld" else 2]
    bounds = [0, *sorted(cuts), seqlen]
    stream = make_stream(problem)
    pieces = [step(stream, problem, begin, end) for begin, end in itertools.pairwise(bounds)]
    return torch.cat(pieces, 1 if problem["layout"] == "bld" else 2), stream


def without_state(**kwargs):
    problem = make_problem(**kwargs)
    problem.pop("initial_state", None)
    return problem


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 301), max_size=8),
    layout=st.sampled_from(["bld", "bdl"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    shape=st.sampled_from([(1, 5, 16), (2, 33, 3), (1, 64, 16)]),
)
def test_cpu_results_do_not_depend_on_the_cuts(cuts, layout, dtype, shape):
    batch, dim, dstate = shape
    problem = without_state(batch=batch, seqlen=301, dim=dim, dstate=dstate, layout=layout, dtype=dtype)
    whole, stream = run(problem, [])
    y, cut_stream = run(problem, cuts)
    assert torch.equal(y, whole)
    assert torch.equal(cut_stream.state, stream.state)
    assert cut_stream.position == 301


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("cuts", [[], [1], [150], [0, 64, 64, 128, 300], list(range(0, 301, 7))], ids=len)
def test_matches_float64(device, cuts, layout):
    problem = without_state(seqlen=301, layout=layout, device=device)
    y, stream = run(problem, cuts)
    assert_matches_reference(problem, y, stream.state)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
def test_cuts_at_multiples_of_2048_steps_change_no_bit(device, layout):
    problem = without_state(batch=1, seqlen=5 * 2048 + 9, dim=40, layout=layout, dtype=torch.bfloat16, device=device)
    whole, stream = run(problem, [])
    for cuts in ([2048], [2048, 4096, 4096], [3 * 2048, 5 * 2048], [2048 * i for i in range(1, 6)]):
        y, cut_stream = run(problem, cuts)
        assert torch.equal(y, whole), cuts
        assert torch.equal(cut_stream.state, stream.state), cuts


def test_a_long_thin_sequence_does_not_depend_on_the_cuts():
    """One channel, many steps: where a backend would be tempted to split time."""
    problem = without_state(batch=1, seqlen=40_000, dim=1, dstate=4, full=False)
    whole, stream = run(problem, [])
    y, cut_stream = run(problem, [1, 4096, 20_001])
    assert torch.equal(y, whole)
    assert torch.equal(cut_stream.state, stream.state)


def test_projections_constant_in_time(device):
    problem = without_state(constant="BC", device=device)
    y, stream = run(problem, [3, 20])
    assert_matches_reference(problem, y, stream.state)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("pairs", [False, True])
def test_complex_states(device, pairs, layout):
    """Pairs (re, im) along the last axis: where that is the sequence, a step is two elements."""
    problem = without_state(seqlen=60, layout=layout, is_complex=True, pairs=pairs, device=device)
    stream = make_stream(problem)
    pieces = []
    for begin, end in ((0, 7), (7, 7), (7, 40), (40, 60)):
        wide = 2 if pairs and layout == "bdl" else 1
        B, C = (
            problem[name][:, begin:end] if layout == "bld" else problem[name][..., wide * begin : wide * end]
            for name in "BC"
        )
        u, delta, z = (
            problem[name][:, begin:end] if layout == "bld" else problem[name][..., begin:end]
            for name in ("u", "delta", "z")
        )
        pieces.append(stream.step(u, delta, B, C, z))
        saved = stream.state_dict()
        stream = make_stream(problem)
        stream.load_state_dict(saved)
    assert_matches_reference(problem, torch.cat(pieces, 1 if layout == "bld" else 2), stream.state)
    real = make_stream(problem | {"A": problem["A"].real.contiguous()})
    with pytest.raises(ValueError, match="the state has weights"):
        real.load_state_dict(saved)


def test_a_state_of_another_kind_of_number_is_refused():
    problem = without_state(is_complex=True)
    stream = make_stream(problem)
    step(stream, problem, 0, 33)
    damaged = stream.state_dict() | {"state": stream.state.real.contiguous()}
    with pytest.raises(ValueError, match=r"the state has dtype torch.float32; needs torch.complex64"):
        stream.load_state_dict(damaged)


def test_reset_begins_again(device):
    problem = without_state(device=device)
    stream = make_stream(problem)
    assert stream.state is None
    first = step(stream, problem, 0, 33)
    assert stream.position == 33
    stream.reset()
    assert stream.state is None
    assert stream.position == 0
    assert torch.equal(step(stream, problem, 0, 33), first)


def test_the_weights_are_the_streams_own(device):
    problem = without_state(device=device)
    expected, _ = run(problem, [])
    stream = make_stream(problem)
    problem["A"].zero_()
    problem["D"].zero_()
    assert torch.equal(step(stream, problem, 0, 33), expected)


def test_no_gradients_flow():
    problem = without_state()
    problem["A"].requires_grad_()
    problem["u"].requires_grad_()
    stream = make_stream(problem)
    assert not step(stream, problem, 0, 33).requires_grad
    assert not stream.state.requires_grad


def test_resume_in_another_process(device):
    """The saved state passes through bytes and torch's safe loader."""
    problem = without_state(device=device)
    expected, whole = run(problem, [])
    first = make_stream(problem)
    y1 = step(first, problem, 0, 12)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make_stream(problem)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.position == 12
    assert second.state.device.type == device
    y2 = step(second, problem, 12, 33)
    torch.testing.assert_close(torch.cat([y1, y2], 1), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second.state, whole.state, rtol=1e-5, atol=1e-5)


def test_a_saved_state_does_not_change_with_the_stream():
    problem = without_state()
    stream = make_stream(problem)
    step(stream, problem, 0, 10)
    saved = stream.state_dict()
    copy = saved["state"].clone()
    step(stream, problem, 10, 33)
    assert torch.equal(saved["state"], copy)


def test_a_fresh_stream_can_be_saved_too():
    problem = without_state()
    stream = make_stream(problem)
    step(stream, problem, 0, 5)
    stream.load_state_dict(make_stream(problem).state_dict())
    assert stream.state is None
    assert stream.position == 0


MISMATCHES = {
    "other layout": ({"layout": "bdl"}, "the state has layout = 'bld'; needs 'bdl'"),
    "no softplus": ({"delta_softplus": False}, "the state has delta_softplus = True; needs False"),
    "no D": ({"D": None}, "the state has D = True; needs False"),
    "no bias": ({"delta_bias": None}, "the state has delta_bias = True; needs False"),
    "other weights": ({"D": torch.zeros(24)}, "the state has weights = "),
}


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_state_of_another_stream_is_refused(case):
    changes, message = MISMATCHES[case]
    problem = without_state()
    donor = make_stream(problem)
    step(donor, problem, 0, 33)
    stream = make_stream(problem, **changes)
    with pytest.raises(ValueError) as caught:
        stream.load_state_dict(donor.state_dict())
    assert message in str(caught.value)
    assert stream.state is None


def test_a_state_of_other_sizes_is_refused():
    problem = without_state()
    donor = make_stream(problem)
    step(donor, problem, 0, 33)
    with pytest.raises(ValueError, match="the state has dim = 24; needs 25"):
        make_stream(without_state(dim=25)).load_state_dict(donor.state_dict())
    damaged = donor.state_dict() | {"state": torch.zeros(2, 24, 15)}
    with pytest.raises(ValueError, match=r"the state has shape \(2, 24, 15\); needs \('batch', 24, 16\)"):
        make_stream(problem).load_state_dict(damaged)
    with pytest.raises(ValueError, match="the state has version 99; needs 1"):
        make_stream(problem).load_state_dict(donor.state_dict() | {"version": 99})
    with pytest.raises(ValueError, match="the state lacks"):
        make_stream(problem).load_state_dict({})
    with pytest.raises(ValueError, match="the state has type int; needs a dict"):
        make_stream(problem).load_state_dict(5)
    for position in (None, "x", -1, 1.5, True):
        with pytest.raises(ValueError, match=r"the state has position = .*; needs a number of steps"):
            make_stream(problem).load_state_dict(donor.state_dict() | {"position": position})
    with pytest.raises(ValueError, match=r"the state has options = None; needs what state_dict\(\) returned"):
        make_stream(problem).load_state_dict(donor.state_dict() | {"options": None})
    with pytest.raises(ValueError, match=r"the state has type ndarray; needs a torch\.Tensor"):
        make_stream(problem).load_state_dict(donor.state_dict() | {"state": donor.state.cpu().numpy()})


def test_fingerprints_are_of_values_and_not_of_how_they_lie_in_memory():
    weights = torch.randn(3, 4, dtype=torch.complex64)
    for same in (weights.conj().resolve_conj(), weights.conj().T.contiguous().T):
        assert fingerprint(weights.conj()) == fingerprint(same)
    assert fingerprint(weights.conj()) != fingerprint(weights)
    assert fingerprint(weights.conj().imag) == fingerprint(-weights.imag)


def test_a_refused_chunk_leaves_the_stream_as_it_was():
    problem = without_state()
    stream = make_stream(problem)
    step(stream, problem, 0, 10)
    state = stream.state
    with pytest.raises(ValueError, match="u has batch 3; needs 2, the batch of the stream"):
        step(stream, without_state(batch=3), 10, 33)
    with pytest.raises(ValueError, match=r"selective_scan: u has type list; needs a torch\.Tensor"):
        stream.step([1], problem["delta"], problem["B"], problem["C"])
    with pytest.raises(ValueError, match="selective_scan: delta has shape"):
        stream.step(problem["u"], problem["delta"][:, :5], problem["B"], problem["C"])
    assert stream.state is state
    assert stream.position == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"A": torch.zeros(24)}, r"A has shape \(24,\); needs \(dim, dstate\)"),
        ({"A": None}, "A has type NoneType; needs a torch.Tensor"),
        ({"A": torch.zeros(2, 2, dtype=torch.int32)}, "A has dtype torch.int32; needs a real"),
        ({"D": torch.zeros(24, dtype=torch.complex64)}, "D has dtype torch.complex64; needs a real"),
        ({"D": torch.zeros(3)}, r"D has shape \(3,\); needs \(24,\) = \(dim,\)"),
        ({"A": torch.zeros(24, 16).to_sparse()}, "A has layout torch.sparse_coo; needs a dense"),
        ({"A": torch.zeros(24, 16, device="meta")}, "A has device meta; needs a cpu or cuda device"),
        ({"delta_bias": torch.zeros(24, device="meta")}, "delta_bias has device meta; needs a cpu or cuda device"),
        ({"delta_bias": torch.zeros(24, 1)}, r"delta_bias has shape \(24, 1\); needs \(24,\)"),
        ({"layout": "dbl"}, "layout is 'dbl'; needs 'bld'"),
        ({"device": "foo"}, "device is 'foo'; needs cpu, cuda or cuda:N"),
        ({"device": "meta"}, "device is meta; needs cpu, cuda or cuda:N"),
        ({"device": 10**30}, "device is 10+; needs cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "device is cuda:99, and this torch sees"),
    ],
)
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        mamba_scan.StreamingScan(**{"A": torch.zeros(24, 16)} | arguments)


def test_the_device_of_the_chunks_may_differ_from_that_of_the_weights(cuda):
    problem = without_state(device=cuda)
    weights = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in problem.items()}
    stream = make_stream(weights, device=cuda)
    assert_matches_reference(problem, step(stream, problem, 0, 33), stream.state)
