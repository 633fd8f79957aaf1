"""Inputs of the demo, made chunk by chunk, and the float64 recurrence that its output is checked against."""

import math
from dataclasses import dataclass

import torch

_NOISE_CHUNKS = 8
_GOLDEN = 2654435761  # Knuth's multiplier: spreads consecutive indices


@dataclass(frozen=True)
class Chunk:
    """Inputs of some steps: u and delta (1, l, d), B and C (1, l, n)."""

    u: torch.Tensor
    delta: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor


class ChunkSource:
    """A long sequence that is never held: chunk ``index`` is made from the seed and the index alone.

    The weights are those a Mamba layer starts with: A = -1 .. -n, D = 1, and a bias such that softplus gives step
    sizes log-uniform in 0.001 to 0.1.
    """

    def __init__(
        self, seqlen: int, dim: int, dstate: int, chunk: int, dtype: torch.dtype, device: torch.device, seed: int = 0
    ) -> None:
        self.seqlen = seqlen
        self.chunk = chunk
        self.dtype = dtype
        self.device = device
        self._seed = seed
        generator = torch.Generator().manual_seed(seed)
        step = torch.exp(torch.rand(dim, generator=generator) * math.log(100.0) + math.log(1e-3))
        self.A = -torch.arange(1, dstate + 1, dtype=torch.float32).repeat(dim, 1).to(device)
        self.D = torch.ones(dim, device=device)
        self.delta_bias = torch.log(torch.expm1(step)).to(device)  # the inverse of softplus
        # Drawing numbers takes a CPU longer than scanning them: there, chunks are windows of a few chunks of noise.
        self._noise: Chunk | None = None
        if device.type == "cpu":
            self._noise = self._draw(_NOISE_CHUNKS * chunk, torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return -(-self.seqlen // self.chunk)

    def steps(self, index: int) -> int:
        """Length of a chunk; the last one may be shorter."""
        return min(self.chunk, self.seqlen - index * self.chunk)

    def make(self, index: int) -> Chunk:
        """Return the inputs of chunk ``index``, the same ones every time."""
        seed = (self._seed << 32) + index
        steps = self.steps(index)
        if self._noise is None:
            return self._draw(steps, torch.Generator(self.device).manual_seed(seed))
        first = seed * _GOLDEN % ((_NOISE_CHUNKS - 1) * self.chunk + 1)
        noise = self._noise
        return Chunk(*(x[:, first : first + steps] for x in (noise.u, noise.delta, noise.B, noise.C)))

    def _draw(self, steps: int, generator: torch.Generator) -> Chunk:
        dim, dstate = self.A.shape

        def uniform(width: int) -> torch.Tensor:
            values = torch.empty(1, steps, width, dtype=self.dtype, device=self.device)
            return values.uniform_(-1, 1, generator=generator)

        return Chunk(uniform(dim), uniform(dim), uniform(dstate), uniform(dstate))


class Reference:
    """The recurrence in float64 on the CPU for some channels, one step after the other."""

    def __init__(self, source: ChunkSource, channels: torch.Tensor) -> None:
        def take(weight: torch.Tensor) -> torch.Tensor:
            return weight.cpu()[channels].double()

        self._channels = channels
        self._A, self._D, self._bias = take(source.A), take(source.D), take(source.delta_bias)

    def run(self, chunk: Chunk, state: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scan the first ``steps`` steps of a chunk.

        Parameters
        ----------
        chunk : Chunk
            Inputs of all channels.
        state : Tensor, (1, d, n)
            State before the chunk.
        steps : int
            How many steps.

        Returns
        -------
        y : Tensor, (steps, channels), float64
        state : Tensor, (channels, n), float64
        """
        at = self._channels.to(chunk.u.device)
        u, delta = (x[0, :steps].index_select(-1, at).cpu().double() for x in (chunk.u, chunk.delta))
        B, C = (x[0, :steps].cpu().double() for x in (chunk.B, chunk.C))
        h = state[0].index_select(0, self._channels.to(state.device)).cpu().double()
        delta = torch.nn.functional.softplus(delta + self._bias)
        scaled = delta * u
        y = torch.empty_like(u)
        for t in range(steps):
            h = torch.exp(delta[t, :, None] * self._A).mul_(h).add_(scaled[t, :, None] * B[t])
            y[t] = h @ C[t]
        return y + self._D * u, h
