"""The commands of ``python -m mamba_scan``.

Exit status: 0 good; 1 something is wrong, an option's value too; 2 the command line cannot be parsed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import bench, control, demo
from ._version import __version__
from .bench import tune


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    """Show nested dictionaries the way a person reads them: one line per name, lists of records one line each."""
    lines = []
    for name, item in value.items():
        if item in ("", None, [], {}):
            continue
        if isinstance(item, dict):
            lines += [f"{indent}{name}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list) and all(isinstance(entry, str) and len(entry) < 30 for entry in item):
            lines.append(f"{indent}{name}: {', '.join(item)}")
        elif isinstance(item, list):
            lines += [f"{indent}{name}:", *(f"{indent}  - {_record(entry)}" for entry in item)]
        else:
            lines.append(f"{indent}{name}: {item}")
    return lines


def _record(entry: object) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    return ", ".join(f"{name} {item}" for name, item in entry.items() if item not in ("", None))


def _show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(report)
    else:
        print("\n".join(_lines(report)))


def _doctor(options: argparse.Namespace) -> int:
    import torch

    report = control.doctor()
    report["torch"] = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "sees_cuda": torch.cuda.is_available(),
    }
    test = control.self_test(problems=4)
    report["self_test"] = {"passed": test["passed"], "seed": test["seed"], "backends": len(test["backends"])}
    _show(report, options.json)
    return 0 if test["passed"] else 1


def _warm(options: argparse.Namespace) -> int:
    report = control.warm(options.arch)
    if options.json:
        _print_json(report)
    else:
        for kernel in report.get("kernels", []):
            outcome = kernel.get("error") or f"{kernel['outcome']}, {kernel.get('compile_ms', 0):.0f} ms"
            print(f"{kernel['arch']:>8}  {kernel['variant']}: {outcome}")
        print("\n".join(_lines({name: item for name, item in report.items() if name != "kernels"})))
    return 1 if report.get("failed") else 0


def _cache(options: argparse.Namespace) -> int:
    actions: dict[str, Callable[[], dict[str, Any]]] = {
        "list": control.cache_list,
        "verify": control.cache_verify,
        "clear": control.cache_clear,
    }
    report = actions[options.action]()
    _show(report, options.json)
    return int(options.action == "verify" and bool(report["removed"]))  # entries that were broken


def _failed_problem(problem: dict[str, Any]) -> str:
    def error(name: str) -> str:
        value, tolerance = problem[f"relative_error_{name}"], problem[f"tolerance_{name}"]
        return f"{name} {'not finite' if value is None else f'{value:.1e}'} (tolerance {tolerance:.1e})"

    plan = f", planned as {json.dumps(problem['plan'])}" if problem["plan"] else ""
    kind = f"{problem['shape']}, {problem['dtype']}, {problem['features']}{plan}"
    return f"{kind}: error of {error('y')}, of {error('state')}"


def _self_test(options: argparse.Namespace) -> int:
    report = control.self_test(problems=options.problems, seed=options.seed, any_plan=options.any_plan)
    if options.json:
        _print_json(report)
    else:
        for backend in report["backends"]:
            problems = backend["problems"]
            passed = sum(problem["passed"] for problem in problems)
            note = f" ({backend['error']})" if backend.get("error") else ""
            name = f"{backend['backend']} {backend['name']}"
            print(f"{name}: {passed} of {len(problems)} problems within tolerance{note}")
            for problem in problems:
                if not problem["passed"]:
                    print(f"  {_failed_problem(problem)}")
        print(f"seed {report['seed']}: {'passed' if report['passed'] else 'FAILED'}")
    return 0 if report["passed"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mamba_scan", description="Selective scan: checks and tools.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("doctor", help="what this machine offers, and what to do about what is missing")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_doctor)

    command = commands.add_parser("demo", help="stream a sequence of a million steps and check it")
    demo.add_arguments(command)
    command.set_defaults(run=demo.run)

    command = commands.add_parser("bench", help="time of the scan as a multiple of what the device can do")
    bench.add_arguments(command)
    command.set_defaults(run=bench.run)

    command = commands.add_parser("tune", help="time the plans for some scans on a GPU; keep the fastest")
    tune.add_arguments(command)
    command.set_defaults(run=tune.run)

    command = commands.add_parser("warm", help="compile the kernels ahead")
    command.add_argument("--arch", nargs="+", default=[], help="e.g. sm_87; default: every device present")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_warm)

    command = commands.add_parser("cache", help="the kernel cache on disk")
    command.add_argument("action", choices=["list", "verify", "clear"])
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_cache)

    command = commands.add_parser("selftest", help="random problems on every backend against a float64 loop")
    command.add_argument("--problems", type=int, default=12, help="per backend")
    command.add_argument("--seed", type=int, default=0, help="0: from the clock")
    command.add_argument("--any-plan", action="store_true", help="GPUs run every problem by a plan drawn at random")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_self_test)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # a Windows console may be set to a code page
    try:
        return options.run(options)
    except (control.RuntimeFailure, ValueError) as error:
        print(f"mamba_scan: {error}", file=sys.stderr)
        return 1
