"""A selective scan over a sequence that arrives in chunks."""

import ctypes
import hashlib
from typing import Any

import torch

from ._arguments import LAYOUTS
from ._library import _runtime
from .ops import selective_scan

_STATE_VERSION = 1


class StreamingScan:
    """Scan chunk after chunk; the state goes from one to the next in float32, so nothing is lost at a cut.

    Bit for bit, the results do not depend on where the sequence is cut: on a GPU at multiples of 2048 steps from its
    beginning (elsewhere they agree to rounding), on a CPU anywhere.

    Parameters
    ----------
    A : Tensor, (d, n)
        State decay, any floating dtype; complex for complex states, computed in complex64.
    D : Tensor, (d,), optional
        Skip connection.
    delta_bias : Tensor, (d,), optional
        Added to delta.
    delta_softplus : bool
        Apply softplus to delta + delta_bias.
    device : device, optional
        Where the chunks will be; that of A when absent.
    layout : {"bld", "bdl"}
        Order of the axes of a chunk, as in :func:`mamba_scan.selective_scan`.

    Raises
    ------
    ValueError
        A parameter has the wrong rank, shape or dtype.

    Notes
    -----
    No gradients flow through a stream.
    """

    def __init__(
        self,
        A: torch.Tensor,
        D: torch.Tensor | None = None,
        *,
        delta_bias: torch.Tensor | None = None,
        delta_softplus: bool = False,
        device: torch.device | str | int | None = None,
        layout: str = "bld",
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"StreamingScan: layout is {layout!r}; needs 'bld' (batch, seqlen, dim) or 'bdl'")
        for name, weight in (("A", A), ("D", D), ("delta_bias", delta_bias)):
            if weight is None and name != "A":
                continue
            if not isinstance(weight, torch.Tensor):
                raise ValueError(f"StreamingScan: {name} has type {type(weight).__name__}; needs a torch.Tensor")
            if not (weight.dtype.is_floating_point or (name == "A" and weight.is_complex())):
                raise ValueError(f"StreamingScan: {name} has dtype {weight.dtype}; needs a real floating point dtype")
            if weight.layout is not torch.strided:
                raise ValueError(f"StreamingScan: {name} has layout {weight.layout}; needs a dense (strided) tensor")
            if weight.device.type not in ("cpu", "cuda"):
                raise ValueError(f"StreamingScan: {name} has device {weight.device}; needs a cpu or cuda device")
        if A.ndim != 2 or A.shape[1] < 1:
            raise ValueError(f"StreamingScan: A has shape {tuple(A.shape)}; needs (dim, dstate)")
        for name, vector in (("D", D), ("delta_bias", delta_bias)):
            if vector is not None and tuple(vector.shape) != (A.shape[0],):
                shape, needed = tuple(vector.shape), (A.shape[0],)
                raise ValueError(f"StreamingScan: {name} has shape {shape}; needs {needed} = (dim,)")
        device = A.device if device is None else usable_device(device, "StreamingScan: device")
        self._A = _parameter(A, device)
        self._D = None if D is None else _parameter(D, device)
        self._delta_bias = None if delta_bias is None else _parameter(delta_bias, device)
        self._delta_softplus = delta_softplus
        self._layout = layout
        self._state: torch.Tensor | None = None
        self._position = 0
        self._chunks = 0  # scanned by this object, for recordings

    @property
    def state(self) -> torch.Tensor | None:
        """State after the last step, (b, d, n) float32, or complex64 with a complex A; None before the first."""
        return self._state

    @property
    def device(self) -> torch.device:
        """Where the chunks have to be."""
        return self._A.device

    @property
    def position(self) -> int:
        """Number of steps scanned so far."""
        return self._position

    def state_shape(self, batch: int) -> tuple[int, int, int]:
        """Return the shape of the state, (b, d, n)."""
        return (batch, *self._A.shape)

    def zero_state(self, batch: int) -> torch.Tensor:
        """Return the state before the first step of a sequence that begins with nothing."""
        return torch.zeros(self.state_shape(batch), dtype=self._A.dtype, device=self._A.device)

    def go_on_from(self, state: torch.Tensor, position: int) -> None:
        """Take over a state, (b, d, n), that another scan had after ``position`` steps."""
        if not isinstance(state, torch.Tensor):
            raise ValueError(f"StreamingScan: the state has type {type(state).__name__}; needs a torch.Tensor")
        if state.ndim != 3 or state.shape[1:] != self._A.shape:
            needed = ("batch", *self._A.shape)
            raise ValueError(f"StreamingScan: the state has shape {tuple(state.shape)}; needs {needed}")
        if state.is_complex() != self._A.is_complex():
            raise ValueError(f"StreamingScan: the state has dtype {state.dtype}; needs {self._A.dtype}")
        self._state = _parameter(state, self._A.device)
        self._position = position

    def reset(self) -> None:
        """Forget the state: the next chunk begins a sequence."""
        self._state = None
        self._position = 0

    @torch.no_grad()
    def step(
        self,
        u: torch.Tensor,
        delta: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scan the next chunk.

        Parameters
        ----------
        u, delta, z : Tensor, (b, l, d)
            Chunk of any length l, zero included; ``layout="bdl"``: (b, d, l).
        B, C : Tensor
            As in :func:`mamba_scan.selective_scan`.

        Returns
        -------
        y : Tensor, shape and dtype of u

        Raises
        ------
        ValueError
            As :func:`mamba_scan.selective_scan` does, and when the batch size differs from that of earlier chunks.
            The state is then what it was.
        """
        if (
            self._state is not None
            and isinstance(u, torch.Tensor)
            and u.ndim == 3
            and u.shape[0] != self._state.shape[0]
        ):
            raise ValueError(
                f"StreamingScan: u has batch {u.shape[0]}; needs {self._state.shape[0]}, the batch of the stream "
                "(reset() begins a new one)"
            )
        start_us = _runtime.recording_now_us()
        state = self._state
        if state is None and isinstance(u, torch.Tensor) and u.ndim == 3:
            # From an explicit zero state, so that all chunks run the same kernel and only one has to be compiled.
            state = self.zero_state(u.shape[0])
        y, self._state = selective_scan(
            u,
            delta,
            self._A,
            B,
            C,
            self._D,
            z=z,
            delta_bias=self._delta_bias,
            delta_softplus=self._delta_softplus,
            initial_state=state,
            return_final_state=True,
            layout=self._layout,
            chunk_invariant=True,
        )
        steps = u.shape[1 if self._layout == "bld" else 2]
        if start_us >= 0:
            _runtime.report_chunk(self._chunks, self._position, steps, start_us)
        self._position += steps
        self._chunks += 1
        return y

    def state_dict(self) -> dict[str, Any]:
        """Return everything another process needs to go on: a copy of the state on the CPU, position, options.

        The weights are not in it, only their fingerprint.
        """
        return {
            "version": _STATE_VERSION,
            "options": self.options(),
            "position": self._position,
            "state": None if self._state is None else self._state.detach().to("cpu", copy=True),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the stream that made ``state_dict`` stood.

        Raises
        ------
        ValueError
            It comes from a stream with other weights, options or shapes; the message says which. Nothing has
            changed then.
        """
        if not isinstance(state_dict, dict):
            raise ValueError(f"StreamingScan: the state has type {type(state_dict).__name__}; needs a dict")
        missing = {"version", "options", "position", "state"} - state_dict.keys()
        if missing:
            raise ValueError(f"StreamingScan: the state lacks {sorted(missing)}; needs what state_dict() returned")
        if state_dict["version"] != _STATE_VERSION:
            raise ValueError(f"StreamingScan: the state has version {state_dict['version']}; needs {_STATE_VERSION}")
        saved, position, state = state_dict["options"], state_dict["position"], state_dict["state"]
        if not isinstance(saved, dict):
            raise ValueError(f"StreamingScan: the state has options = {saved!r}; needs what state_dict() returned")
        for name, own in self.options().items():
            if saved.get(name) != own:
                raise ValueError(f"StreamingScan: the state has {name} = {saved.get(name)!r}; needs {own!r}")
        if not isinstance(position, int) or isinstance(position, bool) or position < 0:
            raise ValueError(f"StreamingScan: the state has position = {position!r}; needs a number of steps")
        if state is not None:
            self.go_on_from(state, position)
            return
        self.reset()
        self._position = position

    def options(self) -> dict[str, Any]:
        """Return what must be the same where a state is taken over."""
        return {
            "layout": self._layout,
            "delta_softplus": self._delta_softplus,
            "dim": self._A.shape[0],
            "dstate": self._A.shape[1],
            "D": self._D is not None,
            "delta_bias": self._delta_bias is not None,
            "weights": fingerprint(self._A, self._D, self._delta_bias),
        }


def usable_device(device: torch.device | str, name: str) -> torch.device:
    """Return a device that scans can run on, or raise a ValueError with the argument's name."""
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {device!r}; needs cpu, cuda or cuda:N") from error
    if wanted.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} is {wanted}; needs cpu, cuda or cuda:N")
    if wanted.type == "cuda" and (wanted.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"{name} is {wanted}, and this torch sees {count} GPUs; needs cpu or one of them")
    return wanted


def _parameter(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a private copy in single precision: a later change of the caller's must not change the stream midway."""
    dtype = torch.complex64 if tensor.is_complex() else torch.float32
    return tensor.detach().to(device, dtype, copy=True).resolve_conj().contiguous()


def fingerprint(*weights: torch.Tensor | None) -> str:
    """SHA-256 of the bytes, so that a state is not resumed with other weights by mistake."""
    digest = hashlib.sha256()
    for weight in weights:
        if weight is not None:
            weight = weight.detach().resolve_conj().resolve_neg().cpu().contiguous()
            digest.update(ctypes.string_at(weight.data_ptr(), weight.nbytes))
        digest.update(b"|")
    return digest.hexdigest()
