"""stream_scan gives what one call gives, from every kind of source into every kind of sink."""

from __future__ import annotations

import contextlib
import json
import mmap
import sys
import threading
import time

import mamba_scan
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mamba_scan import control
from problems import TOLERANCE, assert_matches_reference, relative_error
from streams import (
    as_numpy,
    chunks,
    cut,
    expected,
    make_sink,
    make_source,
    memmap,
    read_raw,
    split,
    stream_problem,
    write_safetensors,
)

SOURCES = ["mapping", "tuple", "numpy", "memmap", "safetensors", "slices", "iterator", "function"]
SINKS = ["tensor", "numpy", "memmap", "safetensors", "function", "writer"]
SEQLEN = 4099  # two whole chunks of 2048 and three steps


def run(problem, device="cpu", sink=None, source=None, **options):
    """stream_scan into a tensor, or into the sink given; returns y and the result."""
    inputs, weights = split(problem)
    y = torch.zeros_like(problem["u"]) if sink is None else sink
    options = {"progress": False, "device": device} | weights | options
    result = mamba_scan.stream_scan(inputs if source is None else source, y, **options)
    return y, result


def assert_same(problem, device, y, state):
    """Bitwise on the CPU; on a GPU within the tolerance, because the reference is the CPU's.

    Where delta is constant, the error of the GPU's exponential (2**-22) is the same at every step, and states that live
    for a thousand steps gather it.
    """
    whole, final = expected(problem)
    assert y.dtype is whole.dtype
    assert tuple(y.shape) == tuple(whole.shape)
    if device == "cpu":
        assert torch.equal(y, whole)
        assert torch.equal(state, final)
    else:
        assert relative_error(y, whole.double()) <= max(TOLERANCE[y.dtype], 2e-4)
        assert relative_error(state, final.double()) <= 2e-4


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source(kind, layout, device, tmp_path):
    if kind == "slices":
        pytest.importorskip("safetensors")
    problem = stream_problem(batch=2, seqlen=SEQLEN, dim=24, groups=3, layout=layout)
    source = make_source(kind, split(problem)[0], layout, tmp_path)
    y, result = run(problem, device, source=source, chunk=2048, seqlen=SEQLEN)
    assert result.final_state.device.type == device
    assert_same(problem, device, y, result.final_state)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("kind", SINKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_kind_of_sink(kind, layout, dtype, device, tmp_path):
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    problem = stream_problem(batch=2, seqlen=SEQLEN, dim=20, layout=layout, dtype=dtype)
    sink, read = make_sink(kind, problem["u"], tmp_path, layout)
    _, result = run(problem, device, sink=sink, chunk=2048)
    assert_same(problem, device, read(), result.final_state)


def test_matches_float64(device):
    problem = stream_problem(batch=1, seqlen=SEQLEN, dim=13, dstate=5, groups=1)
    y, result = run(problem, device, chunk=2048)
    assert_matches_reference(problem, y, result.final_state)


@settings(max_examples=40, deadline=None)
@given(
    seqlen=st.integers(1, 700),
    chunk=st.one_of(st.just("auto"), st.integers(1, 750)),
    layout=st.sampled_from(["bld", "bdl"]),
    shape=st.sampled_from([(1, 5, 16), (2, 33, 3), (1, 64, 1), (3, 1, 7)]),
    cuts=st.lists(st.integers(0, 700), max_size=6),
    full=st.booleans(),
)
def test_results_depend_on_neither_chunk_nor_pieces(seqlen, chunk, layout, shape, cuts, full):
    batch, dim, dstate = shape
    problem = stream_problem(batch=batch, seqlen=seqlen, dim=dim, dstate=dstate, layout=layout, full=full)
    y, result = run(problem, chunk=chunk)
    assert_same(problem, "cpu", y, result.final_state)
    pieces = chunks(split(problem)[0], layout, [min(at, seqlen) for at in cuts])
    y, result = run(problem, chunk=chunk, source=pieces, seqlen=seqlen)
    assert_same(problem, "cpu", y, result.final_state)


@pytest.mark.parametrize("kind", ["memmap", "mapping", "iterator"])
def test_auto_chunks_grow_and_change_nothing(kind, tmp_path):
    problem = stream_problem(batch=1, seqlen=100_003, dim=8, dstate=2)
    source = make_source(kind, split(problem)[0], "bld", tmp_path)
    y, result = run(problem, source=source, seqlen=100_003)
    assert_same(problem, "cpu", y, result.final_state)
    assert result.statistics.chunk > 2048
    assert result.statistics.chunk % 2048 in (0, 100_003 % 2048)  # the longest may be the last, with the rest in it


def test_a_lazily_negated_source_is_read_with_its_sign(device):
    problem = stream_problem(batch=1, seqlen=SEQLEN, dim=16, dstate=8, full=False)
    pairs = torch.complex(torch.zeros_like(problem["u"]), -problem["u"])
    views = {name: problem[name] for name in ("delta", "B", "C")} | {"u": pairs.conj().imag}
    assert views["u"].is_neg()
    y, result = run(problem, device, source=views, chunk=2048)
    assert_same(problem, device, y, result.final_state)


def test_strided_arrays_are_scanned_where_they_are(device):
    """Views of a fused projection, (b, l, 2d + 2n)."""
    problem = stream_problem(batch=2, seqlen=SEQLEN, dim=16, dstate=8, full=False)
    fused = torch.cat([problem[name] for name in ("u", "delta", "B", "C")], -1)
    views = dict(zip(("u", "delta", "B", "C"), fused.split([16, 16, 8, 8], -1), strict=True))
    sink = torch.zeros(2, SEQLEN, 40)[..., 3:19]
    y, result = run(problem, device, source=views, sink=sink, chunk=2048)
    assert_same(problem, device, y, result.final_state)
    array = fused.numpy()
    views = {"u": array[..., :16], "delta": array[..., 16:32], "B": array[..., 32:40], "C": array[..., 40:]}
    y, result = run(problem, device, source=views, chunk=2048)
    assert_same(problem, device, y, result.final_state)


def test_views_of_memmaps_are_written_where_they_lie(tmp_path):
    """The offset that NumPy gives for a view is that of the whole memmap."""
    problem = stream_problem(batch=1, seqlen=300, dim=24)
    whole = np.memmap(tmp_path / "y.bin", np.float32, "w+", offset=4 * 1031, shape=(3, 300, 24))
    run(problem, sink=whole[1:2], chunk=70)
    stored = np.fromfile(tmp_path / "y.bin", np.float32)[1031:].reshape(3, 300, 24)
    assert torch.equal(torch.from_numpy(stored[1:2]), expected(problem)[0])
    assert not stored[0].any()
    assert not stored[2].any()
    wide = np.memmap(tmp_path / "wide.bin", np.float32, "w+", shape=(1, 300, 48))
    run(problem, sink=wide[..., 24:], chunk=70)
    assert np.array_equal(wide[..., 24:], expected(problem)[0].numpy())


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be removed")
def test_a_memmap_of_a_file_that_is_gone_is_still_filled(tmp_path):
    problem = stream_problem(batch=1, seqlen=300, dim=24)
    sink = memmap(tmp_path / "y.bin", torch.zeros(1, 300, 24), "r+")
    (tmp_path / "y.bin").unlink()
    run(problem, sink=sink, chunk=70)
    assert np.array_equal(sink, expected(problem)[0].numpy())


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be removed")
@pytest.mark.parametrize("value", [0, 1])  # what both files begin with, or only the other one
def test_another_file_at_the_path_of_a_memmap_is_left_alone(value, tmp_path):
    problem = stream_problem(batch=1, seqlen=300, dim=24)
    problem["u"][:, :70] = 0  # the first chunk of y is what is there already, too
    del problem["initial_state"]
    path = tmp_path / "y.bin"
    sink = memmap(path, torch.zeros(1, 300, 24), "r+")
    path.unlink()
    other = torch.full((1, 300, 24), float(value))
    memmap(path, other)
    y, _ = run(problem, sink=sink, chunk=70)
    assert np.array_equal(y, expected(problem)[0].numpy())
    assert torch.equal(read_raw(path, other), other)


@pytest.mark.skipif(sys.platform == "win32", reason="memmaps are written through their mappings there")
def test_looking_for_the_file_of_a_memmap_changes_nothing(tmp_path):
    problem = stream_problem(batch=1, seqlen=300, dim=24)
    before = torch.rand(1, 300, 24)
    sink = memmap(tmp_path / "y.bin", before, "r+")

    def source():
        yield cut(split(problem)[0], "bld", 0, 0)
        raise BrokenError

    with pytest.raises(BrokenError):
        run(problem, sink=sink, source=source(), seqlen=300)
    assert torch.equal(read_raw(tmp_path / "y.bin", before), before)


@pytest.mark.parametrize("kind", ["anonymous", "copy"])
def test_memory_of_a_private_mapping_keeps_what_is_in_it(kind, tmp_path):
    """Its pages cannot be read again, as those of a file can."""

    def private(tensor):
        if kind == "copy":
            path = tmp_path / f"{tensor.data_ptr()}.bin"
            path.write_bytes(bytes(tensor.nbytes))
            with path.open("r+b") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        elif hasattr(mmap, "MAP_PRIVATE"):
            mapping = mmap.mmap(-1, tensor.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            mapping = mmap.mmap(-1, tensor.nbytes)
        array = np.frombuffer(mapping, np.float32).reshape(tensor.shape)
        array[...] = tensor
        return array

    problem = stream_problem(batch=1, seqlen=3000, dim=8, dstate=4)
    source = {name: private(tensor) for name, tensor in split(problem)[0].items()}
    y, _ = run(problem, source=source, sink=private(torch.zeros(1, 3000, 8)), chunk=1000)
    assert np.array_equal(y, expected(problem)[0].numpy())
    for name, array in source.items():
        assert np.array_equal(array, problem[name].numpy())


@pytest.mark.parametrize("mode", ["c", "r"])
def test_a_private_memmap_is_read_with_its_changes(mode, tmp_path):
    problem = stream_problem(batch=1, seqlen=3000, dim=24)
    source = {name: memmap(tmp_path / name, tensor, mode) for name, tensor in split(problem)[0].items()}
    if mode == "c":
        source["u"][...] *= 2
        problem["u"] = problem["u"] * 2
    y, result = run(problem, source=source, chunk=512)
    assert_same(problem, "cpu", y, result.final_state)
    if mode == "c":
        assert np.array_equal(source["u"], problem["u"].numpy())


def test_projections_constant_in_time(device):
    problem = stream_problem(batch=2, seqlen=SEQLEN, dim=12, dstate=4, constant="BC")
    y, result = run(problem, device, chunk=2048)
    assert_same(problem, device, y, result.final_state)
    pieces = chunks(split(problem)[0], "bld", [100, 3000])
    y, result = run(problem, device, source=pieces, chunk=2048, seqlen=SEQLEN)
    assert_same(problem, device, y, result.final_state)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("kind", ["mapping", "numpy", "constant", "pairs", "iterator"])
def test_complex_states(kind, layout, device, tmp_path):
    if kind == "pairs" and layout == "bdl":
        pytest.skip("pairs lie along the last axis, which is the sequence there")
    problem = stream_problem(batch=2, seqlen=SEQLEN, dim=6, dstate=4, layout=layout)
    generator = torch.Generator().manual_seed(5)

    def twist(tensor):
        return torch.complex(tensor, torch.randn(tensor.shape, generator=generator))

    problem |= {name: twist(problem[name]) for name in ("A", "B", "C", "initial_state")}
    if kind == "constant":
        problem |= {name: twist(torch.randn(6, 4, generator=generator)) for name in ("B", "C")}
    source, _ = split(problem)
    if kind == "numpy":
        source = {name: tensor.numpy() for name, tensor in source.items()}
    elif kind == "pairs":
        source |= {name: torch.view_as_real(source[name]).flatten(-2) for name in ("B", "C")}
    elif kind == "iterator":
        source = chunks(source, layout, [100, 3000])
    whole, final = expected(problem)
    sink = torch.zeros_like(problem["u"])
    path = tmp_path / "resume"
    _, result = run(problem, device, source=source, sink=sink, chunk=2048, seqlen=SEQLEN, resume=path,
                    checkpoint_seconds=0)  # fmt: skip
    assert result.final_state.dtype is torch.complex64
    if device == "cpu":
        assert torch.equal(sink, whole)
        assert torch.equal(result.final_state, final)
    else:
        assert relative_error(sink, whole.double()) <= 2e-5


@pytest.mark.parametrize("sizes", [(2, 0, 8), (0, 5, 8)])
def test_nothing_to_scan(sizes, device):
    batch, seqlen, dim = sizes
    problem = stream_problem(batch=batch, seqlen=seqlen, dim=dim)
    y, result = run(problem, device)
    assert tuple(y.shape) == sizes
    assert torch.equal(result.final_state.cpu(), problem["initial_state"])
    del problem["initial_state"]
    _, result = run(problem, device)
    assert torch.equal(result.final_state.cpu(), torch.zeros(batch, dim, 16))


def test_an_iterator_may_keep_its_length_to_itself(device):
    problem = stream_problem(batch=2, seqlen=SEQLEN, dim=6)
    pieces = []
    result = run(problem, device, source=chunks(split(problem)[0], "bld", [1, 1, 2500]), sink=pieces.append)[1]
    assert_same(problem, device, torch.cat(pieces, 1), result.final_state)
    assert result.statistics.steps == SEQLEN


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    ("source", "sink"),
    [("iterator", "function"), ("memmap", "memmap"), ("safetensors", "tensor"), ("function", "numpy")],
)
def test_buffers_are_in_host_memory_whatever_the_default_device(source, sink, tmp_path):
    problem = stream_problem(batch=1, seqlen=700, dim=24)
    whole, final = expected(problem)
    inputs = make_source(source, split(problem)[0], "bld", tmp_path)
    target, read = make_sink(sink, whole, tmp_path)
    with default_device("meta"):
        _, result = run(problem, source=inputs, sink=target, chunk=200, seqlen=700, resume=tmp_path / "resume",
                        checkpoint_seconds=0)  # fmt: skip
    assert torch.equal(read(), whole)
    assert torch.equal(result.final_state, final)


@pytest.mark.parametrize("made", ["inside", "before", "inside, used after"])
@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("kind", ["mapping", "memmap", "iterator", "function"])
def test_inference_mode(kind, layout, made, tmp_path):
    """Rows of ten steps are copied by torch, which minds in which mode a tensor was made."""
    with torch.inference_mode(made != "before"):
        problem = stream_problem(batch=2, seqlen=100, dim=4, layout=layout)
        source = make_source(kind, split(problem)[0], layout, tmp_path)
        sink = torch.zeros_like(problem["u"])
    with torch.inference_mode(made != "inside, used after"):
        y, result = run(problem, source=source, sink=sink, chunk=10, seqlen=100, resume=tmp_path / "resume",
                        checkpoint_seconds=0)  # fmt: skip
    assert_same(problem, "cpu", y, result.final_state)


def test_callbacks_run_in_the_callers_inference_mode():
    problem = stream_problem(batch=1, seqlen=100, dim=4)
    modes = []

    def source(first):
        modes.append(torch.is_inference_mode_enabled())
        return cut(split(problem)[0], "bld", first, first + 50) if first < 100 else None

    for mode in (True, False):
        with torch.inference_mode(mode):
            run(problem, source=source, sink=lambda y: modes.append(torch.is_inference_mode_enabled()), chunk=50)
        assert modes == [mode] * 5  # chunks at 0 and 50 and none at 100; two chunks of y
        modes.clear()


def test_a_source_may_use_its_buffers_again():
    problem = stream_problem(batch=1, seqlen=1000, dim=16)
    inputs = split(problem)[0]
    buffers = {name: torch.empty_like(tensor[:, :100]) for name, tensor in inputs.items()}

    def reuse():
        for begin in range(0, 1000, 100):
            for name, buffer in buffers.items():
                buffer.copy_(inputs[name][:, begin : begin + 100])
            yield buffers

    y, result = run(problem, source=reuse(), chunk=256, seqlen=1000)
    assert_same(problem, "cpu", y, result.final_state)


def test_bfloat16_bits_of_numpy(tmp_path):
    problem = stream_problem(batch=1, seqlen=500, dim=24, dtype=torch.bfloat16)
    source = {name: as_numpy(tensor) for name, tensor in split(problem)[0].items()}
    assert source["u"].dtype == np.uint16
    sink = np.zeros((1, 500, 24), np.uint16)
    run(problem, source=source, sink=sink, chunk=128)
    assert np.array_equal(sink, as_numpy(expected(problem)[0]))


def test_reading_scanning_and_writing_overlap():
    """The first chunk is written only while the third is read, and the third read only while the first is written."""
    problem = stream_problem(batch=1, seqlen=1000, dim=4)
    inputs = split(problem)[0]
    met = threading.Barrier(2, timeout=60)  # broken, and an error in both stages, where only one gets there
    threads = set()

    def source():
        for index, piece in enumerate(chunks(inputs, "bld", range(100, 1000, 100))):
            if index == 2:
                met.wait()
            time.sleep(0.01)
            threads.add(threading.current_thread().name)
            yield piece

    def sink(y):
        if not written:
            met.wait()
        written.append(y.shape[1])
        time.sleep(0.01)
        threads.add(threading.current_thread().name)

    written = []
    begin = time.perf_counter()
    statistics = run(problem, source=source(), sink=sink, chunk=100)[1].statistics
    seconds = time.perf_counter() - begin
    assert written == [100] * 10
    busy = statistics.busy_seconds
    assert 0.08 <= busy["read"] <= seconds  # without the first chunk, which is there when the clock starts
    assert 0.08 <= busy["write"] <= seconds
    assert threads >= {"mamba_scan reader", "mamba_scan writer"}
    assert statistics.limiting == max(busy, key=busy.get)
    assert statistics.chunks == 10
    assert not any(thread.name.startswith("mamba_scan") for thread in threading.enumerate())


def test_statistics(device, tmp_path):
    problem = stream_problem(batch=3, seqlen=SEQLEN, dim=8)
    source = make_source("memmap", split(problem)[0], "bld", tmp_path)
    statistics = run(problem, device, source=source, chunk=2048)[1].statistics
    assert statistics.steps == SEQLEN
    assert statistics.resumed_from == 0
    assert statistics.chunks == 3
    assert statistics.chunk == 2048
    assert statistics.tokens_per_s == pytest.approx(3 * SEQLEN / statistics.seconds)
    assert statistics.limiting == max(statistics.busy_seconds, key=statistics.busy_seconds.get)
    stages = {"read", "scan", "write"} | ({"upload", "download"} if device == "cuda" else set())
    assert set(statistics.busy_seconds) == stages
    inputs = 3 * 2048 * (3 * 8 + 2 * 16) * 4
    assert 3 * inputs <= statistics.ring_bytes <= 3 * (inputs + 3 * 2048 * 8 * 4) + 1e5
    assert (statistics.device_bytes > 0) == (device == "cuda")


def test_arrays_in_memory_need_no_ring():
    assert run(stream_problem(batch=1, seqlen=100, dim=8))[1].statistics.ring_bytes == 0


def test_chunks_are_in_a_recording(device):
    problem = stream_problem(batch=1, seqlen=SEQLEN, dim=8)
    run(problem, device, chunk=2048)
    control.start_recording()
    run(problem, device, chunk=2048)
    events = control.stop_recording()["traceEvents"]
    assert [e["args"]["first_step"] for e in events if "first_step" in e.get("args", {})] == [0, 2048, 4096]


def test_weights_that_require_gradients():
    problem = stream_problem(batch=1, seqlen=300, dim=8)
    for name in ("A", "u", "initial_state"):
        problem[name].requires_grad_()
    y, result = run(problem, chunk=100)
    assert not y.requires_grad
    assert not result.final_state.requires_grad


def test_an_empty_chunk_ends_a_function():
    problem = stream_problem(batch=1, seqlen=1000, dim=8)
    calls = []

    def read(first):
        calls.append(first)
        assert len(calls) <= 5
        return cut(split(problem)[0], "bld", first, min(first + 300, 1000))

    pieces = []
    _, result = run(problem, source=read, sink=pieces.append, chunk=200)
    assert_same(problem, "cpu", torch.cat(pieces, 1), result.final_state)
    assert calls == [0, 300, 600, 900, 1000]
    assert (
        run(problem, source=lambda first: cut(split(problem)[0], "bld", 0, 0), sink=pieces.append)[1].statistics.steps
        == 0
    )
    with pytest.raises(ValueError, match="source ends after 1000 steps; needs 1001"):
        calls.clear()
        run(problem, source=read, sink=torch.zeros(1, 1001, 8), seqlen=1001)


def test_an_iterator_that_goes_on_with_empty_chunks_is_left_when_the_scan_fails():
    problem = stream_problem(batch=1, seqlen=100, dim=8)
    inputs, over = split(problem)[0], threading.Event()

    def source():
        yield inputs
        while not over.is_set():
            yield cut(inputs, "bld", 0, 0)

    def sink(y):
        raise BrokenError

    try:
        with pytest.raises(BrokenError):
            run(problem, source=source(), sink=sink, chunk=100)
        assert not any(thread.name.startswith("mamba_scan") for thread in threading.enumerate())
    finally:
        over.set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_constant_projections_are_the_same_in_every_chunk(dtype):
    problem = stream_problem(batch=1, seqlen=300, dim=4, dstate=3, constant="BC")
    problem |= {name: problem[name].to(dtype) for name in ("B", "C")}
    if dtype.is_complex:
        problem |= {name: problem[name].to(dtype) for name in ("A", "initial_state")}
    pieces = list(chunks(split(problem)[0], "bld", [100, 200]))
    wrong = problem["B"].clone()
    wrong[3, 2] += 1
    for other, message in (
        (wrong, "B has other values than in the first; needs the same ones"),
        (wrong[:3], r"B has shape \(3, 3\), dtype .*; needs shape \(4, 3\), dtype"),
        (wrong.real.to(torch.float16), "B has shape .*, dtype torch.float16; needs shape .*, dtype"),
    ):
        source = [*pieces[:2], pieces[2] | {"B": other}]
        with pytest.raises(ValueError, match=f"source: chunk 2, from step 200 on: {message}"):
            run(problem, source=source, chunk=70, seqlen=300)
    pieces = [piece | {"C": piece["C"].clone()} for piece in pieces]
    y, result = run(problem, source=pieces, chunk=70, seqlen=300)
    assert_same(problem, "cpu", y, result.final_state)


def test_lengths_may_be_numbers_of_numpy():
    problem = stream_problem(batch=1, seqlen=300, dim=4)
    y, result = run(problem, source=chunks(split(problem)[0], "bld", [100]), chunk=np.int64(64), seqlen=np.int32(300),
                    copy_threads=np.int8(2), checkpoint_seconds=np.float32(1))  # fmt: skip
    assert_same(problem, "cpu", y, result.final_state)
    assert result.statistics.chunk == 64


class BrokenError(Exception):
    """What the tests' sources and sinks raise."""


GOOD = {"A": torch.zeros(4, 3), "progress": False}


def inputs(l=10, d=4, n=3, **changes):  # noqa: E741
    """A source of the right shapes, some of them changed."""
    shapes = {"u": (1, l, d), "delta": (1, l, d), "B": (1, l, n), "C": (1, l, n)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()} | changes


ERRORS = {
    "layout": ({"layout": "dbl"}, "layout is 'dbl'; needs 'bld'"),
    "A": ({"A": torch.zeros(4)}, r"stream_scan: A has shape \(4,\); needs \(dim, dstate\)"),
    "D": ({"D": torch.zeros(3)}, r"stream_scan: D has shape \(3,\); needs \(4,\)"),
    "chunk zero": ({"chunk": 0}, "chunk is 0; needs a number of steps, or 'auto'"),
    "chunk word": ({"chunk": "big"}, "chunk is 'big'; needs a number of steps, or 'auto'"),
    "copy_threads": ({"copy_threads": 0}, "copy_threads is 0; needs a number of at least 1"),
    "seqlen": ({"seqlen": 11}, "seqlen is 11; needs 10, the length of the source's arrays"),
    "seqlen boolean": ({"seqlen": True}, "seqlen is True; needs a number of steps"),
    "checkpoint_seconds": ({"checkpoint_seconds": "x"}, "checkpoint_seconds is 'x'; needs a number of seconds"),
    "checkpoint_seconds nan": ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds is nan; needs a number"),
    "resume type": ({"resume": 5}, "resume has type int; needs the path of a file"),
    "resume folder": ({"resume": "no such folder/scan.resume"}, "resume '.*' is in no folder that exists; needs one"),
    "progress": ({"progress": 7}, "progress has type int; needs True, False, a function or a tqdm bar"),
    "device": ({"device": "meta"}, "device is meta; needs "),
    "device number": ({"device": 10**30}, "stream_scan: device is 10+; needs cpu, cuda or cuda:N"),
    "sparse A": ({"A": torch.zeros(4, 3).to_sparse()}, "stream_scan: A has layout torch.sparse_coo; needs a dense"),
    "D without data": ({"D": torch.zeros(4, device="meta")}, "stream_scan: D has device meta; needs a cpu or cuda"),
    "source without a name": ({"source": ""}, "source is ''; needs the path of a file"),
    "source with a zero": ({"source": "x\0y"}, r"source is 'x\\x00y'; needs the path of a file"),
    "sink without a name": ({"sink": ""}, "sink is ''; needs the path of a file"),
    "sink with a zero": ({"sink": "x\0y"}, r"sink is 'x\\x00y'; needs the path of a file"),
    "resume with a zero": ({"resume": "x\0y"}, r"resume is 'x\\x00y'; needs the path of a file"),
    "source type": ({"source": 3}, "source has type int; needs a mapping or tuple of arrays"),
    "source tensor": ({"source": torch.zeros(3)}, "source is one Tensor; needs u, delta, B and C"),
    "source short": ({"source": (torch.zeros(1, 1, 4),) * 3}, "source has 3 items; needs u, delta, B, C"),
    "source lacks": ({"source": {"u": torch.zeros(1, 1, 4)}}, "source lacks delta, B, C; needs u, delta, B and C"),
    "source extra": ({"source": inputs(dt=1)}, "source has 'dt'; needs u, delta, B, C and optionally z, nothing else"),
    "source item": ({"source": inputs(u=[1.0])}, r"source\['u'\] has type list; needs a CPU tensor"),
    "source dtype": ({"source": inputs(u=np.zeros((1, 10, 4)))}, r"source\['u'\] has dtype float64; needs float32"),
    "source reversed": (
        {"source": inputs(u=np.zeros((1, 10, 4), np.float32)[:, ::-1])},
        r"source\['u'\] cannot be viewed as a tensor",
    ),
    "source foreign": (
        {"source": inputs(u=np.zeros((1, 10, 4), np.dtype(np.uint16).newbyteorder()))},
        r"source\['u'\] has dtype .u2, in foreign byte order; needs this machine's",
    ),
    "u None": ({"source": inputs(u=None)}, "source lacks u; needs u, delta, B and C"),
    "delta None": ({"source": tuple(inputs(delta=None).values())}, "source lacks delta;"),
    "source names": ({"source": inputs() | {3: 1, "dt": 1}}, "source has 'dt', 3; needs u, delta, B, C"),
    "delta rank": ({"source": inputs(delta=torch.zeros(10))}, r"source\['delta'\] has shape \(10,\); needs 3 axes"),
    "B rank": ({"source": inputs(B=torch.zeros(10))}, r"source\['B'\] has shape \(10,\); needs 3 or 4 axes, or 2"),
    "z rank": ({"source": inputs(z=torch.tensor(1.0))}, r"source\['z'\] has shape \(\); needs 3 axes"),
    "chunk rank": ({"source": [inputs(C=torch.zeros(10))]}, r"source: chunk 0: C has shape \(10,\); needs 3 or 4"),
    "state type": ({"initial_state": np.zeros((1, 4, 3))}, "initial_state has type ndarray; needs a torch.Tensor"),
    "u rank": ({"source": inputs(u=torch.zeros(10, 4))}, r"source\['u'\] has shape \(10, 4\); needs 3 axes"),
    "delta length": ({"source": inputs(delta=torch.zeros(1, 9, 4))}, r"source\['delta'\] has shape .* needs 10 steps"),
    "delta dim": ({"source": inputs(delta=torch.zeros(1, 10, 5))}, r"stream_scan: delta has shape \(1, 1, 5\); needs"),
    "delta dtype": ({"source": inputs(delta=torch.zeros(1, 10, 4).half())}, "delta has dtype float16; needs float32"),
    "B states": ({"source": inputs(B=torch.zeros(1, 10, 2))}, r"B has shape \(1, 1, 2\); needs"),
    "state": ({"initial_state": torch.zeros(4, 3)}, r"initial_state has shape \(4, 3\); needs shape \(1, 4, 3\)"),
    "sink type": ({"sink": 3}, "sink has type int; needs a CPU tensor, a NumPy array"),
    "sink shape": ({"sink": torch.zeros(1, 9, 4)}, r"sink has shape \(1, 9, 4\); needs \(1, 10, 4\), the shape of u"),
    "sink dtype": ({"sink": torch.zeros(1, 10, 4).half()}, "sink has dtype torch.float16; needs torch.float32"),
    "sink of one step": (
        {"sink": torch.zeros(1, 1, 4).expand(1, 10, 4)},
        r"sink has strides \(4, 0, 1\); needs memory of its own for every element",
    ),
    "sink overlaps": (
        {"sink": torch.zeros(40).as_strided((1, 10, 4), (40, 3, 1))},
        r"sink has strides \(40, 3, 1\); needs memory of its own for every element",
    ),
    "sink negated": ({"sink": torch.zeros(1, 10, 4, dtype=torch.complex64).conj().imag}, "sink is a lazily negated"),
    "sink read-only": (
        {"sink": np.broadcast_to(np.zeros((), np.float32), (1, 10, 4))},
        "sink is read-only; needs an array that can be written",
    ),
    "no chunk": ({"source": iter(())}, "source has no chunk; needs at least one"),
    "chunk type": ({"source": iter([3])}, "source: chunk 0 has type int; needs u, delta, B, C"),
    "file without length": ({"source": iter([inputs()]), "sink": "y.safetensors"}, r"needs seqlen=\.\.\."),
    "array without length": ({"source": iter([inputs()])}, r"needs a source of known length \(seqlen=\.\.\.\)"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_arguments_are_named(case):
    changes, message = ERRORS[case]
    arguments = GOOD | {"source": inputs(), "sink": torch.zeros(1, 10, 4)} | changes
    with pytest.raises(ValueError, match=message):
        mamba_scan.stream_scan(arguments.pop("source"), arguments.pop("sink"), arguments.pop("A"), **arguments)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (inputs(B=torch.zeros(1, 9, 3)), r"source: chunk 1: B has shape \(1, 9, 3\); needs \(1, 10, 3\)"),
        (inputs(u=torch.zeros(1, 10, 5)), r"source: chunk 1: u has shape \(1, 10, 5\); needs \(1, 10, 4\)"),
        (inputs(z=torch.zeros(1, 10, 4)), "source: chunk 1 has B, C, delta, u, z; needs B, C, delta, u, as the first"),
        (inputs(C=torch.zeros(1, 10, 3).half()), "source: chunk 1: C has dtype torch.float16; needs torch.float32"),
        (None, "source: chunk 1 has type NoneType; needs u, delta, B, C"),
    ],
)
def test_a_chunk_unlike_the_first_is_named(second, message):
    with pytest.raises(ValueError, match=message):
        mamba_scan.stream_scan([inputs(), second], lambda y: None, **GOOD)


@pytest.mark.parametrize(
    ("seqlen", "message"), [(21, "source ends after 20 steps; needs 21"), (19, "source goes on after 19")]
)
def test_a_source_of_another_length_than_promised(seqlen, message):
    with pytest.raises(ValueError, match=message):
        mamba_scan.stream_scan([inputs(), inputs()], torch.zeros(1, seqlen, 4), **GOOD, seqlen=seqlen)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no safetensors file"),
        (b"\xff" * 40, "is no safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "is no safetensors file"),
        ((100_000).to_bytes(8, "little") + b"[" * 50_000 + b"]" * 50_000, "is no safetensors file"),
        (b"\x02\0\0\0\0\0\0\0{}", "source lacks u, delta, B, C"),
    ],
)
def test_a_damaged_safetensors_file_is_refused(content, message, tmp_path):
    path = tmp_path / "source.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        mamba_scan.stream_scan(path, lambda y: None, **GOOD)


