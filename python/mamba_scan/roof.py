"""The fastest a scan can be on a device: what moving its data and evaluating its exponentials must take.

Both ceilings are measured, so that a multiple of the roof means the same on every machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ._library import _runtime

# 8 independent chains hide the latency of ex2; 256 rounds outweigh the load and the store of an element; 32 elements
# for every resident thread make some milliseconds of it and leave no SM idle at the end.
_EX2_CHAINS, _EX2_ROUNDS, _EX2_ELEMENTS = 8, 256, 32
_EX2_SOURCE = f"""
template <typename T> T ex2_rate(T x) {{
  float v[{_EX2_CHAINS}];
  #pragma unroll
  for (int i = 0; i < {_EX2_CHAINS}; ++i) v[i] = x * (i + 1);
  for (int r = 0; r < {_EX2_ROUNDS}; ++r) {{
    #pragma unroll
    for (int i = 0; i < {_EX2_CHAINS}; ++i) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(v[i]));
  }}
  float sum = 0;
  #pragma unroll
  for (int i = 0; i < {_EX2_CHAINS}; ++i) sum += v[i];
  return sum;
}}
"""


@dataclass(frozen=True)
class Work:
    """What any kernel must do for a scan.

    Attributes
    ----------
    bytes : int
        Of all tensors, each read or written once.
    exps : int
        Evaluations of the exponential: one per step, channel and state. (Of a complex one the sine and the cosine
        are arithmetic.)
    """

    bytes: int
    exps: int


def work(
    batch: int,
    seqlen: int,
    dim: int,
    dstate: int,
    dtype: torch.dtype,
    *,
    groups: int = 1,
    features: str = "",
    sequences: int = 0,
) -> Work:
    """Count the work of a scan, as the planner in the runtime does.

    Parameters
    ----------
    batch, seqlen, dim, dstate, groups : int
        Sizes as in :func:`mamba_scan.selective_scan`.
    dtype : torch.dtype
        Of u, delta, z, y and of B and C unless constant.
    features : str
        Words, separated by spaces: ``D z delta_bias initial_state final_state constant_B constant_C complex``.
    sequences : int
        How many sequences are packed; 0: not packed.

    Raises
    ------
    ValueError
        An unknown dtype or word.
    """
    name = str(dtype).removeprefix("torch.")
    return Work(*_runtime.scan_work(batch, seqlen, dim, dstate, groups, name, features, sequences))


@dataclass(frozen=True)
class Roof:
    """Measured ceilings of a device.

    Attributes
    ----------
    bytes_per_s : float
        Copy rate, bytes read plus bytes written.
    exps_per_s : float
        Rate of exponentials.
    exps_source : str
        What evaluated them.
    """

    bytes_per_s: float
    exps_per_s: float
    exps_source: str

    def memory_seconds(self, work: Work) -> float:
        """Return the least time to move the data."""
        return work.bytes / self.bytes_per_s

    def exp_seconds(self, work: Work) -> float:
        """Return the least time to evaluate the exponentials."""
        return work.exps / self.exps_per_s

    def bound(self, work: Work) -> float:
        """Return the least time of a scan in seconds: the larger of the two."""
        return max(self.memory_seconds(work), self.exp_seconds(work))

    def seconds(self, seqlen: int, dim: int, dstate: int, itemsize: int, batch: int = 1) -> float:
        """Return the least time of a plain scan: u, delta, B, C read once, y written once."""
        moved = batch * seqlen * (3 * dim + 2 * dstate) * itemsize
        return self.bound(Work(moved, batch * seqlen * dim * dstate))


def _seconds(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Return the mean time of some runs in a row."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - begin) / times
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / times


def _best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 9) -> float:
    """Return the shortest of some measurements, each long against the clock and a launch.

    The first ones raise the device's clocks and do not count.
    """
    _seconds(work, device, 1)
    least = 4e-3
    times = max(1, min(64, int(least / max(_seconds(work, device, 1), 1e-6)) + 1))
    return min(_seconds(work, device, times) for _ in range(repeats))


def _copy_rate(device: torch.device) -> float:
    """Bytes read and written per second: the faster of the copy engine's and a kernel's way, far beyond any cache."""
    count = 1 << 24  # floats
    if device.type == "cuda":  # 1 GiB each, less where a small GPU has other things in its memory
        count = min(1 << 28, max(count, torch.cuda.mem_get_info(device)[0] // 4 // 4))
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    ways = [lambda: target.copy_(source)]
    if device.type == "cuda":
        ways.append(lambda: torch.neg(source, out=target))
    return max(2 * source.nbytes / _best_seconds(way, device) for way in ways)


def _cuda_exp_rate(device: torch.device) -> tuple[float, str]:
    properties = torch.cuda.get_device_properties(device)
    x = torch.zeros(properties.multi_processor_count * 2048 * _EX2_ELEMENTS, device=device)
    kernel = torch.cuda.jiterator._create_jit_fn(_EX2_SOURCE)
    seconds = _best_seconds(lambda: kernel(x), device)
    return x.numel() * _EX2_CHAINS * _EX2_ROUNDS / seconds, "measured: ex2.approx.ftz.f32"


def _cpu_exp_rate() -> tuple[float, str]:
    """Rate of the CPU backend's own exponential on data in the first-level cache, on all threads of a scan."""
    rate = max(_runtime.cpu_exp_rate(0, 0.1) for _ in range(5))
    source = f"measured: exp2 of the CPU backend, {_runtime.cpu_instruction_set()}, {_runtime.cpu_threads()} threads"
    return rate, source


def measure(device: torch.device) -> Roof:
    """Measure both ceilings of a device; takes about a second."""
    if device.type != "cuda":
        return Roof(_copy_rate(device), *_cpu_exp_rate())
    with torch.cuda.device(device):
        return Roof(_copy_rate(device), *_cuda_exp_rate(device))
