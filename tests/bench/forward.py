"""The forward scan on a GPU against its roof, at the shapes that models use.

    python tests/bench/forward.py [--json] [--dtype float16] [--layout bld] [--full]

Times are medians of CUDA graph replays, so they are the kernels' own cost; inputs rotate through more memory than the
L2 cache holds. The roof is the larger of two floors, moving every tensor once and evaluating one exponential per state,
both at rates measured in the same run. --full adds z, D, delta_bias and softplus.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

import mamba_scan
import torch
from mamba_scan import roof

SHAPES = [  # batch, seqlen, dim, dstate
    (64, 2048, 1536, 16),
    (8, 2048, 5120, 16),
    (1, 131072, 2048, 16),
    (1, 16384, 2048, 16),
    (1, 16384, 768, 16),
    (1, 1024, 2048, 16),
    (1, 1024, 256, 16),
    *((8, 2048, 2048, dstate) for dstate in (1, 4, 8, 32, 64, 128, 256)),
]
ROTATE_BYTES = 256 << 20  # several times the largest L2


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, layout: str, full: bool) -> dict[str, object]:
    """Random inputs as a trained model has them: delta log-uniform in 0.001 .. 0.1, A = -1 .. -N."""
    batch, seqlen, dim, dstate = shape
    seq_last = layout == "bdl"

    def sequence(channels: int) -> torch.Tensor:
        return torch.randn((batch, channels, seqlen) if seq_last else (batch, seqlen, channels), device="cuda")

    delta = torch.exp(torch.rand_like(sequence(dim)) * 4.6 - 6.9)
    inputs = {
        "u": sequence(dim).to(dtype),
        "delta": (delta.expm1().log() if full else delta).to(dtype),  # the inverse of softplus
        "A": -torch.arange(1.0, dstate + 1, device="cuda").repeat(dim, 1),
        "B": sequence(dstate).to(dtype),
        "C": sequence(dstate).to(dtype),
        "layout": layout,
    }
    if full:
        inputs |= {"D": torch.ones(dim, device="cuda"), "z": sequence(dim).to(dtype)}
        inputs |= {"delta_bias": torch.zeros(dim, device="cuda"), "delta_softplus": True}
    return inputs


def graph_microseconds(sets: list[dict[str, object]], replays: int = 7) -> float:
    """Median time of one scan, from replays of a graph that runs every set of inputs."""
    for inputs in sets:
        mamba_scan.selective_scan(**inputs)
    torch.cuda.synchronize()
    calls = max(len(sets), 4)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            mamba_scan.selective_scan(**sets[i % len(sets)])
    graph.replay()
    times = []
    for _ in range(replays):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dtype", default="float16", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--layout", default="bld", choices=["bld", "bdl"])
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("tests/bench/forward.py needs a GPU and a torch with CUDA; tests/bench/cpu_bench.cpp measures the CPU")
        sys.exit(0)

    dtype = getattr(torch, arguments.dtype)
    ceilings = roof.measure(torch.device("cuda"))
    rows = []
    with torch.no_grad():
        for shape in SHAPES:
            batch, seqlen, dim, dstate = shape
            first = make_inputs(shape, dtype, arguments.layout, arguments.full)
            bytes_each = sum(value.nbytes for value in first.values() if isinstance(value, torch.Tensor))
            copies = min(32, max(1, -(-ROTATE_BYTES // bytes_each)))
            sets = [first] + [make_inputs(shape, dtype, arguments.layout, arguments.full) for _ in range(copies - 1)]
            microseconds = graph_microseconds(sets)
            # z is one more tensor to read, which Roof.seconds() does not count.
            gate_s = batch * seqlen * dim * dtype.itemsize / ceilings.bytes_per_s if arguments.full else 0.0
            memory_s = batch * seqlen * (3 * dim + 2 * dstate) * dtype.itemsize / ceilings.bytes_per_s + gate_s
            roof_us = max(memory_s, batch * seqlen * dim * dstate / ceilings.exps_per_s) * 1e6
            rows.append({"shape": shape, "us": microseconds, "roof_us": roof_us, "multiple": microseconds / roof_us})
            del first, sets

    if arguments.json:
        print(json.dumps({"gpu": torch.cuda.get_device_name(), "bytes_per_s": ceilings.bytes_per_s,
                          "exps_per_s": ceilings.exps_per_s, "dtype": arguments.dtype, "layout": arguments.layout,
                          "full": arguments.full, "rows": rows}))  # fmt: skip
        return
    print(f"{torch.cuda.get_device_name()}: copy {ceilings.bytes_per_s / 1e9:,.0f} GB/s, "
          f"{ceilings.exps_per_s / 1e9:,.0f} G exps/s; {arguments.dtype}, {arguments.layout}"
          f"{', z + D + softplus + bias' if arguments.full else ''}")  # fmt: skip
    print(f"{'batch, seqlen, dim, dstate':<28}{'us':>10}{'roof us':>10}{'multiple':>10}")
    for row in rows:
        print(f"{row['shape']!s:<28}{row['us']:>10.1f}{row['roof_us']:>10.1f}{row['multiple']:>9.2f}x")


if __name__ == "__main__":
    main()
