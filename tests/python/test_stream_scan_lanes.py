"""The order in which the GPU's way of a chunk does things, seen without a GPU.

Streams are recorded: each operation notes what it follows on its own stream and through events. A read of memory that
another operation wrote, or a write over memory that another one read, must come after it along these edges.
"""

from __future__ import annotations

import contextlib
import itertools
import threading

import mamba_scan
import pytest
import torch
from mamba_scan.stream import channel, lanes, pipeline
from streams import expected, split, stream_problem

SEQLEN = 7 * 2048 + 5


class Operation:
    """Something that a stream does, or the host."""

    def __init__(self, name, before):
        self.name = name
        self.before = set().union(*(op.before | {op} for op in before)) if before else set()


_threads = threading.local()


def known():
    """Operations that are known to have ended where this thread stands."""
    if not hasattr(_threads, "known"):
        _threads.known = set()
    return _threads.known


class KnowingChannel(channel.Channel):
    """What a thread knew when it put something in, the thread that takes it out knows too."""

    def __init__(self, items=()):
        super().__init__(tuple((item, set()) for item in items))

    def put(self, item):
        super().put((item, set(known())))

    def get(self):
        item, knowledge = super().get()
        known().update(knowledge)
        return item


class Stream:
    def __init__(self, device=None):
        self.last = []  # what the next operation follows

    def add(self, name):
        operation = Operation(name, self.last)
        operation.before |= known()  # what the host knows when it tells the stream
        self.last = [operation]
        return operation

    def wait_event(self, event):
        self.last = [*self.last, *event.done]

    def wait_stream(self, other):
        self.last = [*self.last, *other.last]

    def synchronize(self):
        for operation in self.last:
            known().update(operation.before, {operation})


class Event:
    def __init__(self, enable_timing=False, blocking=False):
        assert enable_timing
        assert blocking
        self.done = []

    def record(self, stream):
        self.done = list(stream.last)

    def synchronize(self):
        assert self.done
        for operation in self.done:
            known().update(operation.before, {operation})

    def elapsed_time(self, end):
        assert all(operation in known() for operation in end.done), "time read before the end"
        return 1.0


class FakeCuda:
    """What of torch.cuda the lane uses. Work is done at once; what is checked is the order that was promised."""

    Stream, Event = Stream, Event
    current = Stream()

    @staticmethod
    def is_available():
        return False

    @staticmethod
    @contextlib.contextmanager
    def device(device):
        yield

    @classmethod
    @contextlib.contextmanager
    def stream(cls, stream):
        before, cls.current = cls.current, stream
        try:
            yield
        finally:
            cls.current = before

    @classmethod
    def current_stream(cls, device=None):
        return cls.current


class CheckedLane(lanes.CudaLane):
    """A CudaLane on the CPU that checks every access to its ring."""

    def __init__(self, *arguments):
        self.accesses = {}  # address -> (last write, reads since)
        self.checked = 0
        super().__init__(*arguments)

    def access(self, tensor, operation, write):
        key = tensor.data_ptr()
        last_write, reads = self.accesses.get(key, (None, []))
        needed = [last_write, *reads] if write else [last_write]
        for other in needed:
            if other is None:
                continue
            assert other in operation.before, f"{operation.name} does not follow {other.name}"
            self.checked += 1
        self.accesses[key] = (operation, []) if write else (last_write, [*reads, operation])

    def host_operation(self, name):
        operation = Operation(name, [])
        operation.before = set(known())
        known().add(operation)
        return operation

    def load(self, slot, first, steps):
        wait = self._await_host
        upload = self._upload

        def checked_wait(slot):
            wait(slot)
            read = self.host_operation(f"read {first}")
            for name in self._staged:
                self.access(slot.host.tensor(name, steps), read, True)
            self.read = read

        def checked_upload(chunk):
            stream = self._streams["upload"]
            stream.last.append(self.read)
            host = dict(chunk.tensors)
            if chunk.slot.scanned is not None:
                stream.wait_event(chunk.slot.scanned)
            operation = stream.add(f"upload {first}")
            for name, tensor in host.items():
                self.access(tensor, operation, False)
                self.access(chunk.slot.device.tensor(name, chunk.steps), operation, True)
            upload(chunk)

        self._await_host, self._upload = checked_wait, checked_upload
        try:
            return super().load(slot, first, steps)
        finally:
            del self._await_host, self._upload

    def _step(self, chunk):
        operation = FakeCuda.current.add(f"scan {chunk.first}")
        for tensor in chunk.tensors.values():
            self.access(tensor, operation, False)
        y = super()._step(chunk)
        self.accesses[y.data_ptr()] = (operation, [])
        self.y = y
        return y

    def scan(self, chunk, out):
        super().scan(chunk, out)
        operation = self._streams["download"].add(f"download {chunk.first}")
        self.access(self.y, operation, False)
        self.access(chunk.host_y, operation, True)
        chunk.events["download"][1].record(self._streams["download"])

    def collect(self, chunk):
        y = super().collect(chunk)
        self.access(chunk.host_y, self.host_operation(f"write {chunk.first}"), False)
        return y


