"""The streaming engine's front: arguments, checks, and the result."""

import numbers
import operator
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .._arguments import LAYOUTS
from ..ops import selective_scan
from ..streaming import StreamingScan, fingerprint
from . import lanes, resume
from .chunking import MULTIPLE, ChunkLengths, ring_capacity
from .pipeline import Checkpoints, Ledger, Pipeline
from .progress import Progress
from .sinks import Sink, open_sink
from .sources import Source, Spec, open_source, path_of

_MOST_COPY_THREADS = 8  # more do not make a memory bus faster


@dataclass(frozen=True)
class StreamStatistics:
    """What a streamed scan did.

    Attributes
    ----------
    steps : int
        Steps scanned by this call.
    resumed_from : int
        First step that this call scanned; 0 unless it went on with an interrupted scan.
    seconds : float
        Wall time from the first read to the last write.
    tokens_per_s : float
        Steps times batch, per second.
    limiting : str
        The part that was busy longest: "read", "upload", "scan", "download" or "write"; empty without steps.
    busy_seconds : dict of str to float
        How long each part was busy; parts overlap. Upload, scan and download of a GPU are timed on the device.
    chunk : int
        Length of the longest chunk.
    chunks : int
        Number of chunks.
    ring_bytes : int
        Host memory of the ring (page-locked with a GPU), without the chunks of an iterator that are held.
    device_bytes : int
        Device memory of the ring, results included; 0 on the CPU.
    """

    steps: int
    resumed_from: int
    seconds: float
    tokens_per_s: float
    limiting: str
    busy_seconds: dict[str, float]
    chunk: int
    chunks: int
    ring_bytes: int
    device_bytes: int


class StreamResult(NamedTuple):
    """What :func:`stream_scan` returns.

    Attributes
    ----------
    final_state : Tensor, (b, d, n), float32 (complex64 with a complex A)
        State after the last step, on the device of the scan.
    statistics : StreamStatistics
        Times and sizes.
    """

    final_state: torch.Tensor
    statistics: StreamStatistics


