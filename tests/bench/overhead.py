"""What a call costs before any arithmetic: an eager call at (1, 1024, 256), and `import mamba_scan` after torch.

    python tests/bench/overhead.py [--json] [--device cpu|cuda]

On a GPU the host time of a call is measured with the queue kept short, so that waiting for the device is not in it.
On a CPU the call computes, so a second shape, (1, 1, 8), shows the cost around the arithmetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

IMPORT_CODE = (
    "import time, torch; begin = time.perf_counter(); import mamba_scan; print((time.perf_counter() - begin) * 1e3)"
)


def import_milliseconds(repeats: int = 5) -> float:
    """Median over fresh processes."""
    times = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", IMPORT_CODE], capture_output=True, text=True, check=True)
        times.append(float(done.stdout))
    return statistics.median(times)


def call_microseconds(device: str, seqlen: int, dim: int, options: bool, calls: int = 200, repeats: int = 15) -> float:
    """Best mean of `calls` calls in a row, in microseconds of host time."""
    import mamba_scan
    import torch

    dtype = torch.float16 if device == "cuda" else torch.float32
    u = torch.randn(1, seqlen, dim, device=device).to(dtype)
    delta = torch.rand_like(u) * 0.1
    A = -torch.rand(dim, 16, device=device)
    B, C = (torch.randn(1, seqlen, 16, device=device).to(dtype) for _ in range(2))
    D = torch.ones(dim, device=device)
    keywords = {}
    if options:
        keywords = {"z": u, "delta_bias": D, "delta_softplus": True, "return_final_state": True}

    best = float("inf")
    with torch.no_grad():
        for _ in range(repeats):
            if device == "cuda":
                torch.cuda.synchronize()
            begin = time.perf_counter()
            for _ in range(calls):
                mamba_scan.selective_scan(u, delta, A, B, C, D, **keywords)
            best = min(best, (time.perf_counter() - begin) / calls)
    return best * 1e6


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shapes = [(1024, 256)] if arguments.device == "cuda" else [(1024, 256), (1, 8)]
    figures = {"device": arguments.device, "import_ms_after_torch": import_milliseconds()}
    for seqlen, dim in shapes:
        for name, options in (("plain", False), ("every_option", True)):
            calls = 200 if arguments.device == "cuda" or seqlen == 1 else 5
            key = f"call_us_1x{seqlen}x{dim}_{name}"
            figures[key] = call_microseconds(arguments.device, seqlen, dim, options, calls)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:36} {value if isinstance(value, str) else f'{value:.2f}'}")


if __name__ == "__main__":
    main()