@pytest.fixture
def fake_gpu(monkeypatch):
    """A device of type cpu that is served by the GPU's lane."""
    made = []

    def lane(*arguments):
        made.append(CheckedLane(torch.device("cpu"), *arguments))
        return made[-1]

    monkeypatch.setattr(lanes, "cuda", FakeCuda)
    monkeypatch.setattr(lanes, "Lane", lane)
    monkeypatch.setattr(pipeline, "Channel", KnowingChannel)
    known().clear()
    return made


def run(problem, sink, **options):
    inputs, weights = split(problem)
    return mamba_scan.stream_scan(inputs, sink, chunk=2048, progress=False, **weights | options)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
def test_nothing_is_overwritten_before_it_was_used(layout, fake_gpu, tmp_path):
    problem = stream_problem(batch=2, seqlen=SEQLEN, dim=8, layout=layout)
    sink = torch.zeros_like(problem["u"])
    result = run(problem, sink, resume=tmp_path / "resume", checkpoint_seconds=0)
    whole, final = expected(problem)
    assert torch.equal(sink, whole)
    assert torch.equal(result.final_state, final)
    assert fake_gpu[0].checked > 7 * 5
    assert set(result.statistics.busy_seconds) == {"read", "upload", "scan", "download", "write"}
    assert result.statistics.busy_seconds["upload"] == pytest.approx(8e-3)


@pytest.mark.parametrize("forgotten", ["_await_host", "wait_event", "synchronize"])
def test_a_forgotten_wait_is_seen(forgotten, fake_gpu, monkeypatch):
    """A check that cannot fail would be no check."""
    if forgotten == "_await_host":
        monkeypatch.setattr(lanes.CudaLane, "_await_host", lambda self, slot: None)
    elif forgotten == "wait_event":
        monkeypatch.setattr(Stream, "wait_event", lambda self, event: None)
    else:
        monkeypatch.setattr(Event, "synchronize", lambda self: None)
    problem = stream_problem(batch=2, seqlen=SEQLEN, dim=8)
    with pytest.raises(AssertionError, match=r"does not follow|time read before the end"):
        run(problem, torch.zeros_like(problem["u"]))


def test_a_consumer_may_keep_what_it_gets(fake_gpu):
    problem = stream_problem(batch=1, seqlen=SEQLEN, dim=8)
    pieces = []
    run(problem, pieces.append)
    assert torch.equal(torch.cat(pieces, 1), expected(problem)[0])
    assert len({piece.data_ptr() for piece in pieces}) == len(pieces) == 8


def test_neither_inference_mode_nor_the_default_device_matter(fake_gpu, tmp_path):
    problem = stream_problem(batch=1, seqlen=SEQLEN, dim=8)
    whole, final = expected(problem)
    with torch.inference_mode():
        sink = torch.zeros_like(problem["u"])
        torch.set_default_device("meta")
        try:
            result = run(problem, sink, resume=tmp_path / "resume", checkpoint_seconds=0)
        finally:
            torch.set_default_device(None)
    assert torch.equal(sink, whole)
    assert torch.equal(result.final_state, final)


def test_slots_are_apart():
    spec = lanes.Spec((1, 0, 5), torch.float32, 1)
    slot = lanes.Slot({"a": spec, "b": spec}, 7, lambda n: torch.zeros(n, dtype=torch.uint8))
    slot.tensor("a", 7).fill_(1)
    slot.tensor("b", 7).fill_(2)
    assert bool((slot.tensor("a", 7) == 1).all())
    assert slot.tensor("b", 3).shape == (1, 3, 5)
    addresses = [slot.tensor(name, 7).data_ptr() for name in "ab"]
    assert all((y - x) % 512 == 0 for x, y in itertools.pairwise(addresses))