def stream_scan(
    source: Any,
    sink: Any,
    A: torch.Tensor,
    D: torch.Tensor | None = None,
    *,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: torch.Tensor | None = None,
    layout: str = "bld",
    chunk: int | str = "auto",
    progress: Any = True,
    resume: str | os.PathLike | None = None,
    checkpoint_seconds: float = 10.0,
    seqlen: int | None = None,
    device: torch.device | str | int | None = None,
    copy_threads: int | None = None,
) -> StreamResult:
    """Scan a sequence that fits in neither device nor host memory.

    Reading and uploading a chunk, scanning the one before and downloading and writing the one before that go on at
    the same time. Memory does not grow with the length of the sequence. The result does not depend, bit for bit, on
    how long the chunks are.

    Parameters
    ----------
    source
        The inputs u, delta, B, C and optionally z, shapes as in :func:`mamba_scan.selective_scan`. One of

        - a mapping with these names, or a tuple in this order, of CPU tensors, NumPy arrays, memmaps, or slices of
          ``safetensors.safe_open(...).get_slice(name)``;
        - the path of a safetensors file with tensors of these names;
        - an iterable of chunks, each such a mapping or tuple, of any lengths;
        - a function that returns the chunk that begins with a given step, of any length; at the end None, or an empty
          chunk.

        B and C may also be (d, n), constant in time, and then the same in every chunk. An iterator and a function are
        called from another thread.
    sink
        Where y goes, of shape and dtype of u: a CPU tensor, a NumPy array or memmap, the path of a safetensors file
        to write (its tensor is called "y"; until it is complete the file is called ``<path>.partial``), a function
        that is given each chunk of y, or an object with ``write(y, first_step)`` and perhaps ``flush()``. Functions
        are called from another thread, in order, and may keep what they are given.
    A : Tensor, (d, n)
        State decay; complex for complex states. B and C are then arrays of complex64, or pairs (re, im) along n,
        (b, l, 2n), which needs ``layout="bld"``.
    D : Tensor, (d,), optional
        Skip connection.
    delta_bias : Tensor, (d,), optional
        Added to delta.
    delta_softplus : bool
        Apply softplus to delta + delta_bias.
    initial_state : Tensor, (b, d, n), optional
        State before the first step; zero when absent.
    layout : {"bld", "bdl"}
        Order of the axes, as in :func:`mamba_scan.selective_scan`.
    chunk : int or "auto"
        Steps per chunk; on a GPU a multiple of 2048. "auto": from the free memory and the rates that the first chunks
        show.
    progress : bool, callable, or object with update(steps)
        True: a progress bar (tqdm's, where installed) with tokens/s, the time left and the limiting part, if standard
        error is a terminal. A function is called with (steps done, steps in all or None, steps per second), an object
        is used as a tqdm bar.
    resume : path, optional
        The resume file, in a folder that exists. Where it exists, the scan goes on where the one that wrote it was
        interrupted, or refuses to. While the scan runs it is kept up to date; at the end it is removed.
    checkpoint_seconds : float
        How often, at most, the resume file is written while all goes well. It is also written at the end, after a
        failure too.
    seqlen : int, optional
        Number of steps, for an iterator or function that is to fill an array or a file.
    device : device, optional
        Where to scan; that of A when absent.
    copy_threads : int, optional
        Threads that copy between ordinary and page-locked memory; default: half of the cores, at most 8, on a GPU,
        and 1 on the CPU, where the scan needs the cores.

    Returns
    -------
    final_state : Tensor, (b, d, n), float32 (complex64 with a complex A)
        On ``device``.
    statistics : StreamStatistics
        Both as a named tuple.

    Raises
    ------
    ValueError
        An argument cannot be served, or the resume file does not fit the call; the message names what it is about.
        Nothing has been written then.
    Exception
        Whatever source, sink or progress raise, and KeyboardInterrupt. What is in the sink then is the beginning of
        the right result; chunks that were already scanned are still written, unless it was the sink that failed or
        there is a second KeyboardInterrupt.

    Notes
    -----
    bfloat16: NumPy has none, so arrays of ``ml_dtypes.bfloat16`` and of ``uint16`` are taken as its bits.

    Memmaps are best given as they are. Of a tensor that was made from one nobody can tell that its memory is a file:
    its pages then stay in the process, and on Linux a full disk ends it where a write to a memmap is an error.

    The resume file holds the state, the position, the options, fingerprints of the weights, the shapes of the inputs,
    and checksums of the inputs and of the result at the last steps (64 at most) of the last chunk. It is written after
    the sink has been flushed, and replaced in one step, so a killed process (or a power cut, for sinks that are files)
    can be gone on with too. An iterator is then read from its beginning and skipped; a function is asked for step 0,
    then for the chunk that holds the first of those last steps, and on from there, at the steps at which it would have
    been asked without an interruption. A sink that is a function is given, after a kill, some chunks a second time;
    ``write(y, first_step)`` tells which. Going on needs a chunk length that may differ only by multiples of 2048 on a
    GPU, and gives bitwise the result of an uninterrupted scan.

    No gradients flow.
    """
    path, seconds = _checked_resume(resume), _checked_seconds(checkpoint_seconds)
    call = _Call(source, A, D, delta_bias, delta_softplus, initial_state, layout, chunk, seqlen, device, copy_threads)
    return call.run(sink, progress, path, seconds)


