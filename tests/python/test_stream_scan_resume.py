"""An interrupted stream_scan leaves the beginning of the right result, and goes on to a bitwise equal end."""

from __future__ import annotations

import _thread
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import mamba_scan
import pytest
import torch
from mamba_scan.stream import channel, pipeline, resume
from streams import chunks, cut, expected, make_sink, make_source, memmap, read_raw, split, stream_problem

TESTS = Path(__file__).parent
SEQLEN = 6 * 2048 + 5
CHUNK = 2048


class BrokenError(Exception):
    """What the tests' sources and sinks raise."""


def problem_of(**options):
    return stream_problem(**{"batch": 1, "seqlen": SEQLEN, "dim": 12, "dstate": 4} | options)


def run(problem, source, sink, path, device="cpu", **options):
    options = {"progress": False, "device": device, "chunk": CHUNK, "resume": path} | options
    return mamba_scan.stream_scan(source, sink, **split(problem)[1] | options)


def uninterrupted(problem, device):
    """The right result, and state, with the cuts that the tests use."""
    if device == "cpu":
        return expected(problem)
    y = torch.zeros_like(problem["u"])
    return y, run(problem, split(problem)[0], y, None, device).final_state


def no_threads_left():
    return not any(thread.name.startswith("mamba_scan") for thread in threading.enumerate())


def failing(pieces, after):
    for i, piece in enumerate(pieces):
        if i == after:
            raise BrokenError("the disk is gone")
        yield piece


def position_of(path):
    return torch.load(path, weights_only=True)["position"]


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("kind", ["tensor", "numpy", "memmap", "safetensors", "writer"])
def test_a_source_that_fails(kind, layout, device, tmp_path):
    """What came before the failure is written; a good source goes on."""
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    problem = problem_of(layout=layout, batch=2)
    whole, final = uninterrupted(problem, device)
    inputs, path = split(problem)[0], tmp_path / "scan.resume"
    sink, read = make_sink(kind, problem["u"], tmp_path, layout)
    cuts = [3000, 3 * CHUNK + 100, 5 * CHUNK]
    with pytest.raises(BrokenError):
        run(problem, failing(chunks(inputs, layout, cuts), 3), sink, path, device, seqlen=SEQLEN)
    assert no_threads_left()
    assert position_of(path) == 5 * CHUNK
    if kind == "safetensors":
        assert not sink.exists()  # a half-written file must not look like a whole one
    else:
        axis = 1 if layout == "bld" else 2
        assert torch.equal(read().narrow(axis, 0, 5 * CHUNK), whole.narrow(axis, 0, 5 * CHUNK))
        assert not read().narrow(axis, 5 * CHUNK, 5).any()
    result = run(problem, chunks(inputs, layout, cuts), sink, path, device, seqlen=SEQLEN)
    assert result.statistics.resumed_from == 5 * CHUNK
    assert torch.equal(read(), whole)
    assert torch.equal(result.final_state, final)
    assert not path.exists()
    assert sorted(p.name for p in tmp_path.iterdir() if "resume" in p.name or "partial" in p.name) == []


@pytest.mark.parametrize("kind", ["mapping", "memmap", "safetensors", "function", "iterator"])
def test_every_kind_of_source_goes_on(kind, device, tmp_path):
    problem = problem_of()
    whole, final = uninterrupted(problem, device)
    inputs, path = split(problem)[0], tmp_path / "scan.resume"
    sink = torch.zeros_like(problem["u"])
    with pytest.raises(BrokenError):
        run(problem, failing(chunks(inputs, "bld", [2 * CHUNK + 7, 4 * CHUNK]), 2), sink, path, device, seqlen=SEQLEN)
    source = make_source(kind, inputs, "bld", tmp_path)
    result = run(problem, source, sink, path, device, seqlen=SEQLEN)
    assert result.statistics.resumed_from == 4 * CHUNK
    assert result.statistics.steps == SEQLEN - 4 * CHUNK
    assert torch.equal(sink, whole)
    assert torch.equal(result.final_state, final)


