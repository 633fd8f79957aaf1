"""Where the inputs of a streamed scan come from: arrays, files, or chunks that arrive one after the other."""

import json
import math
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from .channel import ClosedError
from .host_memory import HostArray, copy, host_array, is_numpy_array, mapped_tensor, span_bytes

NAMES = ("u", "delta", "B", "C", "z")
_REQUIRED = NAMES[:4]
_SAFETENSORS_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MAPPED_BYTES = 32 << 20  # of a file, mapped at a time
_HEADER_LIMIT = 100 << 20  # bytes; the safetensors format's own
_END = object()  # of an iterator


def _fail(text: str) -> NoReturn:
    raise ValueError(f"stream_scan: {text}")


@dataclass(frozen=True)
class Spec:
    """Shape and dtype of one input; ``time`` is its sequence axis, None for a projection that is constant in time.

    The size of the sequence axis is 0 where the length is not known ahead.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    time: int | None

    def at(self, steps: int) -> tuple[int, ...]:
        """Return the shape of a piece of so many steps."""
        assert self.time is not None
        return (*self.shape[: self.time], steps, *self.shape[self.time + 1 :])

    @property
    def step_bytes(self) -> int:
        """Bytes that one step takes."""
        return math.prod(self.at(1)) * self.dtype.itemsize


def _time_axis(name: str, shape: tuple[int, ...], layout: str, where: str) -> int | None:
    """Return the sequence axis of an input, None where it is constant in time."""
    if name in ("B", "C") and len(shape) == 2:
        return None
    if name in ("B", "C") and len(shape) not in (3, 4):
        _fail(f"{where} has shape {shape}; needs 3 or 4 axes, or 2 where it is constant in time")
    if name not in ("B", "C") and len(shape) != 3:
        _fail(f"{where} has shape {shape}; needs 3 axes, (batch, seqlen, dim) or (batch, dim, seqlen)")
    return 1 if layout == "bld" else len(shape) - 1


class Source:
    """Inputs that are read from the first step to the last.

    Attributes
    ----------
    specs : dict of str to Spec
        The inputs that vary in time.
    constants : dict of str to Tensor
        Projections that do not.
    seqlen : int or None
        Number of steps; None while it is not known.
    """

    specs: dict[str, Spec]
    constants: dict[str, torch.Tensor]
    seqlen: int | None

    def available(self, first: int, steps: int) -> int:
        """Return how many of the steps from ``first`` on there are: fewer than asked for only at the end."""
        raise NotImplementedError

    def view(self, name: str, first: int, steps: int) -> torch.Tensor | None:
        """Return these steps without copying, where they are in memory already."""
        return None

    def read(self, name: str, first: int, steps: int, out: torch.Tensor, threads: int) -> None:
        """Copy these steps into a tensor of the right shape."""
        raise NotImplementedError

    def done(self, first: int, steps: int) -> None:
        """Take note that these steps have been read."""

    def origin(self, step: int) -> int:
        """Return where to begin, in a later scan, to come by a step that is about to be read as now."""
        return step

    def seek(self, first: int, origin: int) -> None:
        """Go to a step before anything has been read, as a resumed scan does; ``origin``: what origin() told of it."""

    def close(self) -> None:
        """Let another thread's call that waits for steps end, with ClosedError, as soon as it can."""

    @property
    def step_bytes(self) -> int:
        """Bytes that one step takes, all inputs together."""
        return sum(spec.step_bytes for spec in self.specs.values())


class ArraySource(Source):
    """One array per input: tensors, NumPy arrays, tensors in safetensors files."""

    def __init__(self, inputs: Mapping[str, Any], layout: str) -> None:
        _check_names(inputs, "source")
        self._readers = {
            name: _reader(inputs[name], f"source['{name}']") for name in NAMES if inputs.get(name) is not None
        }
        self.specs, self.constants = {}, {}
        for name, reader in list(self._readers.items()):
            axis = _time_axis(name, reader.shape, layout, f"source['{name}']")
            if axis is None:
                self.constants[name] = reader.whole()
                del self._readers[name]
            else:
                self.specs[name] = Spec(reader.shape, reader.dtype, axis)
        u = self.specs["u"]
        self.seqlen: int = u.shape[u.time]

    def available(self, first: int, steps: int) -> int:
        return max(0, min(steps, self.seqlen - first))

    def view(self, name: str, first: int, steps: int) -> torch.Tensor | None:
        return self._readers[name].view(self.specs[name].time, first, steps)

    def read(self, name: str, first: int, steps: int, out: torch.Tensor, threads: int) -> None:
        self._readers[name].read(self.specs[name].time, first, steps, out, threads)


