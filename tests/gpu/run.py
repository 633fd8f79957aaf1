"""What only a GPU can show, in one run: the tests, the sanitizer, the speeds, and where the time goes.

    python tests/gpu/run.py [--out FOLDER] [--minutes M] [STEP ...]

Needs mamba_scan and pytest in this Python and, for some steps, programs of the CUDA toolkit. Steps, in this order:

    tests      tests/python on the GPU
    selftest   random problems of every feature by every kind of plan, against a float64 loop
    memcheck   the same, fewer of them, under compute-sanitizer; likewise racecheck and initcheck. racecheck calls what
               warps of selective_scan_relay, _relay_served and _served hand on a hazard, as it does where warps do
               nothing else than hand a number on through named barriers of two warps each, one after another round a
               ring
    bench      the shapes of the preset "table" against the roof
    models     the shapes of models, also such as are no multiple of anything
    random     20 random shapes
    stream     stream_scan against its slowest part
    overhead   an eager call
    tune       the shapes of the table, thoroughly; the cache that it writes to is the folder's own
    profile    ncu's view of the main kernel

Each writes FOLDER/STEP.txt and, where there is one, a report FOLDER/STEP.json. A step that fails, or for which its time
is too short, does not stop the others; the exit status tells whether any did.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = [sys.executable, "-m", "mamba_scan"]
SELF_TEST = [*PACKAGE, "selftest", "--any-plan"]
NCU = ("ncu", "--clock-control", "none", "--kernel-name", "regex:selective_scan")
METRICS = (
    "gpu__time_duration.sum",
    "sm__cycles_active.avg",
    "sm__inst_executed_pipe_xu.sum.pct_of_peak_sustained_active",
    "sm__inst_issued.sum.pct_of_peak_sustained_active",
    "sm__warps_active.avg.per_cycle_active",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum.pct_of_peak_sustained_elapsed",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_wait_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_dispatch_stall_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
)
PROFILED = """
import mamba_scan, torch
for batch, seqlen, dim in ((64, 2048, 1536), (8, 2048, 5120), (1, 1024, 2048)):
    u = torch.randn(batch, seqlen, dim, device="cuda", dtype=torch.float16)
    B, C = (torch.randn(batch, seqlen, 16, device="cuda", dtype=torch.float16) for _ in range(2))
    A = -torch.arange(1.0, 17, device="cuda").repeat(dim, 1)
    mamba_scan.selective_scan(u, torch.rand_like(u) * 0.1, A, B, C)
torch.cuda.synchronize()
"""


@dataclass
class Step:
    """A command, and what must be on the PATH for it."""

    command: list[str]
    needs: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def sanitized(tool: str, problems: int) -> Step:
    """The self-test under one tool of compute-sanitizer."""
    sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "3"]
    return Step([*sanitizer, *SELF_TEST, "--problems", str(problems)], needs="compute-sanitizer")


def steps_into(folder: Path) -> dict[str, Step]:
    """All steps, their reports going to the folder."""
    report = {name: ["--json", str(folder / f"{name}.json")] for name in ("bench", "models", "random")}
    cores = os.cpu_count() or 1
    count = min(8, cores) if _has_module("xdist") else 1
    workers = ["-n", str(count)] if count > 1 else []
    threads = {"OMP_NUM_THREADS": str(max(1, cores // count))}  # the references are computed on the CPU
    return {
        "tests": Step(
            [sys.executable, "-m", "pytest", str(ROOT / "tests/python"), "-q", *workers], environment=threads
        ),
        "selftest": Step([*SELF_TEST, "--problems", "200"]),
        "memcheck": sanitized("memcheck", 60),
        "racecheck": sanitized("racecheck", 40),
        "initcheck": sanitized("initcheck", 40),
        "bench": Step([*PACKAGE, "bench", "table", *report["bench"]]),
        "models": Step([*PACKAGE, "bench", "mamba-370m", "vision", *report["models"]]),
        "random": Step([*PACKAGE, "bench", "random", *report["random"]]),
        "stream": Step([sys.executable, str(ROOT / "tests/bench/stream.py")]),
        "overhead": Step([sys.executable, str(ROOT / "tests/bench/overhead.py")]),
        "tune": Step(
            [*PACKAGE, "tune", "table", "--thorough"],
            environment={"MAMBA_SCAN_CACHE_DIR": str(folder / "tuned")},  # not the plans of the user's own scans
        ),
        "profile": Step(
            [*NCU, "--metrics", ",".join(METRICS), sys.executable, "-c", PROFILED],
            needs="ncu",
        ),
    }


def _has_module(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


def run_step(name: str, step: Step, folder: Path, seconds: float) -> bool:
    """Run one step, its output into a file, and print a line about it."""
    if step.needs and shutil.which(step.needs) is None:
        print(f"{name:10} not run: {step.needs} is not on the PATH", flush=True)
        return True
    begin = time.monotonic()
    path = folder / f"{name}.txt"
    with path.open("w") as out:
        try:
            environment = {**os.environ, **step.environment}
            status = subprocess.run(
                step.command, stdout=out, stderr=subprocess.STDOUT, timeout=seconds, env=environment, cwd=ROOT
            ).returncode
            outcome = "passed" if status == 0 else f"FAILED with {status}"
        except subprocess.TimeoutExpired:
            status, outcome = 1, "FAILED: out of time"
    print(f"{name:10} {outcome}, {time.monotonic() - begin:.0f} s, {path}", flush=True)
    return status == 0


def main() -> int:
    """Run the wanted steps and return 1 if any of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu", help="default: build/gpu")
    parser.add_argument("--minutes", type=float, default=10, help="longest time of a step (default: 10)")
    options = parser.parse_args()
    steps = steps_into(options.out.resolve())
    for name in options.steps:
        if name not in steps:
            parser.error(f"STEP is {name!r}; needs one of {', '.join(steps)}")

    import torch

    if not torch.cuda.is_available():
        parser.error("torch finds no GPU, which is what this is for")
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = options.steps or list(steps)
    results = [
        run_step(name, step, options.out, options.minutes * 60) for name, step in steps.items() if name in wanted
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