@pytest.mark.parametrize("length", [1000, 3000, 7 * CHUNK])
def test_a_function_is_asked_as_without_an_interruption(length, tmp_path):
    """One that has its chunks in files, say, and can return no part of one."""
    problem = problem_of()
    inputs, path, sink = split(problem)[0], tmp_path / "scan.resume", torch.zeros_like(problem["u"])

    def read(first):
        asked.append(first)
        assert first % length == 0 or first == SEQLEN
        return cut(inputs, "bld", first, min(first + length, SEQLEN)) if first < SEQLEN else None

    def progress(done, total, rate):
        if done >= 4 * CHUNK:
            raise BrokenError

    asked = []
    run(problem, read, torch.zeros_like(sink), None, seqlen=SEQLEN)
    uninterrupted, asked = asked, []
    with pytest.raises(BrokenError):
        run(problem, read, sink, path, seqlen=SEQLEN, progress=progress)
    asked = []
    position = position_of(path)
    result = run(problem, read, sink, path, seqlen=SEQLEN)
    assert result.statistics.resumed_from == position
    assert torch.equal(sink, expected(problem)[0])
    begin = (position - 64) // length * length
    assert asked == ([0] if begin else []) + [step for step in uninterrupted if step >= begin]


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_sink_that_fails(at, device, tmp_path):
    problem = problem_of()
    whole, final = uninterrupted(problem, device)
    path, pieces, broken = tmp_path / "scan.resume", [], True

    def sink(y):
        if broken and len(pieces) == at:
            raise OSError(28, "No space left on device")
        pieces.append(y)

    with pytest.raises(OSError, match="No space left") as caught:
        run(problem, split(problem)[0], sink, path, device)
    assert no_threads_left()
    if sys.version_info >= (3, 11):
        assert f"the first {at * CHUNK} steps are written" in caught.value.__notes__[0]
    assert path.exists() == (at > 0)
    broken = False
    result = run(problem, split(problem)[0], sink, path, device)
    assert result.statistics.resumed_from == at * CHUNK
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert torch.equal(result.final_state, final)


def test_a_progress_function_that_fails_or_is_interrupted(device, tmp_path):
    """It runs in the calling thread, which is where Ctrl-C arrives."""
    problem = problem_of()
    whole, final = uninterrupted(problem, device)
    path, sink = tmp_path / "scan.resume", torch.zeros_like(problem["u"])

    def interrupt(done, total, rate):
        if done >= 2 * CHUNK:
            raise KeyboardInterrupt

    def slowly():
        for piece in chunks(split(problem)[0], "bld", range(CHUNK, SEQLEN, CHUNK)):
            time.sleep(0.05)
            yield piece

    with pytest.raises(KeyboardInterrupt):
        run(problem, slowly(), sink, path, device, progress=interrupt, seqlen=SEQLEN)
    assert no_threads_left()
    done = position_of(path)
    assert 2 * CHUNK <= done < SEQLEN
    assert torch.equal(sink[:, :done], whole[:, :done])
    assert not sink[:, done:].any()
    result = run(problem, split(problem)[0], sink, path, device)
    assert result.statistics.resumed_from == done
    assert torch.equal(sink, whole)
    assert torch.equal(result.final_state, final)


