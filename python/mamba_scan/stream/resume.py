"""The file from which an interrupted scan goes on."""

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .host_memory import byte_view

_VERSION = 3
_TAIL_STEPS = 64


@dataclass(frozen=True)
class Checkpoint:
    """How far a scan has come.

    Attributes
    ----------
    position : int
        Steps whose result is in the sink.
    state : Tensor, (b, d, n), float32 or complex64, on the CPU
        State after them.
    tail_steps : int
        How many of them, the last ones of the last chunk, the checksums cover.
    origin : int
        Step that a source which is a function was asked for when it returned the first of these.
    inputs_digest, y_digest : str
        SHA-256 of the inputs and of the result at those steps; the latter empty for a sink that cannot be read.
    """

    position: int
    state: torch.Tensor
    tail_steps: int
    origin: int
    inputs_digest: str
    y_digest: str


_FIELDS = {"version", "options", "digest", *Checkpoint.__dataclass_fields__}


def tail_of(steps: int) -> int:
    """Return how many steps at the end of a chunk the checksums cover."""
    return min(steps, _TAIL_STEPS)


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Return the SHA-256 of the bytes of CPU tensors."""
    sha = hashlib.sha256()
    for tensor in tensors:
        data = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
        if data.numel():
            sha.update(byte_view(data))
    return sha.hexdigest()


def _digest_of(content: dict[str, Any]) -> str:
    """Return the SHA-256 of everything in a resume file but this: of most damage torch.load knows nothing."""
    state = content["state"]
    rest = sorted((name, value) for name, value in content.items() if name not in ("digest", "state"))
    text = repr((rest, tuple(state.shape), state.dtype, digest([state])))
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: Path, checkpoint: Checkpoint, options: dict[str, Any]) -> None:
    """Write the file so that at any moment there is the old one or the new one, whole."""
    content = {"version": _VERSION, "options": options}
    content |= {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    content["digest"] = _digest_of(content)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        _replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _replace(temporary: Path, path: Path) -> None:
    """Rename; on Windows a scanner that has just opened the old file can be in the way for a moment."""
    for attempt in range(20):
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if os.name != "nt" or attempt == 19:
                raise
            time.sleep(0.05)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power cut, where folders can be opened."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: Path, options: dict[str, Any]) -> Checkpoint:
    """Read the file and check that it belongs to a call with these options.

    Raises
    ------
    ValueError
        It does not, or is damaged; the message says why.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what torch raises for a file that is something else depends on what it is
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _refusal(path, f"cannot be read ({reason})", "a file that stream_scan wrote") from None
    if not isinstance(content, dict) or "version" not in content:
        raise _refusal(path, "other contents", "a file that stream_scan wrote")
    if content["version"] != _VERSION:
        raise _refusal(path, f"version {content['version']}", str(_VERSION))
    if content.keys() != _FIELDS:
        raise _refusal(path, "other contents", "a file that stream_scan wrote")
    if not _is_intact(content):
        raise _refusal(path, "damaged contents", "an intact file")
    saved = content["options"]
    for name in [*options, *(name for name in saved if name not in options)]:
        if saved.get(name) != options.get(name):
            raise _refusal(path, f"{name} = {saved.get(name)!r}", f"{options.get(name)!r}, as in this call")
    return Checkpoint(**{name: content[name] for name in Checkpoint.__dataclass_fields__})


def _is_intact(content: dict[str, Any]) -> bool:
    try:
        return _digest_of(content) == content["digest"]
    except Exception:  # what a damaged state does when it is read depends on the damage
        return False


def _refusal(path: Path, got: str, needed: str) -> ValueError:
    return ValueError(f"stream_scan: resume {str(path)!r} has {got}; needs {needed}")


def refuse_data(path: Path, what: str, checkpoint: Checkpoint) -> ValueError:
    """Return the error for a source or sink that does not hold what the file says."""
    first = checkpoint.position - checkpoint.tail_steps
    return ValueError(
        f"stream_scan: {what} differs, in the steps {first} to {checkpoint.position - 1}, from what it was when resume "
        f"{str(path)!r} was written; needs the same data, or another resume file to begin anew"
    )
