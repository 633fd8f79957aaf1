"""Where the result of a streamed scan goes: arrays, files, or a function that takes it chunk by chunk."""

import json
import mmap
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .host_memory import HostArray, buffer_address, byte_view, copy, host_array, is_numpy_array, may_overlap
from .sources import Spec, path_of, read_safetensors_header

_SAFETENSORS_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Sink:
    """Takes y chunk after chunk, in order. Every method runs in the thread that writes."""

    readable = True

    def view(self, first: int, steps: int) -> torch.Tensor | None:
        """Return where these steps belong, if a GPU can write there itself."""
        return None

    def write(self, first: int, y: torch.Tensor) -> None:
        """Store the steps from ``first`` on."""
        raise NotImplementedError

    def read(self, first: int, steps: int) -> torch.Tensor | None:
        """Return what was stored; None where that cannot be known."""
        return None

    def flush(self) -> None:
        """Return when everything written will outlive this process, as far as the sink can promise."""

    def finish(self, durable: bool) -> None:
        """Complete the result, after the last chunk; ``durable``: as flush() promises."""
        if durable:
            self.flush()

    def close(self) -> None:
        """Give up what is held open."""


class ArraySink(Sink):
    """A tensor or NumPy array in memory, or one whose mapping has to be written through."""

    def __init__(self, array: HostArray, axis: int, threads: int, flush: Callable[[], None] | None = None) -> None:
        self._array, self._axis, self._threads, self._flush = array, axis, threads, flush

    def view(self, first: int, steps: int) -> torch.Tensor | None:
        return None if self._array.mapped else self._array.tensor.narrow(self._axis, first, steps)

    def write(self, first: int, y: torch.Tensor) -> None:
        copy(self._array.tensor.narrow(self._axis, first, y.shape[self._axis]), y, self._threads)
        self._array.drop_pages()

    def read(self, first: int, steps: int) -> torch.Tensor | None:
        return self._array.tensor.narrow(self._axis, first, steps)

    def flush(self) -> None:
        if self._flush is not None:
            self._flush()


