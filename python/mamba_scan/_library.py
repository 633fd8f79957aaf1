"""Loads the operator library and the control module, and completes the operator with what must be written in Python.

The operator library registers CPU and CUDA kernels under ``torch.ops.mamba_scan``; the fake kernel (shapes without
data, for ``torch.compile``) and autograd are registered here.
"""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch

from ._arguments import check_arguments

PACKAGE_FOLDER = Path(__file__).resolve().parent
TORCH_FOLDER = Path(torch.__file__).resolve().parent
OPERATOR = "mamba_scan::selective_scan_forward"

_dll_folders: list[Any] = []  # closing a handle of os.add_dll_directory takes the folder out of the search again


def _load_operator_library() -> None:
    suffix = ".dll" if sys.platform == "win32" else ".so"
    if sys.platform == "win32":
        _dll_folders.extend(os.add_dll_directory(str(folder)) for folder in (PACKAGE_FOLDER, TORCH_FOLDER / "lib"))
    torch.ops.load_library(str(PACKAGE_FOLDER / f"mamba_scan_ops{suffix}"))


def _package_folders() -> list[str]:
    """Where pip installs: the runtime looks for NVRTC in torch and in the NVIDIA packages below each of them."""
    folders = [str(TORCH_FOLDER.parent), *(entry for entry in sys.path if entry.endswith("-packages"))]
    return list(dict.fromkeys(folders))


_load_operator_library()

from . import _runtime  # noqa: E402  (needs the folders added above)

for _folder in _package_folders():
    _runtime.add_nvrtc_search_folder(_folder)


def _real_part(pairs: torch.Tensor | None) -> torch.Tensor | None:
    """Of a complex operand as the operator takes it, with an axis (re, im) behind the others."""
    if pairs is None:
        return None
    if pairs.ndim < 1 or pairs.shape[-1] != 2:
        raise ValueError(f"selective_scan: shape {tuple(pairs.shape)}; needs a last axis of 2, because A is complex")
    return pairs.select(-1, 0)


@torch.library.register_fake(OPERATOR)
def _fake_forward(
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
    delta_softplus: bool,
    seq_last: bool,
    return_final_state: bool,
    reverse: bool,
    chunk_invariant: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    is_complex = A.ndim == 3
    operands = (A, B, C, initial_state)
    A, B, C, initial_state = map(_real_part, operands) if is_complex else operands
    check_arguments(
        (u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens),
        "bdl" if seq_last else "bld",
        delta_softplus=delta_softplus,
        return_final_state=return_final_state,
        reverse=reverse,
        chunk_invariant=chunk_invariant,
    )
    batch, second, third = u.shape
    # As in the operator: batch outermost, the innermost axis is the one that is contiguous in u.
    if u.stride(1) == 1 and u.stride(2) != 1:
        y = torch.empty_strided(u.shape, (second * third, 1, second), dtype=u.dtype, device=u.device)
    else:
        y = torch.empty_strided(u.shape, (second * third, third, 1), dtype=u.dtype, device=u.device)
    if not return_final_state:
        return y, torch.empty((0,), dtype=torch.float32, device=u.device)
    states = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
    state_shape = (states, second if seq_last else third, A.shape[1], *((2,) if is_complex else ()))
    return y, torch.empty(state_shape, dtype=torch.float32, device=u.device)


NO_BACKWARD = (
    "selective_scan has no backward pass in this version: its outputs cannot be differentiated. "
    "Call it under torch.no_grad(), or detach its inputs."
)


def _no_backward(ctx: object, *grads: torch.Tensor) -> NoReturn:
    raise NotImplementedError(NO_BACKWARD)


torch.library.register_autograd(OPERATOR, _no_backward)

selective_scan_forward = torch.ops.mamba_scan.selective_scan_forward.default