@pytest.fixture
def ctrl_c(monkeypatch):
    """A function that interrupts the calling thread the next time that it waits for what is scanned to be written."""
    closed = queue.Queue()  # the calling thread closes the channel of what is scanned, and then waits for the writer

    class ToldChannel(channel.Channel):
        def put(self, item):
            self.carries_results = isinstance(item, pipeline.Chunk) and item.y is not None
            super().put(item)

        def close(self, *, drop=False):
            super().close(drop=drop)
            if threading.current_thread() is threading.main_thread() and getattr(self, "carries_results", False):
                closed.put(drop)

    def interrupt():
        closed.get(timeout=60)
        _thread.interrupt_main()

    monkeypatch.setattr(pipeline, "Channel", ToldChannel)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt.closed = closed
    yield interrupt
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("failing_first", [False, True])
def test_the_first_ctrl_c_while_the_last_chunks_are_written(failing_first, ctrl_c, tmp_path):
    """Even after a failure: all that is scanned is written."""
    seqlen = 3 * CHUNK  # as many chunks as there are places for results
    problem = problem_of(seqlen=seqlen)
    whole, _ = expected(problem)
    path, pieces = tmp_path / "scan.resume", []
    source = chunks(split(problem)[0], "bld", [CHUNK, 2 * CHUNK])
    if failing_first:
        source = failing([*source, None], 3)

    def sink(y):
        if not pieces:
            ctrl_c()
        pieces.append(y)

    with pytest.raises(KeyboardInterrupt):
        run(problem, source, sink, path, seqlen=seqlen)
    assert no_threads_left()
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert position_of(path) == seqlen
    assert run(problem, split(problem)[0], sink, path).statistics.steps == 0


def test_the_second_ctrl_c_drops_what_is_not_yet_written(ctrl_c, tmp_path):
    problem = problem_of(seqlen=3 * CHUNK)
    whole, final = expected(problem)
    path, pieces = tmp_path / "scan.resume", []

    def sink(y):
        if not pieces:
            ctrl_c()
            ctrl_c()
            assert ctrl_c.closed.get(timeout=60)  # what is behind this chunk is dropped
        pieces.append(y)

    with pytest.raises(KeyboardInterrupt):
        run(problem, chunks(split(problem)[0], "bld", [CHUNK, 2 * CHUNK]), sink, path, seqlen=3 * CHUNK)
    for thread in threading.enumerate():
        if thread.name == "mamba_scan reader":  # for which a second Ctrl-C does not wait
            thread.join()
    assert no_threads_left()
    assert len(pieces) == 1
    assert position_of(path) == CHUNK
    result = run(problem, split(problem)[0], sink, path)
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert torch.equal(result.final_state, final)


def test_a_failure_without_a_resume_file(device):
    problem = problem_of()
    sink = torch.zeros_like(problem["u"])
    with pytest.raises(BrokenError, match="the disk is gone"):
        run(problem, failing(chunks(split(problem)[0], "bld", [CHUNK]), 1), sink, None, device, seqlen=SEQLEN)
    assert torch.equal(sink[:, :CHUNK], uninterrupted(problem, device)[0][:, :CHUNK])
    assert no_threads_left()


def test_a_refused_chunk_in_the_middle(device):
    """The scan itself fails: here because the iterator's second chunk has another batch."""
    pieces = [split(problem_of(batch=batch, seqlen=CHUNK))[0] for batch in (1, 2)]
    with pytest.raises(ValueError, match=r"source: chunk 1: u has shape \(2, 2048, 12\); needs \(1, 2048, 12\)"):
        run(problem_of() | {"initial_state": None}, iter(pieces), lambda y: None, None, device)
    assert no_threads_left()


def test_repeated_interruptions(device, tmp_path):
    problem = problem_of()
    whole, final = uninterrupted(problem, device)
    inputs, path = split(problem)[0], tmp_path / "scan.resume"
    sink = memmap(tmp_path / "y.bin", torch.zeros_like(problem["u"]), "r+")
    for count in range(1, 6):
        with pytest.raises(BrokenError):
            source = failing(chunks(inputs, "bld", range(CHUNK, SEQLEN, CHUNK)), count)
            run(problem, source, sink, path, device, seqlen=SEQLEN)
        assert position_of(path) == count * CHUNK
    result = run(problem, inputs, sink, path, device)
    assert result.statistics.resumed_from == 5 * CHUNK
    assert torch.equal(read_raw(tmp_path / "y.bin", whole), whole)
    assert torch.equal(result.final_state, final)


