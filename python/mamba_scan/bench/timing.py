"""Inputs for a measured scan, and how long a call takes.

On a GPU the time is that of replaying a CUDA graph of many calls, which is the kernels' own cost. Each call of the
graph reads and writes memory of its own, together several times the L2 cache. What is compared is measured in turns,
so that a change of the GPU's clock meets all alike.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..demo import DTYPES
from .cases import Case

Inputs = dict[str, Any]
Call = Callable[[], torch.Tensor]

_CPU_ROTATED_BYTES = 64 << 20
_MOST_COPIES = 512
_GRAPH_CALLS = 4  # at least, so that starting the graph does not count
_SAMPLE_SECONDS = 2e-3  # an event resolves about a microsecond
_WARM_SECONDS = 20e-3
_ROUNDS = (3, 25)  # at least, and at most within the budget
_EAGER_ROUNDS = 7
_EAGER_CALLS = 200
_EAGER_BELOW = 100e-6


@dataclass(frozen=True)
class Timing:
    """Seconds per call over several samples, each the mean of many calls."""

    median: float
    p10: float
    p90: float
    samples: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Timing":
        """Summarise samples."""
        ordered = sorted(samples)
        return cls(statistics.median(ordered), quantile(ordered, 0.1), quantile(ordered, 0.9), len(ordered))

    @property
    def spread(self) -> float:
        """Width of the middle four fifths of the samples, relative to the median."""
        return (self.p90 - self.p10) / self.median


def quantile(ordered: Sequence[float], q: float) -> float:
    """Return the linearly interpolated quantile of sorted values."""
    position = q * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def make_inputs(case: Case, device: torch.device, seed: int = 0) -> Inputs:
    """Return random arguments of selective_scan as a trained model has them.

    delta is log-uniform in 0.001 .. 0.1 after softplus, A = -1 .. -dstate.
    """
    generator = torch.Generator(device).manual_seed(seed)
    dtype = DTYPES[case.dtype]
    options = {"generator": generator, "device": device}
    seq_last = case.layout == "bdl"

    def shape(*channels: int) -> tuple[int, ...]:
        return (case.batch, *channels, case.seqlen) if seq_last else (case.batch, case.seqlen, *channels)

    def projection(letter: str) -> torch.Tensor:
        if letter in case.constant:
            return torch.randn(case.dim, case.dstate, **options)
        channels = (case.groups, case.dstate) if case.groups > 1 else (case.dstate,)
        return torch.randn(shape(*channels), dtype=dtype, **options)

    # In place: the longest sequences leave no room for temporaries.
    delta = torch.rand(shape(case.dim), dtype=dtype, **options).mul_(math.log(100)).add_(math.log(1e-3)).exp_()
    if case.softplus:
        delta = delta.expm1_().log_()
    inputs: Inputs = {
        "u": torch.randn(shape(case.dim), dtype=dtype, **options),
        "delta": delta,
        "A": -torch.arange(1.0, case.dstate + 1, device=device).repeat(case.dim, 1),
        "B": projection("B"),
        "C": projection("C"),
        "layout": case.layout,
    }
    if case.D:
        inputs["D"] = torch.ones(case.dim, device=device)
    if case.z:
        inputs["z"] = torch.randn(shape(case.dim), dtype=dtype, **options)
    if case.delta_bias:
        inputs["delta_bias"] = torch.zeros(case.dim, device=device)
    if case.initial_state:
        inputs["initial_state"] = torch.randn(case.batch, case.dim, case.dstate, **options)
    flags = {"delta_softplus": case.softplus, "return_final_state": case.final_state, "reverse": case.reverse}
    flags["chunk_invariant"] = case.chunk_invariant
    return inputs | {name: True for name, value in flags.items() if value}


def input_bytes(inputs: Inputs) -> int:
    """Return the size of all tensors."""
    return sum(value.nbytes for value in inputs.values() if isinstance(value, torch.Tensor))


def rotated(inputs: Inputs, device: torch.device) -> list[Inputs]:
    """Return as many copies, the original among them, as together exceed the caches several times."""
    wanted = _CPU_ROTATED_BYTES
    if device.type == "cuda":
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 << 20)
        wanted = min(4 * cache, torch.cuda.mem_get_info(device)[0] // 4)
    count = min(_MOST_COPIES, max(1, math.ceil(wanted / max(input_bytes(inputs), 1))))
    return [inputs, *(_clone(inputs) for _ in range(count - 1))]


def _clone(inputs: Inputs) -> Inputs:
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


class Sampler(Protocol):
    """Something that can be timed again and again."""

    def sample(self) -> float:
        """Return the mean seconds per call over about two milliseconds."""
        ...


class _CudaSampler:
    """Times a function that queues work for the current stream."""

    def __init__(self, device: torch.device, run: Callable[[], object], calls: int) -> None:
        self._device, self._run, self._calls = device, run, calls
        self._repeats = 1
        once = self.sample() * calls
        self._repeats = max(1, math.ceil(_SAMPLE_SECONDS / max(once, 1e-7)))

    def sample(self) -> float:
        """Return the mean seconds per call."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(self._device):
            start.record()
            for _ in range(self._repeats):
                self._run()
            end.record()
            end.synchronize()
        return start.elapsed_time(end) / 1e3 / (self._repeats * self._calls)


