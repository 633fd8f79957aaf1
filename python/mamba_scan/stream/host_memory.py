"""Arrays in host memory as tensors, whatever library they come from, and copies between them on several threads."""

import ctypes
import math
import mmap
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from .._library import _runtime

_SHORTEST_RUN_BYTES = 64  # shorter contiguous runs than this are left to torch


@dataclass(frozen=True)
class HostArray:
    """A CPU tensor and, where its memory is that of a file, the mapping.

    Attributes
    ----------
    tensor : Tensor
        Shares the memory of what it was made from.
    mapping : mmap.mmap or None
        The mapping that the memory belongs to, where pages can be given back after use.
    writable : bool
        Whether a write is allowed.
    """

    tensor: torch.Tensor
    mapping: mmap.mmap | None = None
    writable: bool = True

    @property
    def mapped(self) -> bool:
        """Whether reading it may mean reading a file."""
        return self.mapping is not None

    def drop_pages(self) -> None:
        """Take the pages out of this process; they stay in the page cache, so nothing is lost."""
        if self.mapping is None or not hasattr(self.mapping, "madvise"):
            return
        base = buffer_address(self.mapping)
        first = self.tensor.data_ptr() - base
        begin = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (first + span_bytes(self.tensor)) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            self.mapping.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def is_numpy_array(value: object) -> bool:
    """Tell a NumPy array without importing NumPy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def host_array(value: Any, name: str) -> HostArray:
    """Return a tensor that shares the memory of a CPU tensor or NumPy array.

    NumPy has no bfloat16: arrays of ``ml_dtypes.bfloat16`` and of ``uint16`` are taken as its bits.

    Raises
    ------
    ValueError
        It is something else, on another device, or has a dtype or strides that torch cannot express.
    """
    if isinstance(value, torch.Tensor):
        if value.device.type != "cpu" or value.layout is not torch.strided:
            got = f"device {value.device}" if value.layout is torch.strided else f"layout {value.layout}"
            raise ValueError(f"stream_scan: {name} has {got}; needs a dense tensor in host memory")
        return HostArray(value.detach().resolve_conj().resolve_neg())
    if not is_numpy_array(value):
        raise ValueError(
            f"stream_scan: {name} has type {type(value).__name__}; needs a CPU tensor, a NumPy array or memmap"
        )
    if not value.dtype.isnative:
        raise ValueError(f"stream_scan: {name} has dtype {value.dtype}, in foreign byte order; needs this machine's")
    bits = value.dtype.name in ("bfloat16", "uint16")
    if not bits and value.dtype.name not in ("float16", "float32", "complex64"):
        needed = "float32, float16, or bfloat16 (as ml_dtypes.bfloat16 or uint16)"
        raise ValueError(f"stream_scan: {name} has dtype {value.dtype}; needs {needed}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a read-only array is only read
            tensor = torch.from_numpy(value.view("int16") if bits else value)
    except (TypeError, ValueError) as error:  # negative strides
        raise ValueError(f"stream_scan: {name} cannot be viewed as a tensor ({error}); needs a plain array") from None
    return HostArray(tensor.view(torch.bfloat16) if bits else tensor, _file_mapping(value), value.flags.writeable)


def mapped_tensor(
    mapping: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], offset: int, writable: bool = False
) -> HostArray:
    """Return the tensor at a byte offset of a mapped file."""
    count = math.prod(shape)
    if count == 0:
        return HostArray(torch.empty(shape, dtype=dtype, device="cpu"), None, writable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.frombuffer(mapping, dtype=dtype, count=count, offset=offset)
    return HostArray(tensor.view(shape), mapping, writable)


def copy(destination: torch.Tensor, source: torch.Tensor, threads: int) -> None:
    """Copy between CPU tensors of one shape and dtype on several threads, without holding Python's lock."""
    if destination.shape != source.shape or destination.dtype is not source.dtype:
        raise ValueError(f"copy: {tuple(source.shape)} {source.dtype} into {tuple(destination.shape)}")
    if destination.device.type != "cpu" or source.device.type != "cpu":  # their addresses are none in host memory
        raise ValueError(f"copy: from device {source.device} to {destination.device}; needs cpu on both sides")
    run, axes = _runs(destination, source)
    if run < _SHORTEST_RUN_BYTES and destination.numel() > 1:
        with torch.inference_mode():  # which lets any tensor be written, whatever mode it was made in
            destination.copy_(source)
    else:
        _runtime.copy_runs(destination.data_ptr(), source.data_ptr(), run, axes, threads)


def byte_view(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous, non-empty CPU tensor, which must outlive the view."""
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def _runs(destination: torch.Tensor, source: torch.Tensor) -> tuple[int, list[tuple[int, int, int]]]:
    """Return the bytes that are contiguous on both sides, and (size, stride, stride) of the axes outside of them."""
    itemsize = destination.element_size()
    run = itemsize
    axes: list[tuple[int, int, int]] = []
    for size, to, from_ in zip(destination.shape, destination.stride(), source.stride(), strict=True):
        if size != 1:
            axes.append((size, to * itemsize, from_ * itemsize))
    while axes and axes[-1][1] == axes[-1][2] == run:
        run *= axes.pop()[0]
    return run, axes


def may_overlap(tensor: torch.Tensor) -> bool:
    """Whether elements may share memory: unless every axis steps over all that the axes with shorter steps reach."""
    if tensor.numel() == 0:
        return False
    reach = 0  # of those, from the first element to the last
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def span_bytes(tensor: torch.Tensor) -> int:
    """Return the distance from a tensor's first byte to one past its last."""
    if tensor.numel() == 0:
        return 0
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (reach + 1) * tensor.element_size()


def buffer_address(mapping: mmap.mmap) -> int:
    """Return where a mapping begins in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(mapping, dtype=torch.uint8, count=1).data_ptr()


def _file_mapping(array: Any) -> mmap.mmap | None:
    """Return the mapping of the shared memmap that an array views; None for everything else.

    Whether another ``mmap`` is shared, so that its pages can be read again, nobody can tell: it is plain memory.
    """
    numpy = sys.modules["numpy"]
    while isinstance(array, numpy.ndarray):
        if isinstance(array, numpy.memmap):
            return None if array.mode in (None, "c") else array._mmap
        array = array.base
    return None
