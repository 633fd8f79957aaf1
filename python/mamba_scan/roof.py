"""The fastest a scan can be on a device: what moving its data and evaluating its exponentials must take.

Both ceilings are measured, so that a multiple of the roof means the same on every machine.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ._library import _runtime

# 8 independent chains hide the latency of ex2; 128 rounds outweigh the load and the store of an element.
_EX2_CHAINS, _EX2_ROUNDS = 8, 128
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

    def seconds(self, seqlen: int, dim: int, dstate: int, itemsize: int, batch: int = 1) -> float:
        """Return the least time of a scan: u, delta, B, C read once, y written once, one exponential per state."""
        moved = batch * seqlen * (3 * dim + 2 * dstate) * itemsize
        exps = batch * seqlen * dim * dstate
        return max(moved / self.bytes_per_s, exps / self.exps_per_s)


def _best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """Return the shortest of some runs, after one that does not count."""
    best = float("inf")
    work()
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            work()
            end.record()
            end.synchronize()
            seconds = start.elapsed_time(end) / 1e3
        else:
            begin = time.perf_counter()
            work()
            seconds = time.perf_counter() - begin
        best = min(best, seconds)
    return best


def _copy_rate(device: torch.device) -> float:
    count = 1 << (28 if device.type == "cuda" else 24)  # floats; far more than any cache holds
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device)


def _cuda_exp_rate(device: torch.device) -> tuple[float, str]:
    properties = torch.cuda.get_device_properties(device)
    x = torch.zeros(properties.multi_processor_count * 2048 * 8, device=device)
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
