"""What differs between a scan on a GPU and one on the CPU: the ring of buffers, and how a chunk gets in and out."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..streaming import StreamingScan
from .chunking import RING_SLOTS
from .host_memory import copy
from .resume import digest, tail_of
from .sinks import CallableSink, Sink
from .sources import Source, Spec

_ALIGNMENT = 512  # bytes; what torch's allocator gives, too
cuda = torch.cuda  # a name of its own, so that a test can put something else in its place


class Slot:
    """Room for one chunk of every tensor, in one piece of memory."""

    def __init__(self, specs: Mapping[str, Spec], capacity: int, allocate: Callable[[int], torch.Tensor]) -> None:
        self._specs = specs
        begins, total = {}, 0
        for name, spec in specs.items():
            begins[name] = total
            total += -(-spec.step_bytes * capacity // _ALIGNMENT) * _ALIGNMENT
        memory = allocate(total)
        self.nbytes = total
        self._flat = {
            name: memory[begins[name] : begins[name] + spec.step_bytes * capacity].view(spec.dtype)
            for name, spec in specs.items()
        }

    def tensor(self, name: str, steps: int) -> torch.Tensor:
        """Return dense room for so many steps."""
        shape = self._specs[name].at(steps)
        return self._flat[name][: math.prod(shape)].view(shape)


@dataclass
class InputSlot:
    """A place in the ring of inputs."""

    host: Slot  # for tensors that have to be copied first
    device: Slot | None = None
    uploaded: Any = None  # events: the last upload from the host side has ended,
    scanned: Any = None  # and the last scan of the device side


@dataclass
class OutputSlot:
    """A place in the ring of results."""

    host: Slot | None = None
    state: torch.Tensor | None = None


@dataclass
class Chunk:
    """A chunk on its way through the stages."""

    first: int
    steps: int
    slot: InputSlot | None
    tensors: dict[str, torch.Tensor]
    inputs_digest: str = ""
    origin: int = 0  # of the steps that the digest covers
    seconds: dict[str, float] = field(default_factory=dict)
    events: dict[str, Any] = field(default_factory=dict)
    out: OutputSlot | None = None
    y: torch.Tensor | None = None
    host_y: torch.Tensor | None = None  # where y arrives on the host
    in_place: bool = False  # host_y is the sink's own memory
    state: torch.Tensor | None = None


class Lane:
    """The CPU's way: inputs that are in memory are scanned where they lie, others are read into the ring first.

    Parameters
    ----------
    source, sink
        What to read and write.
    y : Spec
        Of the result.
    scan : StreamingScan
        Does the arithmetic and holds the state.
    capacity : int
        Steps that a slot holds.
    threads : int
        How many copy at a time.
    checkpoints : bool
        Whether states and checksums are wanted.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        y: Spec,
        scan: StreamingScan,
        capacity: int,
        threads: int,
        checkpoints: bool,
    ) -> None:
        self._source, self._sink, self._y, self._scan = source, sink, y, scan
        self._capacity, self._threads, self._checkpoints = capacity, threads, checkpoints
        self.time_axis = y.time
        staged = {name: spec for name, spec in source.specs.items() if not self._direct(name)}
        self._staged = frozenset(staged)
        self.inputs = tuple(InputSlot(Slot(staged, capacity, self._host_memory)) for _ in range(RING_SLOTS))
        self.outputs = tuple(OutputSlot() for _ in range(RING_SLOTS))
        self.host_bytes = sum(slot.host.nbytes for slot in self.inputs)
        self.device_bytes = 0

    def _host_memory(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu")  # whatever torch's default device is

    def _direct(self, name: str) -> bool:
        """Whether an input can be used where it is."""
        return self._source.view(name, 0, 0) is not None

    def load(self, slot: InputSlot, first: int, steps: int) -> Chunk:
        """Read the inputs of some steps; runs in the reading thread."""
        begin = time.perf_counter()
        self._await_host(slot)
        waited = time.perf_counter()
        host = {}
        for name in self._source.specs:
            if name in self._staged:
                host[name] = slot.host.tensor(name, steps)
                self._source.read(name, first, steps, host[name], self._threads)
            else:
                host[name] = self._source.view(name, first, steps)
        chunk = Chunk(first, steps, slot, host)
        if self._checkpoints:
            tail = tail_of(steps)
            chunk.origin = self._source.origin(first + steps - tail)
            chunk.inputs_digest = digest(
                x.narrow(self._source.specs[name].time, steps - tail, tail) for name, x in host.items()
            )
        self._source.done(first, steps)
        chunk.seconds["read"] = time.perf_counter() - waited
        chunk.seconds["ring"] = waited - begin
        self._upload(chunk)
        return chunk

    def _await_host(self, slot: InputSlot) -> None:
        """Wait until the host side of a slot may be written."""

    def _upload(self, chunk: Chunk) -> None:
        """Send the inputs on to where the scan is."""

    def scan(self, chunk: Chunk, out: OutputSlot) -> None:
        """Scan a chunk; runs in the calling thread."""
        begin = time.perf_counter()
        chunk.y = chunk.host_y = self._step(chunk)
        chunk.out, chunk.state = out, self._scan.state
        chunk.seconds["scan"] = time.perf_counter() - begin

    def _step(self, chunk: Chunk) -> torch.Tensor:
        tensors = chunk.tensors | self._source.constants
        return self._scan.step(tensors["u"], tensors["delta"], tensors["B"], tensors["C"], tensors.get("z"))

    def collect(self, chunk: Chunk) -> torch.Tensor:
        """Wait for y to arrive on the host and return it; runs in the writing thread."""
        chunk.y = None
        return chunk.host_y

    def final_state(self) -> torch.Tensor | None:
        """Return the state after the last chunk, on the caller's stream."""
        return self._scan.state

    def close(self) -> None:
        """Wait for everything that was started."""


class CudaLane(Lane):
    """The GPU's way: three streams, one per direction and one for the scan, ordered by events.

    Page-locked inputs are uploaded from where they are, others through the ring; results likewise.
    """

    def __init__(self, device: torch.device, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._device = device
        with cuda.device(device):
            self._streams = {name: cuda.Stream(device) for name in ("upload", "scan", "download")}
            specs = self._source.specs
            for slot in self.inputs:
                slot.device = Slot(specs, self._capacity, self._device_memory)
            state = self._scan.zero_state(self._y.shape[0])
            self._in_place = self._pinned_rows(lambda: self._sink.view(0, min(2, self._sink_steps())))
            for out in self.outputs:
                if not self._in_place:
                    out.host = Slot({"y": self._y}, self._capacity, self._host_memory)
                    self.host_bytes += out.host.nbytes
                if self._checkpoints:
                    out.state = torch.empty(state.shape, dtype=state.dtype, device="cpu", pin_memory=self._pin())
                    self.host_bytes += out.state.nbytes
            # The ring may be memory that earlier work on the caller's stream still uses, and weights may come from it.
            for stream in self._streams.values():
                stream.wait_stream(cuda.current_stream(device))
            self._reserve_outputs()
        self.device_bytes = sum(slot.device.nbytes for slot in self.inputs)
        self.device_bytes += RING_SLOTS * self._y.step_bytes * self._capacity

    @staticmethod
    def _pin() -> bool:
        return cuda.is_available()

    def _host_memory(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu", pin_memory=self._pin())

    def _device_memory(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def _reserve_outputs(self) -> None:
        """Let torch's allocator get, once, what the results will need, so that later chunks find it there."""
        with cuda.stream(self._streams["scan"]):
            size = self._y.step_bytes * self._capacity
            reserved = [self._device_memory(size) for _ in range(RING_SLOTS)]
        del reserved

    def _sink_steps(self) -> int:
        return self._source.seqlen if self._source.seqlen is not None else 0

    def _direct(self, name: str) -> bool:
        seqlen = self._source.seqlen or 0
        return self._pinned_rows(lambda: self._source.view(name, 0, min(2, seqlen)))

    @staticmethod
    def _pinned_rows(view: Callable[[], torch.Tensor | None]) -> bool:
        """Whether a copy engine can take every batch entry of a chunk in one piece."""
        tensor = view()
        if tensor is None or tensor.numel() == 0 or not tensor.is_pinned():
            return False
        return all(row.is_contiguous() for row in tensor)

    def _await_host(self, slot: InputSlot) -> None:
        if self._staged and slot.uploaded is not None:
            slot.uploaded.synchronize()

    @contextlib.contextmanager
    def _timed(self, chunk: Chunk, name: str, *after: Any) -> Iterator[None]:
        """Run the block on a stream of its own, after some events, and time it there."""
        stream = self._streams[name]
        with cuda.stream(stream):
            for event in after:
                if event is not None:
                    stream.wait_event(event)
            begin, end = (cuda.Event(enable_timing=True, blocking=True) for _ in range(2))
            begin.record(stream)
            yield
            end.record(stream)
        chunk.events[name] = (begin, end)

    def _upload(self, chunk: Chunk) -> None:
        slot = chunk.slot
        on_host, chunk.tensors = chunk.tensors, {}
        with self._timed(chunk, "upload", slot.scanned):
            for name, tensor in on_host.items():
                target = chunk.tensors[name] = slot.device.tensor(name, chunk.steps)
                if name in self._staged:
                    target.copy_(tensor, non_blocking=True)
                else:
                    for to, row in zip(target, tensor, strict=True):
                        to.copy_(row, non_blocking=True)
        slot.uploaded = chunk.events["upload"][1]

    def scan(self, chunk: Chunk, out: OutputSlot) -> None:
        with self._timed(chunk, "scan", chunk.events["upload"][1]):
            chunk.y = self._step(chunk)
        chunk.out, chunk.state = out, self._scan.state
        chunk.slot.scanned = chunk.events["scan"][1]
        self._download(chunk, out)

    def _download(self, chunk: Chunk, out: OutputSlot) -> None:
        """Send y, and the state where it is wanted, to the host after the scan."""
        chunk.in_place = self._in_place
        host = self._sink.view(chunk.first, chunk.steps) if self._in_place else out.host.tensor("y", chunk.steps)
        with self._timed(chunk, "download", chunk.events["scan"][1]):
            if self._in_place:
                for to, row in zip(host, chunk.y, strict=True):
                    to.copy_(row, non_blocking=True)
            else:
                host.copy_(chunk.y, non_blocking=True)
            if out.state is not None:
                out.state.copy_(chunk.state, non_blocking=True)
        chunk.host_y = host

    def collect(self, chunk: Chunk) -> torch.Tensor:
        chunk.events["download"][1].synchronize()
        # Only now, so that the allocator does not give the memory away while it is being read.
        chunk.y, chunk.state = None, chunk.out.state
        for name, (begin, end) in chunk.events.items():
            chunk.seconds[name] = begin.elapsed_time(end) / 1e3
        if isinstance(self._sink, CallableSink):  # the consumer may keep what it gets; the ring goes on
            private = torch.empty_like(chunk.host_y)
            copy(private, chunk.host_y, self._threads)
            return private
        return chunk.host_y

    def final_state(self) -> torch.Tensor | None:
        cuda.current_stream(self._device).wait_stream(self._streams["scan"])
        return None if self._scan.state is None else self._scan.state.clone()

    def close(self) -> None:
        for stream in self._streams.values():
            stream.synchronize()