class GraphSampler(_CudaSampler):
    """Replays a CUDA graph of all calls, each of which writes its result to memory of its own."""

    def __init__(self, device: torch.device, calls: Sequence[Call]) -> None:
        with torch.cuda.device(device):
            for call in calls:
                call()  # compiles
            torch.cuda.synchronize()
            self.outputs: list[torch.Tensor | None] = [None] * len(calls)
            rounds = math.ceil(_GRAPH_CALLS / len(calls))
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                for _ in range(rounds):
                    for index, call in enumerate(calls):
                        self.outputs[index] = call()
            super().__init__(device, self.graph.replay, rounds * len(calls))


class EagerSampler(_CudaSampler):
    """Times calls as they are, for code that cannot be captured in a graph."""

    def __init__(self, device: torch.device, calls: Sequence[Call]) -> None:
        self.outputs: list[torch.Tensor] = []

        def run() -> None:
            self.outputs = [call() for call in calls[:1]]
            for call in calls[1:]:
                call()

        run()
        super().__init__(device, run, len(calls))


class WallSampler:
    """Times calls that compute before they return."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls, self._next = calls, 0
        self.outputs = [calls[0]()]
        self._repeats = 1
        self._repeats = max(1, math.ceil(_SAMPLE_SECONDS / max(self.sample(), 1e-7)))

    def sample(self) -> float:
        """Return the mean seconds per call."""
        begin = time.perf_counter()
        for _ in range(self._repeats):
            self._calls[self._next % len(self._calls)]()
            self._next += 1
        return (time.perf_counter() - begin) / self._repeats


def measure(samplers: Sequence[Sampler], budget_seconds: float = 0.5) -> list[Timing]:
    """Sample in turns, each sampler three times at least and otherwise until its budget is spent.

    Parameters
    ----------
    samplers : sequence of Sampler
        What is compared.
    budget_seconds : float
        Of each sampler.
    """
    spent = [0.0 for _ in samplers]
    samples: list[list[float]] = [[] for _ in samplers]

    def take(index: int) -> float:
        begin = time.perf_counter()
        value = samplers[index].sample()
        spent[index] += time.perf_counter() - begin
        return value

    for index in range(len(samplers)):
        while True:
            take(index)
            if spent[index] >= _WARM_SECONDS:
                break
    for done in range(_ROUNDS[1]):
        for index, values in enumerate(samples):
            if done < _ROUNDS[0] or spent[index] < budget_seconds:
                values.append(take(index))
    return [Timing.of(values) for values in samples]


def eager_seconds(call: Call, device: torch.device) -> float:
    """Return the time per call of calls in a row from Python, until the device has finished the last."""
    samples = []
    for _ in range(_EAGER_ROUNDS):
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        for _ in range(_EAGER_CALLS):
            call()
        torch.cuda.synchronize(device)
        samples.append((time.perf_counter() - begin) / _EAGER_CALLS)
    return statistics.median(samples)


def is_short(timing: Timing) -> bool:
    """Tell whether a call is short enough that its cost on the host may exceed that on the device."""
    return timing.median < _EAGER_BELOW
