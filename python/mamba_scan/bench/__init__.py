"""The benchmark: times of the forward scan as multiples of what the device's measured ceilings allow."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from ..demo import DTYPES
from ..streaming import usable_device
from . import report
from .cases import LAYOUTS, PRESETS, Case, parse_shape, preset_cases
from .contenders import find_contenders
from .runner import complaints, run_cases

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the benchmark."""
    add = parser.add_argument
    add("presets", nargs="*", metavar="PRESET", help=f"{', '.join(PRESETS)} (default: table, or only the --shape ones)")
    add("--shape", action="append", default=[], metavar="B,L,D[,N[,G]]", help="batch, seqlen, dim, dstate, groups")
    add("--dtype", choices=list(DTYPES), help="default: the preset's; float32 on a CPU")
    add("--layout", choices=LAYOUTS, help="default: the preset's")
    add("--dstate", type=int, metavar="N", help="states of every scan (default: the preset's)")
    add("--full", action="store_true", help="with z, D, delta_bias and softplus")
    add("--reverse", action="store_true", help="scan from the end")
    add("--chunk-invariant", action="store_true", help="bitwise the same wherever the sequence is cut")
    add("--compare", action="store_true", help="beside mamba_ssm, mamba_windows_cuda and a PyTorch loop where possible")
    add("--device", help="cpu, cuda or cuda:N (default: a GPU where torch sees one)")
    add("--seed", type=int, default=0, help="of the preset random (default: 0)")
    add("--count", type=int, default=20, help="scans of the preset random (default: 20)")
    add("--json", metavar="FILE", help="also write the report as JSON")
    add("--png", metavar="FILE", help="also draw it (needs matplotlib)")


def _device_of(name: str | None) -> torch.device:
    device = usable_device(name or ("cuda" if torch.cuda.is_available() else "cpu"), "bench: --device")
    if device.type == "cpu":
        return device
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def _cases_of(options: argparse.Namespace, gpu: bool) -> list[Case]:
    for name in ("count", "dstate"):
        if (number := getattr(options, name)) is not None and number < 1:
            raise ValueError(f"bench: --{name} is {number}; needs at least 1")
    cases = [parse_shape(text) for text in options.shape]
    for name in options.presets or ([] if cases else ["table"]):
        cases += preset_cases(name, gpu, options.seed, options.count)
    if not gpu:
        cases = [replace(case, dtype="float32") if "random" not in case.label else case for case in cases]
    changes = {name: value for name in ("dtype", "layout", "dstate") if (value := getattr(options, name)) is not None}
    for name in ("reverse", "chunk_invariant"):
        if getattr(options, name):
            changes[name] = True
    cases = [replace(case.full() if options.full else case, **changes) for case in cases]
    return list(dict.fromkeys(cases))  # an option may have made two rows of a preset the same


def _check_files(options: argparse.Namespace) -> None:
    """Refuse before the measurement what would fail after it."""
    for name in ("json", "png"):
        path = getattr(options, name)
        if path and not Path(path).absolute().parent.is_dir():
            raise ValueError(f"bench: --{name} is {path!r}; needs a folder that exists")
        if path and Path(path).is_dir():
            raise ValueError(f"bench: --{name} is {path!r}, a folder; needs the path of a file")
    if options.png and not report.can_plot():
        raise ValueError("bench: --png draws with matplotlib, which is not installed; needs pip install matplotlib")


def run(options: argparse.Namespace) -> int:
    """Measure, print the table and write the files asked for; 1 when a scan failed or a contender disagrees."""
    _check_files(options)
    device = _device_of(options.device)
    cases = _cases_of(options, device.type == "cuda")
    contenders, missing = find_contenders(device) if options.compare else ([], [])

    def progress(done: int, total: int, case: Case) -> None:
        if sys.stderr.isatty():
            print(f"\r{done + 1} of {total}: {case.shape:<40}", end="", file=sys.stderr, flush=True)

    result = run_cases(cases, device, contenders, progress)
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    print(report.text_of(result))
    for sentence in missing:
        print(f"not compared: {sentence}")
    wrong = complaints(result)
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    if options.json:
        report.write_json(result, options.json)
    if options.png:
        report.write_png(result, options.png)
    return 1 if wrong else 0