def test_checkpoints_while_all_goes_well(device, tmp_path):
    """Before each one the sink is flushed."""
    problem = problem_of()
    path, seen = tmp_path / "scan.resume", []

    class Sink:
        flushed = 0

        def write(self, y, first):
            seen.append((first, path.exists() and position_of(path), self.flushed))

        def flush(self):
            self.flushed += 1

    run(problem, split(problem)[0], Sink(), path, device, checkpoint_seconds=0)
    assert seen == [(i * CHUNK, i > 0 and i * CHUNK, i) for i in range(7)]
    assert not path.exists()


def interrupted(tmp_path, problem, sink=None):
    """A resume file and its sink after four chunks."""
    sink = torch.zeros_like(problem["u"]) if sink is None else sink
    path = tmp_path / "scan.resume"
    with pytest.raises(BrokenError):
        pieces = chunks(split(problem)[0], problem["layout"], [4 * CHUNK])
        run(problem, failing(pieces, 1), sink, path, seqlen=SEQLEN)
    return path, sink


REFUSALS = {
    "A": (lambda p: {"A": p["A"] * 2}, "has weights = "),
    "D": (lambda p: {"D": None}, "has D = True; needs False"),
    "softplus": (lambda p: {"delta_softplus": False}, "has delta_softplus = True; needs False"),
    "state": (lambda p: {"initial_state": p["initial_state"] + 1}, "has constants = "),
    "batch": (lambda p: problem_of(batch=2), r"has shape of u = \(1, .*needs \(2, "),
    "seqlen": (lambda p: problem_of(seqlen=SEQLEN + 1), "has seqlen = 12293; needs 12294"),
    "dtype": (lambda p: problem_of(dtype=torch.float16), "has dtype of .* = 'float32'; needs 'float16'"),
    "dim": (lambda p: problem_of(dim=13), "has "),
    "no z": (lambda p: {"z": None}, "has (shape|dtype) of z = "),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_resume_file_of_another_call_is_refused(case, tmp_path):
    change, message = REFUSALS[case]
    problem = problem_of()
    path, _ = interrupted(tmp_path, problem)
    before = path.read_bytes()
    changed = problem | change(problem)
    changed = {name: value for name, value in changed.items() if value is not None}
    sink = torch.zeros_like(changed["u"])
    with pytest.raises(ValueError, match=r"stream_scan: resume '.*scan\.resume' " + message):
        run(changed, split(changed)[0], sink, path)
    assert not sink.any()
    assert path.read_bytes() == before


def test_other_data_is_refused(tmp_path):
    problem = problem_of()
    path, sink = interrupted(tmp_path, problem)
    position = position_of(path)
    for name in ("u", "delta", "B", "C", "z"):
        inputs = {key: tensor.clone() for key, tensor in split(problem)[0].items()}
        inputs[name][0, position - 1, 0] += 1
        with pytest.raises(ValueError, match=f"source differs, in the steps {position - 64} to {position - 1}, from"):
            run(problem, inputs, sink, path)
    with pytest.raises(ValueError, match="sink differs, in the steps"):
        run(problem, split(problem)[0], torch.zeros_like(sink), path)
    with pytest.raises(ValueError, match="sink differs, in the steps"):
        run(problem, split(problem)[0], lambda y: None, path)
    short = chunks({name: tensor[:, :3000] for name, tensor in split(problem)[0].items()}, "bld", [])
    with pytest.raises(ValueError, match="source"):
        run(problem, short, sink, path, seqlen=SEQLEN)
    run(problem, split(problem)[0], sink, path)
    assert torch.equal(sink, expected(problem)[0])


def test_a_damaged_file_is_refused(tmp_path):
    problem = problem_of()
    path, sink = interrupted(tmp_path, problem)
    whole = path.read_bytes()
    for damaged in (b"", b"nonsense", b"\x80\x02]q\x00.", b"PK\x03\x04" * 9, whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"stream_scan: resume '.*' has .*; needs a file that stream_scan wrote"):
            run(problem, split(problem)[0], sink, path)
    content = torch.load(_write(path, whole), weights_only=True)
    for change, message in (
        ({"version": 99}, "has version 99; needs 3"),
        ({"state": content["state"] + 1}, "has damaged contents; needs an intact file"),
        ({"state": content["state"].double()}, "has damaged contents"),
        ({"state": None}, "has damaged contents"),
        ({"position": 0}, "has damaged contents"),
        ({"tail_steps": -1}, "has damaged contents"),
        ({"options": None}, "has damaged contents"),
        ({"extra": 1}, "has other contents"),
    ):
        torch.save(content | change, path)
        with pytest.raises(ValueError, match=message):
            run(problem, split(problem)[0], sink, path)


def test_no_bit_of_the_file_flips_unnoticed(tmp_path):
    """torch.load checks nothing of what it unpickles; a position of 0 would even go without the checks of the data."""
    problem = problem_of()
    path, sink = interrupted(tmp_path, problem)
    whole, checkpoint = path.read_bytes(), torch.load(path, weights_only=True)
    options = checkpoint["options"]
    random = torch.Generator().manual_seed(torch.seed() % 2**32)
    for at in torch.randint(len(whole), (400,), generator=random).tolist():
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(torch.randint(8, (), generator=random))
        path.write_bytes(flipped)
        try:
            loaded = resume.load(path, options)
        except ValueError:
            continue
        assert loaded.position == checkpoint["position"], f"byte {at}"
        assert torch.equal(loaded.state, checkpoint["state"]), f"byte {at}"
    position = b"M" + checkpoint["position"].to_bytes(2, "little")  # as pickle writes it, before the state
    path.write_bytes(whole.replace(position, b"M\0\0", 1))
    with pytest.raises(ValueError, match="has damaged contents; needs an intact file"):
        run(problem, split(problem)[0], sink, path)


def _write(path, content):
    path.write_bytes(content)
    return path


def test_a_missing_or_other_half_file_is_refused(tmp_path):
    problem = problem_of()
    path, sink = interrupted(tmp_path, problem, tmp_path / "y.safetensors")
    half = tmp_path / "y.safetensors.partial"
    content = half.read_bytes()
    half.unlink()
    with pytest.raises(ValueError, match=r"sink '.*y\.safetensors\.partial' does not exist; needs the file to go on"):
        run(problem, split(problem)[0], sink, path)
    half.write_bytes(content.replace(b'"F32"', b'"F16"', 1))
    with pytest.raises(ValueError, match=r"sink '.*' holds"):
        run(problem, split(problem)[0], sink, path)
    half.write_bytes(content)
    run(problem, split(problem)[0], sink, path)
    assert torch.equal(torch.frombuffer(bytearray(sink.read_bytes()[-4 * 12 * SEQLEN :]), dtype=torch.float32).view(
        1, SEQLEN, 12
    ), expected(problem)[0])  # fmt: skip


def test_killed_between_the_last_chunk_and_the_last_word(tmp_path):
    """The result has its name already, the resume file is still there."""
    problem = problem_of()
    path, sink = interrupted(tmp_path, problem, tmp_path / "y.safetensors")
    leftover = path.read_bytes()
    run(problem, split(problem)[0], sink, path)
    complete = sink.read_bytes()
    path.write_bytes(leftover)
    result = run(problem, split(problem)[0], sink, path)
    assert result.statistics.resumed_from == 4 * CHUNK
    assert sink.read_bytes() == complete
    assert not (tmp_path / "y.safetensors.partial").exists()
    assert not path.exists()


def test_a_finished_file_that_is_another_result_is_left_alone(tmp_path):
    """The half file is gone, and under the result's name there is an older one."""
    problem = problem_of()
    older = problem | {"u": problem["u"] * 2}
    sink = tmp_path / "y.safetensors"
    run(older, split(older)[0], sink, None)
    path, _ = interrupted(tmp_path, problem, sink)
    (tmp_path / "y.safetensors.partial").unlink()
    before = sink.read_bytes()
    with pytest.raises(ValueError, match="sink differs, in the steps"):
        run(problem, split(problem)[0], sink, path)
    assert sink.read_bytes() == before
    sink.write_bytes(before.replace(b'"F32"', b'"F16"', 1))
    with pytest.raises(ValueError, match=r"sink '.*y\.safetensors' holds"):
        run(problem, split(problem)[0], sink, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scan.resume", "y.safetensors"]


def test_a_resumed_scan_makes_its_buffers_in_host_memory_whatever_the_default_device(tmp_path):
    problem = problem_of()
    path, sink = interrupted(tmp_path, problem, tmp_path / "y.safetensors")
    whole = expected(problem)[0]
    torch.set_default_device("meta")
    try:
        run(problem, split(problem)[0], sink, path)
    finally:
        torch.set_default_device(None)
    assert torch.equal(result_in(tmp_path, "safetensors", whole), whole)


def test_killed_when_all_was_written(tmp_path):
    problem = problem_of()
    whole, final = expected(problem)
    path, sink = tmp_path / "scan.resume", torch.zeros_like(problem["u"])
    leftover = []

    class Bar:
        def update(self, steps):
            leftover.append(path.read_bytes())

    run(problem, split(problem)[0], sink, path, progress=Bar(), checkpoint_seconds=0)
    path.write_bytes(leftover[-1])
    assert position_of(path) == SEQLEN
    result = run(problem, split(problem)[0], sink, path)
    assert result.statistics.steps == 0
    assert result.statistics.limiting == ""
    assert torch.equal(result.final_state, final)
    assert torch.equal(sink, whole)


def test_a_failing_checkpoint_keeps_the_old_one(tmp_path, monkeypatch):
    """A full disk while the resume file is written: the one before stays whole, and nothing else is left."""
    problem = problem_of()
    sink, path = torch.zeros_like(problem["u"]), tmp_path / "scan.resume"
    real, count = os.fsync, []

    def full(handle):
        count.append(handle)
        if len(count) > 4:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="could not be brought up to date"), pytest.raises(OSError, match="No space"):
        run(problem, split(problem)[0], sink, path, checkpoint_seconds=0)
    monkeypatch.undo()
    done = position_of(path)
    assert done in (2 * CHUNK, 4 * CHUNK)  # two calls a checkpoint where folders can be flushed, else one
    assert [p.name for p in tmp_path.iterdir()] == ["scan.resume"]
    run(problem, split(problem)[0], sink, path)
    assert torch.equal(sink, expected(problem)[0])


# ------------------------------------------------------------------------------------------- processes that are killed
CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have inherited SIG_IGN
sys.path.insert(0, {tests!r})
import mamba_scan, numpy, streams, torch
from pathlib import Path
folder, device, kind, layout, pause = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], float(sys.argv[5])
problem = streams.stream_problem(batch=2, seqlen={seqlen}, dim=12, dstate=4, layout=layout)
inputs, weights = streams.split(problem)
source = {{name: numpy.memmap(folder / f"{{name}}.bin", numpy.float32, "r", shape=tuple(tensor.shape))
          for name, tensor in inputs.items()}}
