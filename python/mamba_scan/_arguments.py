"""The rules for the arguments of the selective scan, and the sentences that explain a broken one.

The operator checks them too, in C++, but tersely. These functions run where speed does not matter: after the
operator has refused a call, before anything has to be converted, and when shapes are traced.
"""

from itertools import pairwise
from typing import Any, NoReturn

import torch

ACTIVATION_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("bld", "bdl")
# torch.dtype.to_real, which cannot be traced.
REAL_DTYPES = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


def _fail(name: str, got: str, needed: str) -> NoReturn:
    raise ValueError(f"selective_scan: {name} has {got}; needs {needed}")


def _shape(tensor: torch.Tensor) -> str:
    return "shape " + str(tuple(tensor.shape))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_tensor(name: str, value: object, u: torch.Tensor | None = None) -> None:
    if not isinstance(value, torch.Tensor):
        _fail(name, f"type {type(value).__name__}", "a torch.Tensor")
    if value.is_nested or value.layout is not torch.strided:
        _fail(name, "nested tensors" if value.is_nested else f"layout {value.layout}", "a dense (strided) tensor")
    if u is not None and value.device != u.device:
        _fail(name, f"device {value.device}", f"{u.device}, the device of u")


def _check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...], meaning: str) -> None:
    if tensor.ndim != len(shape) or any(got != needed for got, needed in zip(tensor.shape, shape, strict=True)):
        _fail(name, _shape(tensor), f"shape {shape} = {meaning}")


def _may_cast(dtype: torch.dtype, u: torch.Tensor) -> bool:
    """Whether autocast is on and casts activations of this dtype to that of u."""
    autocast = u.device.type != "meta" and torch.is_autocast_enabled(u.device.type)
    return autocast and dtype in ACTIVATION_DTYPES


def _check_activation(name: str, tensor: torch.Tensor, u: torch.Tensor) -> None:
    """Activations share the dtype of u, unless autocast is on and may cast them."""
    if tensor.dtype is not u.dtype and not _may_cast(tensor.dtype, u):
        _fail(name, f"dtype {_dtype(tensor.dtype)}", f"{_dtype(u.dtype)}, the dtype of u (or torch.autocast)")


def _check_weight(name: str, tensor: torch.Tensor, *, is_complex: bool = False) -> None:
    if is_complex and not tensor.dtype.is_complex:
        _fail(name, f"dtype {_dtype(tensor.dtype)}", "a complex dtype, because A is complex")
    if not is_complex and not tensor.dtype.is_floating_point:
        _fail(name, f"dtype {_dtype(tensor.dtype)}", "a real floating point dtype")


def _check_varying(name: str, tensor: torch.Tensor, u: torch.Tensor, is_complex: bool) -> int:
    """Check the dtype of a B or C that varies in time; return how many elements of it make one number."""
    if not (is_complex and tensor.dtype.is_complex):
        _check_activation(name, tensor, u)
        return 2 if is_complex else 1
    real = REAL_DTYPES[tensor.dtype]
    if real is not u.dtype and not _may_cast(real, u):
        needed = f"pairs (re, im) of {_dtype(u.dtype)}, the dtype of u, along the last axis"
        if u.dtype is torch.float32:
            needed = f"complex64, or {needed}"
        _fail(name, f"dtype {_dtype(tensor.dtype)}", needed)
    return 1


def _check_projection(
    name: str, tensor: torch.Tensor, u: torch.Tensor, sizes: tuple[int, int, int, int], bld: bool, is_complex: bool
) -> int | None:
    """Check B or C; return its number of groups, or None where it has no group axis."""
    batch, seqlen, dim, dstate = sizes
    if tensor.ndim == 2:
        _check_weight(name, tensor, is_complex=is_complex)
        _check_shape(name, tensor, (dim, dstate), "(dim, dstate), constant in time")
        return None
    if tensor.ndim not in (3, 4):
        forms = "(b, l, n), (b, l, g, n) or (d, n)" if bld else "(b, n, l), (b, g, n, l) or (d, n)"
        _fail(name, _shape(tensor), forms)
    pair = _check_varying(name, tensor, u, is_complex)
    twice = "2 * " if pair == 2 else ""
    if bld:
        last, meaning = (seqlen, pair * dstate), f"{twice}dstate)"
    else:
        last, meaning = (dstate, pair * seqlen), f"dstate, {twice}seqlen)"
    if tensor.ndim == 3:
        _check_shape(name, tensor, (batch, *last), ("(batch, seqlen, " if bld else "(batch, ") + meaning)
        return None
    groups = tensor.shape[2] if bld else tensor.shape[1]
    if groups < 1 or dim % groups != 0:
        _fail(name, f"{groups} groups in {_shape(tensor)}", f"a number of groups that divides dim = {dim}")
    if bld:
        _check_shape(name, tensor, (batch, seqlen, groups, last[1]), "(batch, seqlen, ngroups, " + meaning)
    else:
        _check_shape(name, tensor, (batch, groups, *last), "(batch, ngroups, " + meaning)
    return groups


