"""Three stages at once: a thread that reads, the caller that scans, a thread that writes."""

import contextlib
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from . import resume
from .channel import POLL_SECONDS, Channel, ClosedError
from .chunking import ChunkLengths
from .lanes import Chunk, InputSlot, Lane, OutputSlot
from .sinks import Sink
from .sources import Source

_READER_PATIENCE_SECONDS = 10.0  # how long to wait for a source that does not return after the scan has failed


@dataclass
class Checkpoints:
    """Where and how often to write the resume file."""

    path: Path
    interval_s: float
    options: dict[str, Any]


@dataclass
class Ledger:
    """What has been done so far; written by the writing thread, read by others."""

    position: int
    chunks: int = 0
    longest: int = 0  # steps of a chunk
    busy_s: dict[str, float] = field(default_factory=dict)

    def limiting(self) -> str:
        """Return the part that was busy longest, or nothing at the beginning."""
        return max(self.busy_s, key=self.busy_s.__getitem__, default="")


class Pipeline:
    """Runs the scan from ``position`` on.

    Parameters
    ----------
    source, sink
        Ends of the pipeline.
    lane : Lane
        What moves chunks between them.
    lengths : ChunkLengths
        How long chunks are.
    position : int
        First step.
    seqlen : int or None
        Where the sequence must end; None: where the source does.
    checkpoints : Checkpoints, optional
        Where to keep what is needed to go on.
    report : callable
        Called by the calling thread with the ledger, now and then.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        lane: Lane,
        lengths: ChunkLengths,
        position: int,
        seqlen: int | None,
        checkpoints: Checkpoints | None,
        report: Callable[[Ledger], None],
    ) -> None:
        self._source, self._sink, self._lane, self._lengths = source, sink, lane, lengths
        self._begin, self._seqlen, self._checkpoints, self._report = position, seqlen, checkpoints, report
        self.ledger = Ledger(position)
        self._free_inputs: Channel[InputSlot] = Channel(lane.inputs)
        self._free_outputs: Channel[OutputSlot] = Channel(lane.outputs)
        self._loaded: Channel[Chunk] = Channel()
        self._scanned: Channel[Chunk] = Channel()
        self._reader = threading.Thread(target=self._read_all, name="mamba_scan reader", daemon=True)
        self._writer = threading.Thread(target=self._write_all, name="mamba_scan writer", daemon=True)
        self._written = threading.Event()  # the writer is at its end; an interrupted join() would take it for ended
        self._inference = torch.is_inference_mode_enabled()  # a mode of the calling thread, for the others too
        self._read_error: BaseException | None = None
        self._write_error: BaseException | None = None
        self._save_error: Exception | None = None
        self._last: resume.Checkpoint | None = None  # what the resume file would say now, but for the digest of y
        self._last_tail: torch.Tensor | None = None
        self._saved_position = position
        self._saved_time = time.monotonic()

    def run(self) -> None:
        """Run until the end of the sequence or the first failure.

        On a failure the stages stop, and chunks that were scanned are still written unless it was writing that failed.
        However it ends, the writer brings the resume file up to date: no Ctrl-C comes to its thread.
        """
        failure, interrupts = None, 0
        try:
            try:
                self._reader.start()
                self._writer.start()
                self._scan_all()
            except KeyboardInterrupt:
                interrupts = 1
                raise
            finally:
                self._wind_down(interrupts)
            failure = self._write_error or self._read_error or self._save_error
        finally:
            if self._save_error is not None and self._save_error is not failure:  # report the first failure
                text = f"stream_scan: the resume file could not be brought up to date: {self._save_error}"
                warnings.warn(text, stacklevel=5)
        if failure is not None:
            _add_note(failure, f"stream_scan: the first {self.ledger.position} steps are written")
            raise failure
        self._report(self.ledger)

    # ------------------------------------------------------------------------------------------------- the stages
    def _read_all(self) -> None:
        try:
            with contextlib.suppress(ClosedError), torch.inference_mode(self._inference):
                position = self._begin
                while True:
                    begin = time.perf_counter()
                    steps = self._next_steps(position)
                    waited = time.perf_counter() - begin  # for an iterator's next chunk, or a function's
                    if steps == 0:
                        break
                    chunk = self._lane.load(self._free_inputs.get(), position, steps)
                    chunk.seconds["read"] += waited
                    self._loaded.put(chunk)
                    position += steps
        except BaseException as error:  # reported by the calling thread, whatever it is
            self._read_error = error
        finally:
            self._loaded.close()

    def _next_steps(self, position: int) -> int:
        wanted = self._lengths.next()
        if self._seqlen is None:
            return self._source.available(position, wanted)
        wanted = min(wanted, self._seqlen - position)
        if wanted == 0:
            if self._source.available(position, 1):
                raise ValueError(f"stream_scan: source goes on after {position} steps; needs to end there (seqlen)")
            return 0
        steps = self._source.available(position, wanted)
        if steps < wanted:
            raise ValueError(f"stream_scan: source ends after {position + steps} steps; needs {self._seqlen} (seqlen)")
        return steps

    def _scan_all(self) -> None:
        with contextlib.suppress(ClosedError):
            while True:
                chunk = self._loaded.get()
                slot = chunk.slot
                self._lane.scan(chunk, self._free_outputs.get())
                chunk.slot, chunk.tensors = None, {}
                self._free_inputs.put(slot)
                self._scanned.put(chunk)
                self._report(self.ledger)

    def _write_all(self) -> None:
        try:
            with contextlib.suppress(ClosedError), torch.inference_mode(self._inference):
                while True:
                    self._write(self._scanned.get())
        except BaseException as error:
            self._write_error = error
            for channel in (self._scanned, self._free_outputs, self._free_inputs, self._loaded):
                channel.close(drop=True)
        try:
            if self._last is not None and self._last.position != self._saved_position:
                self._save()
        except Exception as error:  # the older one stays valid
            self._save_error = error
        finally:
            self._written.set()

    def _write(self, chunk: Chunk) -> None:
        y = self._lane.collect(chunk)
        begin = time.perf_counter()
        if not chunk.in_place:
            self._sink.write(chunk.first, y)
        chunk.seconds["write"] = time.perf_counter() - begin
        chunk.seconds.pop("ring", None)
        if self._checkpoints is not None:
            self._note_progress(chunk, y)
            self._save_if_due(self._checkpoints)  # first, so that a position that is told can be gone on from
        self._lengths.observe(chunk.steps, max(chunk.seconds.values()))
        ledger = self.ledger
        for name, seconds in chunk.seconds.items():
            ledger.busy_s[name] = ledger.busy_s.get(name, 0.0) + seconds
        ledger.chunks += 1
        ledger.longest = max(ledger.longest, chunk.steps)
        ledger.position = chunk.first + chunk.steps
        with contextlib.suppress(ClosedError):
            self._free_outputs.put(chunk.out)

    # ------------------------------------------------------------------------------------------------ checkpoints
    def _note_progress(self, chunk: Chunk, y: torch.Tensor) -> None:
        """Keep what a checkpoint after this chunk needs; it costs a copy of the state and of a few steps."""
        tail = resume.tail_of(chunk.steps)
        position = chunk.first + chunk.steps
        state = chunk.state.to("cpu", copy=True)
        self._last = resume.Checkpoint(position, state, tail, chunk.origin, chunk.inputs_digest, "")
        axis = self._lane.time_axis
        self._last_tail = y.narrow(axis, chunk.steps - tail, tail).clone(memory_format=torch.contiguous_format)

    def _save_if_due(self, wanted: Checkpoints) -> None:
        if time.monotonic() - self._saved_time >= wanted.interval_s:
            self._save()

    def _save(self) -> None:
        """Write the resume file, after everything that it promises."""
        assert self._checkpoints is not None
        self._sink.flush()
        y_digest = resume.digest([self._last_tail]) if self._sink.readable else ""
        resume.save(self._checkpoints.path, replace(self._last, y_digest=y_digest), self._checkpoints.options)
        self._saved_position, self._saved_time = self._last.position, time.monotonic()

    # --------------------------------------------------------------------------------------------------- the end
    def _wind_down(self, interrupts: int) -> None:
        """End the stages: nothing new is read or scanned, what is scanned is written."""
        try:
            self._drain(interrupts)
        finally:
            if sys.exc_info()[0] is None:
                self._lane.close()
            else:
                with contextlib.suppress(RuntimeError):  # a broken device says so again and again
                    self._lane.close()

    def _drain(self, interrupts: int) -> None:
        """Wait until what is scanned is written, unless interrupted twice, the resume file too, and for the reader."""
        try:
            self._source.close()
            self._free_inputs.close(drop=True)
            self._loaded.close(drop=True)
            self._scanned.close(drop=interrupts > 1)
            while self._writer.ident is not None and not self._written.wait(POLL_SECONDS):
                pass
            if self._writer.is_alive():
                self._writer.join()
            if interrupts < 2 and self._reader.is_alive():
                self._reader.join(_READER_PATIENCE_SECONDS)
                if self._reader.is_alive():
                    text = "stream_scan: the source has not returned; its thread is left behind"
                    warnings.warn(text, stacklevel=7)
        except KeyboardInterrupt:
            if interrupts < 2:
                self._drain(interrupts + 1)
            raise


def _add_note(error: BaseException, text: str) -> None:
    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note(text)