@pytest.mark.parametrize(
    "shape", [None, "abc", 40, [-1, -10, 4], [1.0, 10.0, 4.0], [None, 10, 4], [True, 10, 4]], ids=str
)
def test_a_safetensors_file_with_an_odd_shape_is_refused(shape, tmp_path):
    path = tmp_path / "source.safetensors"
    write_safetensors(path, inputs())
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["u"]["shape"] = shape
    if shape is None:
        del header["u"]["shape"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(ValueError, match="is no safetensors file"):
        mamba_scan.stream_scan(path, lambda y: None, **GOOD)


def test_a_folder_is_no_file(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"stream_scan: sink '.*folder' is a folder; needs the path of a file"):
        mamba_scan.stream_scan(inputs(), folder, **GOOD)
    with pytest.raises(ValueError, match=r"stream_scan: resume '.*folder' is a folder; needs the path of a file"):
        mamba_scan.stream_scan(inputs(), lambda y: None, **GOOD, resume=folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_safetensors_file_that_ends_early_is_refused(tmp_path):
    path = tmp_path / "source.safetensors"
    write_safetensors(path, inputs())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="a tensor lies outside of the file"):
        mamba_scan.stream_scan(path, lambda y: None, **GOOD)


def test_a_chunk_of_a_gpu_is_a_multiple_of_2048(cuda):
    with pytest.raises(ValueError, match="chunk is 1000; needs a multiple of 2048 on a GPU"):
        mamba_scan.stream_scan(inputs(), torch.zeros(1, 10, 4), **GOOD, chunk=1000, device=cuda)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
def test_page_locked_arrays_need_no_ring(layout, cuda):
    problem = stream_problem(batch=2, seqlen=3 * SEQLEN, dim=32, layout=layout)
    source = {name: tensor.pin_memory() for name, tensor in split(problem)[0].items()}
    sink = torch.zeros_like(problem["u"]).pin_memory()
    y, result = run(problem, cuda, source=source, sink=sink, chunk=2048)
    assert_same(problem, cuda, y, result.final_state)
    assert (result.statistics.ring_bytes == 0) == (layout == "bld")


def test_device_memory_does_not_grow_with_the_sequence(cuda):
    peaks = []
    for seqlen in (200_000, 100_000, 400_000):
        problem = stream_problem(batch=1, seqlen=seqlen, dim=256, dtype=torch.float16)
        run(problem, cuda)
        torch.cuda.reset_peak_memory_stats()
        run(problem, cuda)
        peaks.append(torch.cuda.max_memory_allocated())
    assert max(peaks) <= 1.01 * min(peaks)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_neither_chunks_nor_overlap_change_bits(layout, dtype, device):
    """One call over everything, and chunks of every length: the same bits every time."""
    problem = stream_problem(batch=1, seqlen=50_001, dim=40, dtype=dtype, layout=layout)
    moved = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in problem.items()}
    whole, state = mamba_scan.selective_scan(**moved, return_final_state=True, chunk_invariant=True)
    for chunk in (2048, 6144, 6144, 40_960, "auto"):
        y, result = run(problem, device, chunk=chunk)
        assert torch.equal(y, whole.cpu()), f"chunk {chunk}"
        assert torch.equal(result.final_state, state), f"chunk {chunk}"
    pieces = chunks(split(problem)[0], layout, [1, 777, 20_480, 20_481])
    y, result = run(problem, device, source=pieces, chunk=4096, seqlen=50_001)
    assert torch.equal(y, whole.cpu())
    assert torch.equal(result.final_state, state)


def test_a_cut_function_source_matches(device):
    problem = stream_problem(batch=1, seqlen=SEQLEN, dim=8)
    calls = []
    source = split(problem)[0]

    def read(first):
        calls.append(first)
        return cut(source, "bld", first, min(first + 1500, SEQLEN)) if first < SEQLEN else None

    y, result = run(problem, device, source=read, chunk=2048, seqlen=SEQLEN)
    assert_same(problem, device, y, result.final_state)
    assert calls == [0, 1500, 3000, SEQLEN]
