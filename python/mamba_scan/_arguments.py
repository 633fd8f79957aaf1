"""The rules for the arguments of the selective scan, and the sentences that explain a broken one.

The operator checks them too, in C++, but tersely. These functions run where speed does not matter: after the
operator has refused a call, before anything has to be converted, and when shapes are traced.
"""

from typing import NoReturn

import torch

ACTIVATION_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("bld", "bdl")


def _fail(name: str, got: str, needed: str) -> NoReturn:
    raise ValueError(f"selective_scan: {name} has {got}; needs {needed}")


def _shape(tensor: torch.Tensor) -> str:
    return "shape " + str(tuple(tensor.shape))


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_tensor(name: str, value: object, u: torch.Tensor | None = None) -> None:
    if not isinstance(value, torch.Tensor):
        _fail(name, f"type {type(value).__name__}", "a torch.Tensor")
    if value.layout is not torch.strided:
        _fail(name, f"layout {value.layout}", "a dense (strided) tensor")
    if u is not None and value.device != u.device:
        _fail(name, f"device {value.device}", f"{u.device}, the device of u")


def _check_shape(name: str, tensor: torch.Tensor, shape: tuple[int, ...], meaning: str) -> None:
    if tensor.ndim != len(shape) or any(got != needed for got, needed in zip(tensor.shape, shape, strict=True)):
        _fail(name, _shape(tensor), f"shape {shape} = {meaning}")


def _check_activation(name: str, tensor: torch.Tensor, u: torch.Tensor) -> None:
    """Activations share the dtype of u, unless autocast is on and may cast them."""
    if tensor.dtype is u.dtype:
        return
    autocast = u.device.type != "meta" and torch.is_autocast_enabled(u.device.type)
    if not (autocast and tensor.dtype in ACTIVATION_DTYPES):
        _fail(name, f"dtype {_dtype(tensor.dtype)}", f"{_dtype(u.dtype)}, the dtype of u (or torch.autocast)")


def _check_weight(name: str, tensor: torch.Tensor) -> None:
    if not tensor.dtype.is_floating_point:
        _fail(name, f"dtype {_dtype(tensor.dtype)}", "a real floating point dtype")


def _check_projection(
    name: str, tensor: torch.Tensor, u: torch.Tensor, sizes: tuple[int, int, int, int], bld: bool
) -> int | None:
    """Check B or C; return its number of groups, or None where it has no group axis."""
    batch, seqlen, dim, dstate = sizes
    if tensor.ndim == 2:
        _check_weight(name, tensor)
        _check_shape(name, tensor, (dim, dstate), "(dim, dstate), constant in time")
        return None
    if tensor.ndim == 3:
        _check_activation(name, tensor, u)
        if bld:
            _check_shape(name, tensor, (batch, seqlen, dstate), "(batch, seqlen, dstate)")
        else:
            _check_shape(name, tensor, (batch, dstate, seqlen), "(batch, dstate, seqlen)")
        return None
    if tensor.ndim != 4:
        forms = "(b, l, n), (b, l, g, n) or (d, n)" if bld else "(b, n, l), (b, g, n, l) or (d, n)"
        _fail(name, _shape(tensor), forms)
    _check_activation(name, tensor, u)
    groups = tensor.shape[2] if bld else tensor.shape[1]
    if groups < 1 or dim % groups != 0:
        _fail(name, f"{groups} groups in {_shape(tensor)}", f"a number of groups that divides dim = {dim}")
    if bld:
        _check_shape(name, tensor, (batch, seqlen, groups, dstate), "(batch, seqlen, groups, dstate)")
    else:
        _check_shape(name, tensor, (batch, groups, dstate, seqlen), "(batch, groups, dstate, seqlen)")
    return groups


def check_arguments(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    delta_softplus: bool,
    initial_state: torch.Tensor | None,
    return_final_state: bool,
    layout: str,
) -> None:
    """Raise a ValueError that names the first argument that cannot be served, what it has and what it needs.

    Parameters
    ----------
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, return_final_state, layout
        As in :func:`mamba_scan.selective_scan`.

    Raises
    ------
    ValueError
        Message: ``selective_scan: <argument> has <what came>; needs <what is needed>``.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"selective_scan: layout is {layout!r}; needs 'bld' (batch, seqlen, dim) or 'bdl'")
    for name, flag in (("delta_softplus", delta_softplus), ("return_final_state", return_final_state)):
        if not isinstance(flag, bool):
            raise ValueError(f"selective_scan: {name} is {flag!r}; needs True or False")
    bld = layout == "bld"

    _check_tensor("u", u)
    if u.device.type not in ("cpu", "cuda", "meta"):
        _fail("u", f"device {u.device}", "a cpu or cuda device")
    required = (("delta", delta), ("A", A), ("B", B), ("C", C))
    optional = (("D", D), ("z", z), ("delta_bias", delta_bias), ("initial_state", initial_state))
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
    _check_weight("A", A)
    dstate = A.shape[1]
    _check_shape("A", A, (dim, dstate), "(dim, dstate)")

    sizes = (batch, seqlen, dim, dstate)
    groups_of_b = _check_projection("B", B, u, sizes, bld)
    groups_of_c = _check_projection("C", C, u, sizes, bld)
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
    if initial_state is not None:
        _check_weight("initial_state", initial_state)
        _check_shape("initial_state", initial_state, (batch, dim, dstate), "(batch, dim, dstate)")
