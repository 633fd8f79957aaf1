"""The selective scan as a function."""

from typing import Any

import torch
from torch.autograd import forward_ad

from ._arguments import check_arguments, check_sequences
from ._library import NO_BACKWARD
from ._library import selective_scan_forward as _forward

_FLOAT32 = torch.float32
_COMPLEX64 = torch.complex64
# u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens, in the operator's order
_Tensors = tuple[torch.Tensor | None, ...]
_TENSOR_COUNT = 10
# Skips the autograd layer, which for an operator whose autograd is registered from Python costs 6 us per call.
_below_autograd = torch._C._AutoDispatchBelowAutograd
# What calling an overload calls, without its Python frame.
_forward_directly = getattr(_forward, "_op", _forward)


def _is_ready(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
) -> bool:
    """Whether every tensor is already what the operator takes; never so when A is complex."""
    dtype = u.dtype
    return (
        A.dtype is _FLOAT32
        and A.ndim == 2
        and delta.dtype is dtype
        and B.dtype is (_FLOAT32 if B.ndim == 2 else dtype)
        and C.dtype is (_FLOAT32 if C.ndim == 2 else dtype)
        and (D is None or (D.dtype is _FLOAT32 and D.is_contiguous()))
        and (z is None or z.dtype is dtype)
        and (delta_bias is None or (delta_bias.dtype is _FLOAT32 and delta_bias.is_contiguous()))
        and (initial_state is None or initial_state.dtype is _FLOAT32)
        and (cu_seqlens is None or cu_seqlens.is_contiguous())
    )


def _are_flags(delta_softplus: bool, _: bool, return_final_state: bool, reverse: bool, chunk_invariant: bool) -> bool:
    """Whether every option is True or False; the operator would also take 2 and None."""
    return (
        delta_softplus.__class__
        is return_final_state.__class__
        is reverse.__class__
        is chunk_invariant.__class__
        is bool
    )


def _as_pairs(number: torch.Tensor) -> torch.Tensor:
    """Complex numbers as real ones with an axis (re, im) behind the others; the same memory."""
    return torch.view_as_real(number.resolve_conj())


