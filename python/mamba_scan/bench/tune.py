"""The tune command: times the plans for the scans of a preset and keeps the fastest for scans like them."""

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from .. import control
from ..demo import DTYPES
from .cases import LAYOUTS, PRESETS, Case, parse_shape, preset_cases


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the tune command."""
    add = parser.add_argument
    add("presets", nargs="*", metavar="PRESET", help=f"of: {', '.join(PRESETS)}")
    add("--shape", action="append", default=[], metavar="B,L,D[,N[,G]]", help="batch, seqlen, dim, dstate, groups")
    add("--dtype", choices=list(DTYPES), help="default: the preset's; of --shape float16")
    add("--layout", choices=LAYOUTS, help="default: the preset's; of --shape bld")
    add("--full", action="store_true", help="with z, D, delta_bias and softplus")
    add("--thorough", action="store_true", help="go on with what differs from the fastest plan in one detail")
    add("--candidates", type=int, default=6, help="plans timed, those that the model thinks fastest (default: 6)")
    add("--device", type=int, default=0, help="number of the GPU (default: 0)")
    add("--json", action="store_true")


def _cases_of(options: argparse.Namespace) -> list[Case]:
    cases = [parse_shape(text) for text in options.shape]
    for name in options.presets:
        cases += preset_cases(name, gpu=True)
    if not cases:
        raise ValueError("tune: no scan is named; needs a preset or --shape B,L,D[,N[,G]]")
    changes = {name: value for name in ("dtype", "layout") if (value := getattr(options, name)) is not None}
    cases = [replace(case.full() if options.full else case, **changes) for case in cases]
    # A plan that is bitwise invariant must not depend on what was measured; with B or C constant in time none is tuned.
    cases = [case for case in cases if not case.chunk_invariant and not case.constant]
    return list(dict.fromkeys(replace(case, label="") for case in cases))


def _options_of(case: Case) -> list[str]:
    names = ("z", "D", "delta_bias", "initial_state", "final_state", "reverse")
    return [name for name in names if getattr(case, name)] + ["delta_softplus"] * case.softplus


def _line(candidate: dict[str, Any], chosen: bool) -> str:
    turns = candidate["warps"] > 1
    dealt_out = "cut in time" if candidate["cut"] else "in even shares" if candidate["wrapped"] else "whole"
    time = f"turns of {candidate['warps']} warps" if turns else dealt_out
    time += ", served" * candidate["served"]  # by warps that move tiles for those that scan
    time += ", in even shares" * (turns and candidate["wrapped"])  # of rows, among blocks
    time += ", side by side" * candidate["whole_rows"]  # a warp's rows are one run of memory
    if candidate["abreast"] > 1:
        time += f", {candidate['abreast']} abreast"
    time += ", together" * candidate["together"]  # the warps of a multiprocessor, in one block
    # Where it is 0, that is a tile, or what states leave room for.
    unroll = f"unroll {candidate['unroll']}, " if candidate["unroll"] else ""
    details = f"tile {candidate['tile']}, {unroll}{candidate['stages']} stages, {candidate['min_blocks']} blocks"
    kind = f"{candidate['lanes']:>2} lanes, {candidate['channels']} channels, {time}"
    if candidate["slices"] > 1:
        details += f", {candidate['slices']} slices"
    return (
        f"{'*' if chosen else ' '} {kind:<39} {details:<39}"
        f"{candidate['us']:>12,.1f} us, expected {candidate['expected_us']:,.1f} us"
    )


def run(options: argparse.Namespace) -> int:
    """Time the plans for each scan, print them, and keep the fastest."""
    reports = []
    cases = _cases_of(options)
    for case in cases:
        sizes = (case.batch, case.seqlen, case.dim, case.dstate, case.groups)
        try:
            report = control.tune(
                *sizes,
                dtype=case.dtype,
                layout=case.layout,
                options=_options_of(case),
                thorough=options.thorough,
                candidates=options.candidates,
                device=options.device,
            )
        except ValueError as error:
            if len(cases) == 1:
                raise
            print(f"tune: {case.shape} is left out: {error}", file=sys.stderr)
            continue
        reports.append(report)
        if options.json:
            continue
        print(f"{report['device']}: {report['problem']}")
        for index, candidate in enumerate(report["candidates"]):
            print(_line(candidate, index == report["chosen"]))
        print(report["summary"], flush=True)
    if options.json:
        print(json.dumps(reports, indent=2))
    return 0