class Slow(dict):
    pass
if kind == "memmap":
    sink = numpy.memmap(folder / "y.bin", numpy.float32, "r+", shape=tuple(problem["u"].shape))
else:
    sink = folder / "y.safetensors"
def progress(done, total, rate):
    print(done, flush=True)
    time.sleep(pause if done < 2 * {chunk} else 200 * pause)  # there it is killed, however late
result = mamba_scan.stream_scan(source, sink, device=device, chunk={chunk}, progress=progress,
                                resume=folder / "scan.resume", checkpoint_seconds=0, **weights)
print("resumed from", result.statistics.resumed_from, flush=True)
torch.save(result.final_state.cpu(), folder / "state.pt")
"""


def child(tmp_path, device, kind, layout, pause):
    code = CHILD.format(tests=str(TESTS), seqlen=SEQLEN, chunk=CHUNK)
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    command = [sys.executable, str(script), str(tmp_path), device, kind, layout, str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def prepare(tmp_path, kind, layout):
    problem = problem_of(batch=2, layout=layout)
    for name, tensor in split(problem)[0].items():
        memmap(tmp_path / f"{name}.bin", tensor)
    if kind == "memmap":
        memmap(tmp_path / "y.bin", torch.zeros_like(problem["u"]))
    return problem


def result_in(tmp_path, kind, like):
    if kind == "memmap":
        return read_raw(tmp_path / "y.bin", like)
    data = bytearray((tmp_path / "y.safetensors").read_bytes()[-like.nbytes :])
    return torch.frombuffer(data, dtype=torch.float32).view(like.shape)


@pytest.mark.parametrize(("kind", "layout"), [("memmap", "bld"), ("memmap", "bdl"), ("safetensors", "bld")])
def test_a_killed_process_is_gone_on_with_by_another(kind, layout, device, tmp_path):
    problem = prepare(tmp_path, kind, layout)
    first = child(tmp_path, device, kind, layout, 0.3)
    for line in first.stdout:
        if int(line) >= 2 * CHUNK:
            break
    first.kill()
    first.communicate(timeout=60)
    assert 2 * CHUNK <= position_of(tmp_path / "scan.resume") <= SEQLEN
    second = child(tmp_path, device, kind, layout, 0)
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert int(out.split()[-1]) >= 2 * CHUNK
    whole, final = uninterrupted(problem, device)
    assert torch.equal(result_in(tmp_path, kind, whole), whole)
    assert torch.equal(torch.load(tmp_path / "state.pt"), final.cpu())
    assert not (tmp_path / "scan.resume").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT that can be sent to one process")
def test_ctrl_c_in_a_process(tmp_path):
    problem = prepare(tmp_path, "memmap", "bld")
    first = child(tmp_path, "cpu", "memmap", "bld", 0.3)
    first.stdout.readline()
    first.send_signal(signal.SIGINT)
    _, err = first.communicate(timeout=60)
    assert first.returncode != 0
    assert "KeyboardInterrupt" in err
    done = position_of(tmp_path / "scan.resume")
    whole, _ = expected(problem)
    y = read_raw(tmp_path / "y.bin", whole)
    assert torch.equal(y[:, :done], whole[:, :done])
    assert not y[:, done:].any()
    second = child(tmp_path, "cpu", "memmap", "bld", 0)
    assert second.communicate(timeout=60) is not None
    assert torch.equal(read_raw(tmp_path / "y.bin", whole), whole)


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
import mamba_scan, numpy, streams, torch
problem = streams.stream_problem(batch=1, seqlen={seqlen}, dim=12, dstate=4)
inputs, weights = streams.split(problem)
sink = numpy.memmap(sys.argv[1] + "/y.bin", numpy.float32, "w+", shape=tuple(problem["u"].shape))
resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2048 * 12 * 4 + 1000,) * 2)  # bytes; a write beyond is an error
try:
    mamba_scan.stream_scan(inputs, sink, progress=False, chunk=2048, resume=sys.argv[1] + "/scan.resume", **weights)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_a_full_disk_is_an_error_and_no_signal(tmp_path):
    """A memmap is sparse: writing through the mapping would end the process with SIGBUS."""
    import errno

    script = tmp_path / "full.py"
    script.write_text(FULL_DISK.format(tests=str(TESTS), seqlen=SEQLEN), encoding="utf-8")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == errno.EFBIG
    problem = problem_of()
    whole, _ = expected(problem)
    assert position_of(tmp_path / "scan.resume") == 4 * CHUNK
    assert torch.equal(read_raw(tmp_path / "y.bin", whole)[:, : 4 * CHUNK], whole[:, : 4 * CHUNK])
    import numpy

    sink = numpy.memmap(tmp_path / "y.bin", numpy.float32, "r+", shape=tuple(whole.shape))
    run(problem, split(problem)[0], sink, tmp_path / "scan.resume")
    assert torch.equal(read_raw(tmp_path / "y.bin", whole), whole)