def _projection_as_pairs(projection: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """B or C of a complex scan as the operator takes it."""
    if projection.ndim == 2:
        return _as_pairs(projection.to(_COMPLEX64))
    if projection.is_complex():
        return _as_pairs(projection).to(dtype)
    return projection.to(dtype).unflatten(-1, (projection.shape[-1] // 2, 2))


def _converted(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    initial_state: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
) -> _Tensors:
    """Weights in float32, activations in the dtype of u; what already is so stays the same memory."""
    dtype = u.dtype
    if A.is_complex():
        A = _as_pairs(A.to(_COMPLEX64))
        B, C = _projection_as_pairs(B, dtype), _projection_as_pairs(C, dtype)
        initial_state = None if initial_state is None else _as_pairs(initial_state.to(_COMPLEX64))
    else:
        A = A.to(_FLOAT32)
        B = B.to(_FLOAT32 if B.ndim == 2 else dtype)
        C = C.to(_FLOAT32 if C.ndim == 2 else dtype)
        initial_state = None if initial_state is None else initial_state.to(_FLOAT32)
    return (
        u,
        delta.to(dtype),
        A,
        B,
        C,
        None if D is None else D.to(_FLOAT32).contiguous(),
        None if z is None else z.to(dtype),
        None if delta_bias is None else delta_bias.to(_FLOAT32).contiguous(),
        initial_state,
        None if cu_seqlens is None else cu_seqlens.contiguous(),
    )


def _explain_refusal(tensors: _Tensors, layout: str, flags: dict[str, bool]) -> None:
    """After the operator has refused: raise a ValueError that says why, if it is an argument."""
    check_arguments(tensors, layout, **flags)
    u, cu_seqlens = tensors[0], tensors[-1]
    if type(cu_seqlens) is torch.Tensor and cu_seqlens.device.type == "cpu":
        check_sequences(cu_seqlens, u.shape[2 if layout == "bdl" else 1])


def _flags(options: tuple[bool, ...]) -> dict[str, bool]:
    delta_softplus, _, return_final_state, reverse, chunk_invariant = options
    return {
        "delta_softplus": delta_softplus,
        "return_final_state": return_final_state,
        "reverse": reverse,
        "chunk_invariant": chunk_invariant,
    }


def _as_complex(state: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """Return the operator's final state as the caller sees it."""
    return torch.view_as_complex(state) if A.is_complex() else state


def _needs_grad(arguments: tuple[Any, ...]) -> bool:
    for tensor in arguments[:_TENSOR_COUNT]:  # noqa: SIM110 (any() over a generator costs twice as much)
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def _refuse_tangents(tensors: _Tensors) -> None:
    """Raise for forward-mode tangents, which an operator without a formula for them loses without a word."""
    given = (tensor for tensor in tensors if isinstance(tensor, torch.Tensor))
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in given):
        raise NotImplementedError("selective_scan has no forward-mode derivative: its inputs may not carry tangents.")


def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    *,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: torch.Tensor | None = None,
    return_final_state: bool = False,
    layout: str = "bld",
    reverse: bool = False,
    cu_seqlens: torch.Tensor | None = None,
    chunk_invariant: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    r"""Run the selective scan of Mamba along the sequence.

    For every batch b, step t, channel d and state n::

        dt       = softplus?(delta[b, t, d] + delta_bias[d])
        h[n]     = exp(dt * A[d, n]) * h[n] + dt * u[b, t, d] * B[b, t, g, n]      g = d // (dim // groups)
        y[b,t,d] = (sum over n of h[n] * C[b, t, g, n]  +  D[d] * u[b, t, d]) * (silu(z[b, t, d]) if z given)

    All of it is computed in float32. For 16-bit inputs a GPU may take softplus and silu from a table, within a relative
    7e-5 of their values; rounding y to float16 changes it by up to 5e-4, to bfloat16 by up to 4e-3.

    Parameters
    ----------
    u : Tensor, (b, l, d)
        Input; float32, float16 or bfloat16, any strides. ``layout="bdl"``: (b, d, l).
    delta : Tensor, shape and dtype of u
        Step size, before bias and softplus; after them not negative, as a step in time is. Long scans are cut in time
        on a GPU, and take what has decayed to less than 2^-32 (16-bit inputs: 2^-24) as gone, which a negative step
        could bring back.
    A : Tensor, (d, n)
        State decay, normally negative. Any real floating dtype, computed in float32; or complex, computed in
        complex64: then h is complex, B, C and the states are too, and y takes twice the real part of the sum.
    B, C : Tensor, (b, l, n) or (b, l, g, n), dtype of u; or (d, n), any floating dtype
        Input and output projections, with groups of d // g channels, or constant in time.
        ``layout="bdl"``: (b, n, l) or (b, g, n, l), or (d, n).
        With a complex A: constant and of any complex dtype; or varying and of the complex dtype that belongs to the
        dtype of u (complex64 to float32); or varying in the dtype of u with pairs (re, im) adjacent along the last
        axis, (b, l, 2n) or (b, l, g, 2n), ``layout="bdl"``: (b, n, 2l) or (b, g, n, 2l).
    D : Tensor, (d,), optional
        Skip connection, any floating dtype.
    z : Tensor, shape and dtype of u, optional
        Gate; y is multiplied by silu(z).
    delta_bias : Tensor, (d,), optional
        Added to delta, any floating dtype.
    delta_softplus : bool
        Apply softplus to delta + delta_bias; above 20 softplus is the identity, as in PyTorch.
    initial_state : Tensor, (b, d, n), optional
        State before the first step scanned, any floating dtype (complex with a complex A), computed in float32; zero
        when absent. (s, d, n) with cu_seqlens.
    return_final_state : bool
        Also return the state after the last step scanned.
    layout : {"bld", "bdl"}
        Order of the axes: sequence in the middle, or last.
    reverse : bool
        Scan from the last step to the first: initial_state is the state behind the end, the final state the one
        after step 0, and y[b, t, d] still belongs to u[b, t, d].
    cu_seqlens : Tensor, (s + 1,), int32, optional
        Packs s sequences in one row: b is 1 and sequence i is made of the steps cu_seqlens[i] to
        cu_seqlens[i + 1] - 1, scanned on its own from its own state; it may be empty. Begins with 0, does not
        decrease, ends with l, and lies on the device of u. On the CPU the values are checked. On a GPU that would
        make the call wait for the device: values out of this order give wrong results there, but touch no memory
        outside the tensors.
    chunk_invariant : bool
        Make y and the final state the same, bit for bit, however a sequence is cut into calls at multiples of 2048
        steps (counted in the order of scanning) with the state handed on. A CPU gives that for any cut, asked or not.
        On a GPU the calls must agree in layout, and in whether they pass ``cu_seqlens``.

    Returns
    -------
    y : Tensor, shape and dtype of u
        Dense; its innermost axis is the one that is contiguous in u.
    final_state : Tensor, (b, d, n), float32 or complex64
        (s, d, n) with cu_seqlens. Only with ``return_final_state``.

    Raises
    ------
    ValueError
        An argument cannot be served: the message names it, what it has and what it needs. Nothing has run then.
    NotImplementedError
        On a backward pass through the result, where ``torch.func`` differentiates, and for inputs with forward-mode
        tangents: this version has no derivatives. ``torch.compile`` asks for the backward pass beforehand: what it has
        compiled raises at once (an error of its own that holds this one) if an input requires a gradient, unless
        under ``torch.no_grad()``.

    Notes
    -----
    Under ``torch.autocast`` the scan runs in the dtype of u, and delta, z, B and C are cast to it; without autocast a
    different dtype is an error. State and sums are float32 in any case. Big tensors are never copied for their
    strides.

    References
    ----------
    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, equation 2, with the
    simplified Euler step for B that its implementation uses.
    """
    seq_last = layout == "bdl"
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens)
    options = (delta_softplus, seq_last, return_final_state, reverse, chunk_invariant)
    if torch.compiler.is_compiling():
        check_arguments(tensors, layout, **_flags(options))
        y, state = _forward(*_converted(*tensors), *options)
        return (y, _as_complex(state, A)) if return_final_state else y

    if forward_ad._current_level >= 0:  # cheaper than to ask each tensor; functorch's jvp has one, too
        _refuse_tangents(tensors)
    try:
        if (seq_last or layout == "bld") and _is_ready(*tensors) and _are_flags(*options):
            arguments = tensors + options
        else:
            check_arguments(tensors, layout, **_flags(options))
            arguments = _converted(*tensors) + options
        if torch.is_grad_enabled() and _needs_grad(arguments):
            y, state = _forward(*arguments)
        else:
            with _below_autograd():
                y, state = _forward_directly(*arguments)
    except (RuntimeError, TypeError, AttributeError) as error:
        # The operator refused: explain which argument is wrong. Where none is, the error speaks for itself.
        _explain_refusal(tensors, layout, _flags(options))
        if "setup_context" in str(error):  # what torch.func says to a function that has no derivative for it
            raise NotImplementedError(NO_BACKWARD) from error
        raise
    if not return_final_state:
        return y
    return y, _as_complex(state, A)