class FileSink(Sink):
    """A region of a file that holds y as one dense array.

    Written with file calls and not through a mapping: a full disk is then an error and not a signal that ends the
    process, and what is written does not count as this process's memory.
    """

    def __init__(self, file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: torch.dtype, axis: int) -> None:
        self._file, self._offset, self._shape, self._dtype, self._axis = file, offset, shape, dtype, axis
        self._inner = dtype.itemsize  # bytes of one step in a row
        for size in shape[axis + 1 :]:
            self._inner *= size
        self._rows = 1
        for size in shape[:axis]:
            self._rows *= size

    def _row_offsets(self, first: int) -> Iterator[int]:
        row_bytes = self._shape[self._axis] * self._inner
        for row in range(self._rows):
            yield self._offset + row * row_bytes + first * self._inner

    def write(self, first: int, y: torch.Tensor) -> None:
        y = y.contiguous()
        length = y.shape[self._axis] * self._inner
        if length == 0:
            return
        data = byte_view(y)
        for row, offset in enumerate(self._row_offsets(first)):
            _write_at(self._file, data[row * length : (row + 1) * length], offset)

    def read(self, first: int, steps: int) -> torch.Tensor | None:
        shape = (*self._shape[: self._axis], steps, *self._shape[self._axis + 1 :])
        y = torch.empty(shape, dtype=self._dtype, device="cpu")
        length = steps * self._inner
        if length == 0:
            return y
        data = byte_view(y)
        for row, offset in enumerate(self._row_offsets(first)):
            self._file.seek(offset)
            if self._file.readinto(data[row * length : (row + 1) * length]) != length:
                return None
        return y

    def flush(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _write_at(file: BinaryIO, data: memoryview, offset: int) -> None:
    while data:
        if sys.platform == "win32":
            file.seek(offset)
            written = file.write(data[: 1 << 30])
        else:
            written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written


class SafetensorsSink(FileSink):
    """A new safetensors file with one tensor, "y". It has another name, ``<path>.partial``, until it is complete."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: torch.dtype, axis: int, resumed: bool) -> None:
        self._path, self._partial = path, partial_path(path)
        self._current = self._partial
        if path.is_dir():  # which no file can replace in the end
            raise ValueError(f"stream_scan: sink {str(path)!r} is a folder; needs the path of a file")
        if resumed:
            if not self._partial.exists() and path.exists():  # ended between the last chunk and the last word
                self._current = path
            file, offset = self._reopen(shape, dtype)
        else:
            file, offset = self._create(shape, dtype)
        super().__init__(file, offset, shape, dtype, axis)

    @staticmethod
    def _header(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[bytes, int]:
        size = dtype.itemsize
        for length in shape:
            size *= length
        entry = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [0, size]}
        text = json.dumps({"y": entry}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data begin at a multiple of 8
        return len(text).to_bytes(8, "little") + text, size

    def _create(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[BinaryIO, int]:
        header, size = self._header(shape, dtype)
        file = self._partial.open("w+b", buffering=0)
        try:
            file.write(header)
            file.truncate(len(header) + size)
        except BaseException:
            file.close()
            self._partial.unlink()
            raise
        return file, len(header)

    def _reopen(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[BinaryIO, int]:
        if not self._current.exists():
            raise ValueError(f"stream_scan: sink {str(self._partial)!r} does not exist; needs the file to go on with")
        header, offset = read_safetensors_header(self._current, "sink")
        entry = header.get("y", {})
        if entry.get("shape") != list(shape) or entry.get("dtype") != _SAFETENSORS_NAMES[dtype]:
            raise ValueError(f"stream_scan: sink {str(self._current)!r} holds {entry}; needs y of shape {shape}")
        return self._current.open("r+b", buffering=0), offset

    def write(self, first: int, y: torch.Tensor) -> None:
        if self._current == self._path:  # only now is it known to be the result to go on with
            self._file.close()  # Windows renames no open file
            self._path.replace(self._partial)
            self._current = self._partial
            self._file = self._partial.open("r+b", buffering=0)
        super().write(first, y)

    def finish(self, durable: bool) -> None:
        super().finish(durable)
        self.close()
        if self._current != self._path:
            self._partial.replace(self._path)


def partial_path(path: Path) -> Path:
    """Return the name of an unfinished file."""
    return path.with_name(path.name + ".partial")


class MemmapSink(FileSink):
    """The file of a NumPy memmap."""

    def __init__(self, file: BinaryIO, offset: int, array: HostArray, axis: int) -> None:
        super().__init__(file, offset, tuple(array.tensor.shape), array.tensor.dtype, axis)
        self._array = array

    def close(self) -> None:
        super().close()
        self._array.drop_pages()


class CallableSink(Sink):
    """A function that takes each chunk of y, or an object with ``write(y, first_step)`` and perhaps ``flush()``."""

    readable = False

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def write(self, first: int, y: torch.Tensor) -> None:
        if hasattr(self._consumer, "write"):
            self._consumer.write(y, first)
        else:
            self._consumer(y)

    def flush(self) -> None:
        if hasattr(self._consumer, "flush"):
            self._consumer.flush()


def _memmap_file(array: Any, host: HostArray) -> tuple[BinaryIO, int] | None:
    """Open the file below a dense NumPy memmap; return it and the offset of the array's first byte in it.

    None where there is none, or where another file has its path by now: then only the mapping leads to the right one.

    Raises
    ------
    OSError
        The disk is full.
    """
    mapping, filename = getattr(array, "_mmap", None), getattr(array, "filename", None)
    if sys.platform == "win32" or not isinstance(mapping, mmap.mmap) or filename is None or array.mode == "c":
        return None  # on Windows a file has its disk space before it is mapped, and mapping and file may differ
    if not array.flags.c_contiguous or array.size == 0:
        return None
    # The offset of a view is that of the whole memmap, so measure how far its first byte is from the mapping's.
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    try:
        file = Path(filename).open("r+b", buffering=0)  # noqa: SIM115 (closed by the sink)
    except OSError:
        return None
    offset = begin + host.tensor.data_ptr() - buffer_address(mapping)
    try:
        if _is_mapped(byte_view(host.tensor), file, offset):
            return file, offset
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _is_mapped(data: memoryview, file: BinaryIO, offset: int) -> bool:
    """Whether memory is that of a file, which then shows every change of the first byte. The byte is put back."""
    if os.fstat(file.fileno()).st_size < offset + len(data):
        return False
    os.posix_fallocate(file.fileno(), offset, 1)  # a change in a hole of a file on a full disk would end the process
    before = data[0]
    try:
        for changed in (before ^ 1, before ^ 2):  # two: another file may have one of them there
            data[0] = changed
            if os.pread(file.fileno(), 1, offset) != data[:1]:
                return False
        return True
    finally:
        data[0] = before


def open_sink(sink: Any, y: Spec, seqlen: int | None, threads: int, resumed: bool) -> Sink:
    """Return the sink that fits what the caller gave.

    Parameters
    ----------
    sink
        As in :func:`mamba_scan.stream_scan`.
    y : Spec
        What will be written.
    seqlen : int or None
        Number of steps, where known.
    threads : int
        How many copy at a time.
    resumed : bool
        Whether part of the result is there already.
    """
    if isinstance(sink, (str, os.PathLike)):
        if seqlen is None:
            raise ValueError("stream_scan: sink is a file, but the source does not tell its length; needs seqlen=...")
        return SafetensorsSink(path_of(sink, "sink"), y.at(seqlen), y.dtype, y.time, resumed)
    if not isinstance(sink, torch.Tensor) and not is_numpy_array(sink):
        if callable(sink) or hasattr(sink, "write"):
            return CallableSink(sink)
        raise ValueError(
            f"stream_scan: sink has type {type(sink).__name__}; needs a CPU tensor, a NumPy array or memmap, the path "
            "of a safetensors file to write, or a function that takes y chunk by chunk"
        )
    if isinstance(sink, torch.Tensor) and sink.is_neg():
        raise ValueError("stream_scan: sink is a lazily negated view; needs a tensor that shows its memory as it is")
    array = host_array(sink, "sink")
    if not array.writable:
        raise ValueError("stream_scan: sink is read-only; needs an array that can be written")
    if seqlen is None or tuple(array.tensor.shape) != y.at(seqlen):
        needed = f"{y.at(seqlen)}, the shape of u" if seqlen is not None else "a source of known length (seqlen=...)"
        raise ValueError(f"stream_scan: sink has shape {tuple(array.tensor.shape)}; needs {needed}")
    if array.tensor.dtype is not y.dtype:
        raise ValueError(f"stream_scan: sink has dtype {array.tensor.dtype}; needs {y.dtype}, the dtype of u")
    if may_overlap(array.tensor):
        strides = array.tensor.stride()
        raise ValueError(f"stream_scan: sink has strides {strides}; needs memory of its own for every element")
    if (opened := _memmap_file(sink, array)) is not None:
        return MemmapSink(*opened, array, y.time)
    return ArraySink(array, y.time, threads, getattr(sink, "flush", None))