def _check_cu_seqlens(cu_seqlens: torch.Tensor, batch: int) -> None:
    if cu_seqlens.dtype is not torch.int32:
        _fail("cu_seqlens", f"dtype {_dtype(cu_seqlens.dtype)}", "int32")
    if cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 2:
        _fail("cu_seqlens", _shape(cu_seqlens), "shape (sequences + 1,) with at least one sequence")
    if batch != 1:
        _fail("u", f"batch {batch}", "batch 1 with cu_seqlens, which packs all sequences in one row")


def check_sequences(cu_seqlens: torch.Tensor, seqlen: int) -> None:
    """Raise a ValueError unless the values of ``cu_seqlens`` go from 0 to ``seqlen`` and never decrease.

    Reads the values, so only for tensors on the CPU.
    """
    values = cu_seqlens.tolist()
    if values[0] != 0:
        _fail("cu_seqlens", f"first element {values[0]}", "0")
    for i, (before, after) in enumerate(pairwise(values)):
        if after < before:
            _fail("cu_seqlens", f"element {after} after {before} at {i + 1}", "elements that do not decrease")
    if values[-1] != seqlen:
        _fail("cu_seqlens", f"last element {values[-1]}", f"{seqlen} = seqlen")


def check_arguments(tensors: tuple[Any, ...], layout: str, **flags: bool) -> None:
    """Raise a ValueError that names the first argument that cannot be served, what it has and what it needs.

    Parameters
    ----------
    tensors : tuple
        u, delta, A, B, C, D, z, delta_bias, initial_state and cu_seqlens of :func:`mamba_scan.selective_scan`. The
        values of cu_seqlens are not looked at: see :func:`check_sequences`.
    layout : str
        Its layout.
    flags : bool
        Its remaining arguments by name.

    Raises
    ------
    ValueError
        Message: ``selective_scan: <argument> has <what came>; needs <what is needed>``.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"selective_scan: layout is {layout!r}; needs 'bld' (batch, seqlen, dim) or 'bdl'")
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"selective_scan: {name} is {flag!r}; needs True or False")
    bld = layout == "bld"

    u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens = tensors
    _check_tensor("u", u)
    if u.device.type not in ("cpu", "cuda", "meta"):
        _fail("u", f"device {u.device}", "a cpu or cuda device")
    required = (("delta", delta), ("A", A), ("B", B), ("C", C))
    optional = (("D", D), ("z", z), ("delta_bias", delta_bias))
    optional += (("initial_state", initial_state), ("cu_seqlens", cu_seqlens))
    for name, tensor in required + tuple((name, tensor) for name, tensor in optional if tensor is not None):
        _check_tensor(name, tensor, u)

    if u.ndim != 3:
        _fail("u", _shape(u), "3 axes, " + ("(batch, seqlen, dim)" if bld else "(batch, dim, seqlen)"))
    if u.dtype not in ACTIVATION_DTYPES:
        _fail("u", f"dtype {_dtype(u.dtype)}", "float32, float16 or bfloat16")
    batch, seqlen, dim = u.shape if bld else (u.shape[0], u.shape[2], u.shape[1])

    _check_activation("delta", delta, u)
    _check_shape("delta", delta, tuple(u.shape), "the shape of u")
    if A.ndim != 2 or A.shape[1] < 1:
        _fail("A", _shape(A), "shape (dim, dstate) with at least one state")
    is_complex = A.dtype.is_complex
    _check_weight("A", A, is_complex=is_complex)
    dstate = A.shape[1]
    _check_shape("A", A, (dim, dstate), "(dim, dstate)")

    sizes = (batch, seqlen, dim, dstate)
    groups_of_b = _check_projection("B", B, u, sizes, bld, is_complex)
    groups_of_c = _check_projection("C", C, u, sizes, bld, is_complex)
    if groups_of_b is not None and groups_of_c is not None and groups_of_b != groups_of_c:
        _fail("C", f"{groups_of_c} groups", f"{groups_of_b} groups, as B has")

    if D is not None:
        _check_weight("D", D)
        _check_shape("D", D, (dim,), "(dim,)")
    if z is not None:
        _check_activation("z", z, u)
        _check_shape("z", z, tuple(u.shape), "the shape of u")
    if delta_bias is not None:
        _check_weight("delta_bias", delta_bias)
        _check_shape("delta_bias", delta_bias, (dim,), "(dim,)")
    if cu_seqlens is not None:
        _check_cu_seqlens(cu_seqlens, batch)
    if initial_state is not None:
        _check_weight("initial_state", initial_state, is_complex=is_complex)
        if cu_seqlens is None:
            _check_shape("initial_state", initial_state, (batch, dim, dstate), "(batch, dim, dstate)")
        else:
            sequences = cu_seqlens.shape[0] - 1
            _check_shape("initial_state", initial_state, (sequences, dim, dstate), "(sequences, dim, dstate)")