class _ArrayReader:
    def __init__(self, array: HostArray) -> None:
        self._array = array
        self.shape, self.dtype = tuple(array.tensor.shape), array.tensor.dtype

    def whole(self) -> torch.Tensor:
        return self._array.tensor.clone()

    def view(self, axis: int, first: int, steps: int) -> torch.Tensor | None:
        return None if self._array.mapped else self._array.tensor.narrow(axis, first, steps)

    def read(self, axis: int, first: int, steps: int, out: torch.Tensor, threads: int) -> None:
        piece = self._array.tensor.narrow(axis, first, steps)
        if self._array.mapped:
            self._copy_and_drop(out, piece, threads)
        else:
            copy(out, piece, threads)

    def _copy_and_drop(self, out: torch.Tensor, piece: torch.Tensor, threads: int) -> None:
        """Copy from a mapped file and keep few of its pages.

        Around the page that is touched the kernel maps others, up to megabytes: where a chunk consists of many short
        rows that are far apart, this is most of the file, so the rows are copied some at a time.
        """
        small = span_bytes(piece) <= _MAPPED_BYTES or piece.is_contiguous()
        rows = 1 if small else max(1, _MAPPED_BYTES // max(piece.stride(0) * piece.element_size(), 1))
        if small or 1 < piece.shape[0] <= rows:
            copy(out, piece, threads)
            self._array.drop_pages()
            return
        for row in range(0, piece.shape[0], rows):
            if rows == 1 or piece.shape[0] == 1:
                self._copy_and_drop(out[row], piece[row], threads)
            else:
                self._copy_and_drop(out[row : row + rows], piece[row : row + rows], threads)


class _SliceReader:
    """What ``safetensors.safe_open(...).get_slice(...)`` returns."""

    def __init__(self, piece: Any, name: str) -> None:
        self._piece, self._name = piece, name
        self.shape = tuple(piece.get_shape())
        if piece.get_dtype() not in _SAFETENSORS_DTYPES:
            _fail(f"{name} has dtype {piece.get_dtype()}; needs F32, F16 or BF16")
        self.dtype = _SAFETENSORS_DTYPES[piece.get_dtype()]

    def whole(self) -> torch.Tensor:
        return host_array(self._piece[:], self._name).tensor

    def view(self, axis: int, first: int, steps: int) -> None:
        return None

    def read(self, axis: int, first: int, steps: int, out: torch.Tensor, threads: int) -> None:
        index = (slice(None),) * axis + (slice(first, first + steps),)
        copy(out, host_array(self._piece[index], self._name).tensor, threads)


def _reader(value: Any, name: str) -> _ArrayReader | _SliceReader:
    if hasattr(value, "get_shape") and hasattr(value, "get_dtype"):
        return _SliceReader(value, name)
    if isinstance(value, HostArray):
        return _ArrayReader(value)
    return _ArrayReader(host_array(value, name))


def _check_names(inputs: Mapping[str, Any], where: str) -> None:
    if missing := [name for name in _REQUIRED if inputs.get(name) is None]:
        _fail(f"{where} lacks {', '.join(missing)}; needs u, delta, B and C, and z where there is a gate")
    if unknown := sorted(map(repr, inputs.keys() - set(NAMES))):
        _fail(f"{where} has {', '.join(unknown)}; needs u, delta, B, C and optionally z, nothing else")


def _named(value: Any, where: str) -> Mapping[str, Any]:
    """Return a mapping, whether the inputs came as one or in the order u, delta, B, C, z."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, (tuple, list)) or len(value) not in (4, 5):
        got = f"{len(value)} items" if isinstance(value, (tuple, list)) else f"type {type(value).__name__}"
        _fail(f"{where} has {got}; needs u, delta, B, C and optionally z, as a mapping or in this order")
    return dict(zip(NAMES, value, strict=False))


# ------------------------------------------------------------------------------------------------- safetensors files
def read_safetensors_header(path: Path, name: str) -> tuple[dict[str, Any], int]:
    """Return the entries of a safetensors file and the offset of its data.

    Raises
    ------
    ValueError
        The file is not one.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(size - 8, _HEADER_LIMIT):
                raise ValueError(f"header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for entry in header.values():
                first, last = entry["data_offsets"]
                if not all(type(number) is int and number >= 0 for number in (first, last, *entry["shape"])):
                    raise ValueError("a shape or an offset that is no number")
                if not 0 <= first <= last <= size - 8 - length or not isinstance(entry["dtype"], str):
                    raise ValueError("a tensor lies outside of the file")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _fail(f"{name} {str(path)!r} is no safetensors file ({error})")
    return header, 8 + length


def _open_safetensors(path: Path) -> dict[str, HostArray]:
    """Map a safetensors file and return the inputs in it; nothing is read yet."""
    header, data = read_safetensors_header(path, "source")
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for name in NAMES:
        if name not in header:
            continue
        entry = header[name]
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            _fail(f"source['{name}'] has dtype {entry['dtype']}; needs F32, F16 or BF16")
        dtype, shape = _SAFETENSORS_DTYPES[entry["dtype"]], tuple(entry["shape"])
        first, last = entry["data_offsets"]
        if last - first != math.prod(shape) * dtype.itemsize:
            _fail(f"source['{name}'] has {last - first} bytes; needs {math.prod(shape) * dtype.itemsize} for {shape}")
        arrays[name] = mapped_tensor(mapping, dtype, shape, data + first)
    return arrays


# ------------------------------------------------------------------------------------------------- chunks in a row
class ChunkSource(Source):
    """Chunks of any length from an iterator, or from a function of the step that a chunk is to begin with.

    A function ends the sequence with None or an empty chunk; an iterator does by ending, its chunks may be empty.

    The pieces that make up a chunk of the scan are held until they are copied, so memory is bounded by the longer of
    the two kinds of chunk.
    """

    def __init__(self, chunks: Iterator[Any] | Callable[[int], Any], layout: str) -> None:
        self._layout = layout
        self._iterator = None if callable(chunks) else chunks
        self._function = chunks if callable(chunks) else None
        self._count = 0  # chunks that have arrived
        self._read = 0  # first step of what is held
        self._held: list[tuple[int, dict[str, torch.Tensor]]] = []  # step that each began with when it came, pieces
        self._steps = 0  # that are held
        self._closed = False
        self.seqlen = None
        first = self._fetch(0)
        if first is None:
            _fail("source has no chunk; needs at least one, which may be empty")
        _check_names(first, "source: chunk 0")
        self.specs, self.constants = {}, {}
        for name in (name for name in NAMES if name in first):
            tensor = first[name]
            axis = _time_axis(name, tuple(tensor.shape), layout, f"source: chunk 0: {name}")
            if axis is None:
                self.constants[name] = tensor.clone()
                continue
            shape = tuple(0 if i == axis else size for i, size in enumerate(tensor.shape))
            self.specs[name] = Spec(shape, tensor.dtype, axis)
        self._first_constants = dict(self.constants)  # as they came: the scan moves and converts its own
        self._take(first)

    def available(self, first: int, steps: int) -> int:
        assert first == self._read, "chunks are read in order"
        while self._steps < steps and self.seqlen is None:
            if self._closed:  # looked at each time: an iterator may go on with empty chunks for ever
                raise ClosedError
            self._take(self._fetch(self._read + self._steps))
        return min(steps, self._steps)

    def read(self, name: str, first: int, steps: int, out: torch.Tensor, threads: int) -> None:
        axis = self.specs[name].time
        filled = 0
        for _, piece in self._held:
            take = min(steps - filled, piece[name].shape[axis])
            copy(out.narrow(axis, filled, take), piece[name].narrow(axis, 0, take), threads)
            filled += take
            if filled == steps:
                return

    def done(self, first: int, steps: int) -> None:
        self._read += steps
        self._steps -= steps
        while self._held and steps > 0:
            begin, piece = self._held[0]
            length = self._length(piece)
            if length > steps:
                cut = {n: x.narrow(self.specs[n].time, steps, length - steps) for n, x in piece.items()}
                self._held[0] = begin, cut
                return
            steps -= length
            self._held.pop(0)

    def origin(self, step: int) -> int:
        end = self._read
        for begin, piece in self._held:
            end += self._length(piece)
            if step < end:
                return begin
        return step

    def seek(self, first: int, origin: int) -> None:
        """Skip to a step: a function is asked from the origin on, an iterator is read from its beginning."""
        if self._function is not None and origin > 0:  # what a function returned for step 0 is held already
            self._held, self._steps, self._read, self.seqlen = [], 0, origin, None
        while self._read < first:
            steps = self.available(self._read, min(first - self._read, max(self._steps, 1)))
            if steps == 0:
                _fail(f"source ends after {self._read} steps; needs more than {first}, where the scan goes on")
            self.done(self._read, steps)

    def close(self) -> None:
        self._closed = True

    def _fetch(self, position: int) -> dict[str, torch.Tensor] | None:
        chunk = self._function(position) if self._function is not None else next(self._iterator, _END)
        if chunk is _END or (chunk is None and self._function is not None):
            return None
        where = f"source: chunk {self._count}"
        self._count += 1
        named = _named(chunk, where)
        return {
            name: host_array(value, f"{where}: {name}").tensor for name, value in named.items() if value is not None
        }

    def _length(self, chunk: dict[str, torch.Tensor]) -> int:
        return chunk["u"].shape[self.specs["u"].time]

    def _take(self, chunk: dict[str, torch.Tensor] | None) -> None:
        """Hold a chunk that fits the first one, or take note of the end, which an empty one of a function is, too."""
        begin = self._read + self._steps
        steps = 0 if chunk is None else self._checked_steps(chunk, begin)
        if chunk is None or (steps == 0 and self._function is not None):
            self.seqlen = begin
        elif steps:  # in private memory, because the giver may use his again
            self._held.append((begin, {name: chunk[name].clone() for name in self.specs}))
            self._steps += steps

    def _checked_steps(self, chunk: dict[str, torch.Tensor], begin: int) -> int:
        """Return how many steps a chunk has that fits the first one."""
        where = f"source: chunk {self._count - 1}"
        wanted = self.specs.keys() | self.constants.keys()
        if chunk.keys() != wanted:
            _fail(f"{where} has {', '.join(sorted(chunk))}; needs {', '.join(sorted(wanted))}, as the first")
        steps = self._length(chunk) if chunk["u"].ndim == 3 else -1
        for name, spec in self.specs.items():
            tensor = chunk[name]
            if tuple(tensor.shape) != spec.at(steps):
                _fail(f"{where}: {name} has shape {tuple(tensor.shape)}; needs {spec.at(steps)}")
            if tensor.dtype is not spec.dtype:
                _fail(f"{where}: {name} has dtype {tensor.dtype}; needs {spec.dtype}, as in the first")
        for name, first in self._first_constants.items():
            tensor, at = chunk[name], f"{where}, from step {begin} on: {name}"
            if tensor.shape != first.shape or tensor.dtype is not first.dtype:
                got, needed = (f"shape {tuple(x.shape)}, dtype {x.dtype}" for x in (tensor, first))
                _fail(f"{at} has {got}; needs {needed}, as in the first")
            if not torch.allclose(tensor, first, rtol=0, atol=0, equal_nan=True):
                _fail(f"{at} has other values than in the first; needs the same ones, being constant in time")
        return steps


def path_of(value: str | os.PathLike, name: str) -> Path:
    """Return the argument as a path, or raise a ValueError with its name where no file can have it."""
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        _fail(f"{name} is {text!r}; needs the path of a file")
    return Path(text)


def open_source(source: Any, layout: str) -> Source:
    """Return the source that fits what the caller gave.

    Raises
    ------
    ValueError
        It is nothing that can be streamed; the message says what is wrong.
    """
    if isinstance(source, (str, os.PathLike)):
        return ArraySource(_open_safetensors(path_of(source, "source")), layout)
    chunks = isinstance(source, (tuple, list)) and source and isinstance(source[0], (Mapping, tuple, list))
    if isinstance(source, (Mapping, tuple, list)) and not chunks:
        return ArraySource(_named(source, "source"), layout)
    if isinstance(source, torch.Tensor) or is_numpy_array(source):
        _fail(f"source is one {type(source).__name__}; needs u, delta, B and C")
    if callable(source):
        return ChunkSource(source, layout)
    if isinstance(source, Iterable):
        return ChunkSource(iter(source), layout)
    _fail(
        f"source has type {type(source).__name__}; needs a mapping or tuple of arrays, the path of a safetensors file, "
        "an iterator of chunks, or a function that returns the chunk at a step"
    )
