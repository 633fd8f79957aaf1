"""What else computes a selective scan here, measured beside ours in the same run.

Each gets the memory order it is made for, so no conversion is in its time. Packages are imported only when asked for.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..ops import selective_scan
from .cases import Case
from .timing import Call, Inputs

# batch * seqlen * dim * dstate that the loop may take: it holds several float32 tensors of them.
_LOOP_STATES = {"cpu": 1 << 23, "cuda": 1 << 26}
_LOOP_STEPS = 8192


class UnsupportedError(Exception):
    """The contender cannot run this scan; the message says what it lacks."""


@dataclass(frozen=True)
class Contender:
    """An implementation of the selective scan.

    Attributes
    ----------
    name : str
        As printed.
    note : str
        What exactly is measured.
    prepare : function of a case and its inputs
        Returns a call without arguments whose result is y in the case's layout, or raises UnsupportedError.
    capturable : bool
        Whether it can run inside a CUDA graph.
    """

    name: str
    note: str
    prepare: Callable[[Case, Inputs], Call]
    capturable: bool = True


def _prepare_ours(case: Case, inputs: Inputs) -> Call:
    if case.final_state:
        return lambda: selective_scan(**inputs)[0]
    return lambda: selective_scan(**inputs)


OURS = Contender("mamba_scan", "selective_scan", _prepare_ours)


def _refuse(name: str, case: Case, **unsupported: bool) -> None:
    for what, asked in unsupported.items():
        if asked:
            raise UnsupportedError(f"{name} has no {what.replace('_', ' ')}")


def _seq_last(tensor: torch.Tensor | None, case: Case) -> torch.Tensor | None:
    """Return what varies in time as a contiguous (b, d, l) or (b, g, n, l), and weights as they are."""
    if tensor is None or tensor.ndim < 3 or case.layout == "bdl":
        return tensor
    return tensor.movedim(1, -1).contiguous()


def _in_layout(y: torch.Tensor, case: Case) -> torch.Tensor:
    return y if case.layout == "bdl" else y.movedim(-1, 1)


def _prepare_state_spaces(scan: Callable[..., torch.Tensor], case: Case, inputs: Inputs) -> Call:
    _refuse("mamba_ssm", case, initial_state=case.initial_state, reverse_scan=case.reverse)
    _refuse("mamba_ssm", case, chunk_invariance=case.chunk_invariant)
    _refuse("mamba_ssm", case, more_than_256_states=case.dstate > 256, more_than_65535_channels=case.dim > 65535)
    arguments = [_seq_last(inputs.get(name), case) for name in ("u", "delta", "A", "B", "C", "D", "z")]
    arguments.append(inputs.get("delta_bias"))
    return lambda: _in_layout(scan(*arguments, case.softplus), case)


def _raw_state_spaces(module: object) -> Callable[..., torch.Tensor]:
    """Return the kernel without the autograd function around it: [out, x] or, gated, [out, x, out_z]."""

    def scan(
        u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, *rest: object
    ) -> torch.Tensor:
        B, C = (tensor.unsqueeze(1) if tensor.ndim == 3 else tensor for tensor in (B, C))
        results = module.fwd(u, delta, A, B, C, *rest)
        return results[2] if len(results) > 2 else results[0]

    return scan


def _state_spaces() -> Contender:
    try:
        scan, note = _raw_state_spaces(importlib.import_module("selective_scan_cuda")), "selective_scan_cuda.fwd"
    except ImportError:
        scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
        note = "selective_scan_fn"
    return Contender("mamba_ssm", f"{note}, (b, d, l)", lambda case, inputs: _prepare_state_spaces(scan, case, inputs))


def _prepare_windows(module: torch.nn.Module, case: Case, inputs: Inputs) -> Call:
    name = "mamba_windows_cuda"
    _refuse(name, case, z=case.z, softplus=case.softplus, delta_bias=case.delta_bias, reverse_scan=case.reverse)
    _refuse(name, case, chunk_invariance=case.chunk_invariant)
    _refuse(name, case, bfloat16=case.dtype == "bfloat16", groups=case.groups > 1, constant_B_or_C=bool(case.constant))
    _refuse(name, case, other_dstate_than_16=case.dstate != 16, offsets_beyond_31_bits=case.seqlen * case.dim >= 2**31)
    dtype = inputs["u"].dtype
    sequence = [inputs[name] for name in ("u", "delta", "A", "B", "C")]
    if case.layout == "bdl":
        sequence = [tensor if tensor.ndim == 2 else tensor.movedim(-1, 1).contiguous() for tensor in sequence]
    skip = inputs["D"] if case.D else torch.zeros(case.dim, device=inputs["u"].device)
    arguments = [tensor.to(dtype) for tensor in (*sequence, skip)]
    state = inputs["initial_state"].to(dtype) if case.initial_state else None

    def call() -> torch.Tensor:
        y = module.forward(*arguments, h_prev=state)
        return y if case.layout == "bld" else y.movedim(1, -1)

    return call


def _windows() -> Contender:
    module = importlib.import_module("mamba_windows_cuda").SelectiveScanCuda()
    return Contender(
        "mamba_windows_cuda",
        "SelectiveScanCuda.forward, (b, l, d), timed without a graph",
        lambda case, inputs: _prepare_windows(module, case, inputs),
        capturable=False,
    )


def loop(case: Case, inputs: Inputs) -> torch.Tensor:
    """Scan with PyTorch operations, one step at a time: discretise the whole sequence, then loop over it.

    This is what transformers does where no kernel is installed.
    """
    seq_first = [inputs["u"], inputs["delta"], inputs["B"], inputs["C"], inputs.get("z")]
    if case.layout == "bdl":
        seq_first = [t if t is None or t.ndim == 2 else t.movedim(-1, 1) for t in seq_first]
    u, delta, B, C, z = (None if tensor is None else tensor.float() for tensor in seq_first)
    per_group = case.dim // case.groups

    def per_channel(tensor: torch.Tensor) -> torch.Tensor:
        """(b, l, d or 1, n), from (b, l, n), (b, l, g, n) or (d, n)."""
        if tensor.ndim == 4:
            return tensor.repeat_interleave(per_group, dim=2)
        return tensor.unsqueeze(-2) if tensor.ndim == 3 else tensor

    if case.delta_bias:
        delta = delta + inputs["delta_bias"]
    if case.softplus:
        delta = F.softplus(delta)
    decay = torch.exp(delta.unsqueeze(-1) * inputs["A"])
    pushed = (delta * u).unsqueeze(-1) * per_channel(B)
    state = inputs["initial_state"] if case.initial_state else torch.zeros_like(decay[:, 0])
    C = per_channel(C)
    steps = []
    for t in reversed(range(case.seqlen)) if case.reverse else range(case.seqlen):
        state = decay[:, t] * state + pushed[:, t]
        steps.append((state * (C if C.ndim == 2 else C[:, t])).sum(-1))
    y = torch.stack(steps[::-1] if case.reverse else steps, dim=1)
    if case.D:
        y = y + inputs["D"] * u
    if z is not None:
        y = y * F.silu(z)
    y = y.to(inputs["u"].dtype)
    return y if case.layout == "bld" else y.movedim(1, -1)


def _prepare_loop(case: Case, inputs: Inputs) -> Call:
    states = case.batch * case.seqlen * case.dim * case.dstate
    if states > _LOOP_STATES[inputs["u"].device.type] or case.seqlen > _LOOP_STEPS:
        raise UnsupportedError(f"PyTorch loop: {case.shape} is too large for it")
    return lambda: loop(case, inputs)


_LOOP = Contender(
    "PyTorch loop", "one step at a time, as transformers without kernels; without a graph", _prepare_loop, False
)


def find_contenders(device: torch.device) -> tuple[list[Contender], list[str]]:
    """Return what can be compared on this device, and a sentence for each that cannot."""
    found, missing = [], []
    if device.type == "cuda":
        for name, make in (("mamba_ssm", _state_spaces), ("mamba_windows_cuda", _windows)):
            try:
                found.append(make())
            except Exception as error:  # an extension that was built for another torch fails in its own ways
                lines = str(error).splitlines()
                missing.append(f"{name}: {type(error).__name__}{': ' + lines[0] if lines else ''}")
    return [*found, _LOOP], missing