class _Call:
    """One call, its arguments checked."""

    def __init__(
        self,
        source: Any,
        A: torch.Tensor,
        D: torch.Tensor | None,
        delta_bias: torch.Tensor | None,
        delta_softplus: bool,
        initial_state: torch.Tensor | None,
        layout: str,
        chunk: int | str,
        seqlen: int | None,
        device: torch.device | str | int | None,
        copy_threads: int | None,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"stream_scan: layout is {layout!r}; needs 'bld' (batch, seqlen, dim) or 'bdl'")
        try:
            self.scan = StreamingScan(
                A, D, delta_bias=delta_bias, delta_softplus=delta_softplus, device=device, layout=layout
            )
        except ValueError as error:
            raise ValueError(str(error).replace("StreamingScan:", "stream_scan:", 1)) from None
        self.device = self.scan.device
        self.chunk = _checked_chunk(chunk, self.device)
        self.threads = _checked_threads(copy_threads, self.device)
        self.source = open_source(source, layout)
        self.seqlen = _checked_seqlen(seqlen, self.source)
        self._check_inputs(A, initial_state, layout, delta_softplus)
        self.y: Spec = self.source.specs["u"]
        self.initial_state = initial_state

    def _check_inputs(self, A: torch.Tensor, state: torch.Tensor | None, layout: str, delta_softplus: bool) -> None:
        """Let the operator check shapes and dtypes of one step, without data."""
        steps = min(self.seqlen, 1) if self.seqlen is not None else 1
        if state is not None and not isinstance(state, torch.Tensor):
            raise ValueError(f"stream_scan: initial_state has type {type(state).__name__}; needs a torch.Tensor")
        specs = self.source.specs
        axis = specs["u"].time
        for name, spec in specs.items():
            length = spec.shape[spec.time]
            if length != specs["u"].shape[axis]:
                raise ValueError(
                    f"stream_scan: source['{name}'] has shape {spec.shape}; needs {specs['u'].shape[axis]} steps, as u"
                )
        meta = {name: torch.empty(spec.at(steps), dtype=spec.dtype, device="meta") for name, spec in specs.items()}
        meta |= {name: tensor.to("meta") for name, tensor in self.source.constants.items()}
        try:
            selective_scan(
                meta["u"], meta["delta"], A.detach().to("meta"), meta["B"], meta["C"], z=meta.get("z"),
                initial_state=None if state is None else state.detach().to("meta"), layout=layout,
                delta_softplus=delta_softplus,
            )  # fmt: skip
        except ValueError as error:
            text = str(error).removeprefix("selective_scan: ")
            raise ValueError(f"stream_scan: {text} (one step of the source)") from None

    def run(self, sink: Any, progress: Any, resume_path: Path | None, checkpoint_seconds: float) -> StreamResult:
        """Go on where the resume file says, or begin, and run to the end."""
        _check_progress(progress)
        constants = {
            name: tensor.to(self.device, torch.complex64 if tensor.is_complex() else torch.float32)
            for name, tensor in self.source.constants.items()
        }
        fingerprints = (*(constants.get(name) for name in ("B", "C")), self.initial_state)
        self.source.constants = constants
        options = self._options(fingerprints)
        checkpoint = None
        if resume_path is not None and resume_path.exists():
            checkpoint = resume.load(resume_path, options)
        writer_threads = max(self.threads // 2, 1)
        opened = open_sink(sink, self.y, self.seqlen, writer_threads, checkpoint is not None)
        try:
            if checkpoint is not None:
                self._go_on(checkpoint, opened, resume_path)
            elif self.initial_state is not None:
                self.scan.go_on_from(self.initial_state, 0)
            checkpoints = None
            if resume_path is not None:
                checkpoints = Checkpoints(resume_path, checkpoint_seconds, options)
            result = self._stream(opened, progress, checkpoints)
            opened.finish(durable=resume_path is not None)
        finally:
            opened.close()
        if resume_path is not None:
            resume_path.unlink(missing_ok=True)
        return result

    def _options(self, fingerprints: tuple[torch.Tensor | None, ...]) -> dict[str, Any]:
        options: dict[str, Any] = {"seqlen": self.seqlen}
        for name, spec in self.source.specs.items():
            options[f"shape of {name}"] = spec.at(self.seqlen or 0)
            options[f"dtype of {name}"] = str(spec.dtype).removeprefix("torch.")
        return options | self.scan.options() | {"constants": fingerprint(*fingerprints)}

    def _go_on(self, checkpoint: resume.Checkpoint, sink: Sink, path: Path) -> None:
        """Check that source and sink are those that the resume file speaks of, and take over its state."""
        position, tail = checkpoint.position, checkpoint.tail_steps
        if position > 0:
            first = position - tail
            self.source.seek(first, checkpoint.origin)
            if self.source.available(first, tail) < tail:
                raise resume.refuse_data(path, "source", checkpoint)
            inputs = []
            for name, spec in self.source.specs.items():
                piece = torch.empty(spec.at(tail), dtype=spec.dtype, device="cpu")
                self.source.read(name, first, tail, piece, 1)
                inputs.append(piece)
            self.source.done(first, tail)
            if resume.digest(inputs) != checkpoint.inputs_digest:
                raise resume.refuse_data(path, "source", checkpoint)
            written = sink.read(first, tail)
            if (resume.digest([written]) if written is not None else "") != checkpoint.y_digest:
                raise resume.refuse_data(path, "sink", checkpoint)
        self.scan.go_on_from(checkpoint.state, position)

    def _stream(self, sink: Sink, progress: Any, checkpoints: Checkpoints | None) -> StreamResult:
        capacity = self._capacity()
        lane = self._lane(sink, capacity, checkpoints is not None)
        lengths = ChunkLengths(self.chunk, capacity, self.device.type)
        position = self.scan.position
        report = Progress(progress, self.seqlen, position, self.y.shape[0])
        begin = time.perf_counter()
        pipeline = Pipeline(self.source, sink, lane, lengths, position, self.seqlen, checkpoints, report)
        try:
            pipeline.run()
        finally:
            report.close()
        seconds = time.perf_counter() - begin
        state = lane.final_state()
        if state is None:
            state = self.scan.zero_state(self.y.shape[0])
        return StreamResult(state, self._statistics(pipeline.ledger, position, seconds, lane))

    def _capacity(self) -> int:
        if self.chunk is not None:
            return self.chunk if self.seqlen is None else min(self.chunk, max(self.seqlen, 1))
        free = None
        if self.device.type == "cuda":
            free = lanes.cuda.mem_get_info(self.device)[0]
            free += lanes.cuda.memory_reserved(self.device) - lanes.cuda.memory_allocated(self.device)
        return ring_capacity(self.device.type, self.source.step_bytes, self.y.step_bytes, self.seqlen, free)

    def _lane(self, sink: Sink, capacity: int, checkpoints: bool) -> lanes.Lane:
        arguments = (self.source, sink, self.y, self.scan, capacity, self.threads, checkpoints)
        return lanes.Lane(*arguments) if self.device.type == "cpu" else lanes.CudaLane(self.device, *arguments)

    def _statistics(self, ledger: Ledger, begin: int, seconds: float, lane: lanes.Lane) -> StreamStatistics:
        steps = ledger.position - begin
        return StreamStatistics(
            steps=steps,
            resumed_from=begin,
            seconds=seconds,
            tokens_per_s=steps * self.y.shape[0] / seconds,
            limiting=ledger.limiting(),
            busy_seconds=dict(ledger.busy_s),
            chunk=ledger.longest,
            chunks=ledger.chunks,
            ring_bytes=lane.host_bytes,
            device_bytes=lane.device_bytes,
        )


def _whole(value: Any) -> int:
    """Return a whole number of whatever library as int; -1 for anything else, True and False included."""
    try:
        return -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1


def _checked_chunk(chunk: int | str, device: torch.device) -> int | None:
    """Return the length, None for "auto"."""
    if isinstance(chunk, str) and chunk == "auto":
        return None
    steps = _whole(chunk)
    if steps < 1:
        raise ValueError(f"stream_scan: chunk is {chunk!r}; needs a number of steps, or 'auto'")
    if device.type == "cuda" and steps % MULTIPLE:
        raise ValueError(f"stream_scan: chunk is {steps}; needs a multiple of {MULTIPLE} on a GPU, or 'auto'")
    return steps


def _checked_threads(threads: int | None, device: torch.device) -> int:
    if threads is None:
        return 1 if device.type == "cpu" else min(max((os.cpu_count() or 2) // 2, 1), _MOST_COPY_THREADS)
    number = _whole(threads)
    if number < 1:
        raise ValueError(f"stream_scan: copy_threads is {threads!r}; needs a number of at least 1")
    return min(number, 1 << 16)  # no more are started than have something to copy


def _checked_seqlen(seqlen: int | None, source: Source) -> int | None:
    if seqlen is None:
        return source.seqlen
    steps = _whole(seqlen)
    if steps < 0:
        raise ValueError(f"stream_scan: seqlen is {seqlen!r}; needs a number of steps")
    if source.seqlen not in (None, steps):
        raise ValueError(f"stream_scan: seqlen is {steps}; needs {source.seqlen}, the length of the source's arrays")
    return steps


def _checked_resume(resume: str | os.PathLike | None) -> Path | None:
    if resume is None:
        return None
    if not isinstance(resume, (str, os.PathLike)):
        raise ValueError(f"stream_scan: resume has type {type(resume).__name__}; needs the path of a file")
    path = path_of(resume, "resume")
    if path.is_dir():
        raise ValueError(f"stream_scan: resume {str(path)!r} is a folder; needs the path of a file")
    if not path.parent.is_dir():
        raise ValueError(f"stream_scan: resume {str(path)!r} is in no folder that exists; needs one")
    return path


def _checked_seconds(seconds: float) -> float:
    if not isinstance(seconds, numbers.Real) or isinstance(seconds, bool) or not seconds >= 0:
        raise ValueError(f"stream_scan: checkpoint_seconds is {seconds!r}; needs a number of seconds")
    return float(seconds)


def _check_progress(progress: Any) -> None:
    if not isinstance(progress, bool) and not callable(progress) and not hasattr(progress, "update"):
        got = type(progress).__name__
        raise ValueError(f"stream_scan: progress has type {got}; needs True, False, a function or a tqdm bar")
