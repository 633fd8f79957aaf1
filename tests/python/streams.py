"""Sources and sinks of every kind for the tests of stream_scan."""

from __future__ import annotations

import itertools
from pathlib import Path

import mamba_scan
import numpy as np
import torch
from problems import make_problem

INPUTS = ("u", "delta", "B", "C", "z")
WEIGHTS = ("A", "D", "delta_bias", "delta_softplus", "initial_state", "layout")


def split(problem):
    """The inputs that are streamed, and the other arguments."""
    source = {name: problem[name] for name in INPUTS if name in problem}
    return source, {name: problem[name] for name in WEIGHTS if name in problem}


def stream_problem(**options):
    """A problem whose weights let the state live for some hundreds of steps, so that a lost state shows."""
    problem = make_problem(**options)
    problem["A"] = problem["A"] * 0.05
    return problem


def expected(problem):
    """y and final state of one call on the CPU, which tests of its own compare with float64."""
    return mamba_scan.selective_scan(**problem, return_final_state=True)


def axis_of(name, tensor, layout):
    if name in ("B", "C") and tensor.ndim == 2:
        return None
    return 1 if layout == "bld" else tensor.ndim - 1


def cut(source, layout, begin, end):
    """Steps begin to end of every input."""
    pieces = {}
    for name, tensor in source.items():
        axis = axis_of(name, tensor, layout)
        pieces[name] = tensor if axis is None else tensor.narrow(axis, begin, end - begin)
    return pieces


def chunks(source, layout, cuts):
    """The source in pieces."""
    seqlen = source["u"].shape[axis_of("u", source["u"], layout)]
    for begin, end in itertools.pairwise([0, *sorted(cuts), seqlen]):
        yield cut(source, layout, begin, end)


def numpy_dtype(dtype):
    return {torch.float32: np.float32, torch.float16: np.float16, torch.bfloat16: np.uint16}[dtype]


def as_numpy(tensor):
    return (
        (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy().view(numpy_dtype(tensor.dtype))
    )


def memmap(path, tensor, mode="r"):
    """A memmap with the contents of a tensor."""
    array = np.memmap(path, numpy_dtype(tensor.dtype), "w+", shape=tuple(tensor.shape))
    array[...] = as_numpy(tensor)
    array.flush()
    return np.memmap(path, numpy_dtype(tensor.dtype), mode, shape=tuple(tensor.shape))


def write_safetensors(path, tensors):
    """A safetensors file, written as the format's description says and not by anybody's library."""
    import json

    header, data = {}, b""
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    for name, tensor in tensors.items():
        raw = as_numpy(tensor.contiguous()).tobytes()
        entry = {"dtype": names[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = entry | {"data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + data)


class Writer:
    """A sink with write(y, first_step) that fills a tensor."""

    def __init__(self, like):
        self.y = torch.zeros_like(like)
        self.flushed = 0

    def write(self, y, first):
        axis = 1 if y.shape[2:] == self.y.shape[2:] else 2
        self.y.narrow(axis, first, y.shape[axis]).copy_(y)

    def flush(self):
        self.flushed += 1


def make_source(kind, source, layout, folder):
    """The same inputs as another kind of source."""
    if kind == "mapping":
        return source
    if kind == "tuple":
        return tuple(source.values())
    if kind == "numpy":
        return {name: as_numpy(tensor) for name, tensor in source.items()}
    if kind == "memmap":
        return {name: memmap(folder / f"{name}.bin", tensor) for name, tensor in source.items()}
    if kind == "safetensors":
        write_safetensors(folder / "source.safetensors", source)
        return folder / "source.safetensors"
    if kind == "slices":
        import safetensors

        write_safetensors(folder / "source.safetensors", source)
        file = safetensors.safe_open(str(folder / "source.safetensors"), "pt")
        return {name: file.get_slice(name) for name in source}
    seqlen = source["u"].shape[axis_of("u", source["u"], layout)]
    if kind == "iterator":
        return chunks(source, layout, [seqlen // 3, seqlen // 3, seqlen // 2])
    assert kind == "function"
    return lambda first: cut(source, layout, first, min(first + 700, seqlen)) if first < seqlen else None


def make_sink(kind, like, folder, layout="bld"):
    """A sink, and a function that returns what it holds as a tensor."""
    if kind == "tensor":
        sink = torch.zeros_like(like)
        return sink, lambda: sink
    if kind == "numpy":
        sink = as_numpy(torch.zeros_like(like))
        return sink, lambda: torch.from_numpy(sink.view(as_numpy(like).dtype)).view(like.dtype)
    if kind == "memmap":
        path = folder / "y.bin"
        sink = memmap(path, torch.zeros_like(like), "r+")
        return sink, lambda: read_raw(path, like)
    if kind == "safetensors":
        path = folder / "y.safetensors"
        return path, lambda: read_safetensors(path)
    if kind == "function":
        pieces = []
        axis = axis_of("u", like, layout)
        return pieces.append, lambda: torch.cat(pieces, axis)
    assert kind == "writer"
    writer = Writer(like)
    return writer, lambda: writer.y


def read_raw(path, like):
    """The tensor in a file without a header."""
    array = np.fromfile(path, numpy_dtype(like.dtype)).reshape(like.shape)
    return (
        torch.from_numpy(array.view(np.int16)).view(like.dtype)
        if like.dtype is torch.bfloat16
        else (torch.from_numpy(array))
    )


def read_safetensors(path):
    import safetensors.torch

    tensors = safetensors.torch.load_file(str(path))
    assert list(tensors) == ["y"]
    return tensors["y"]
