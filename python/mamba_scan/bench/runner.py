"""Measures cases one after the other: ours, what it is compared with, and the ceilings before and after."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .. import roof
from . import timing
from .cases import Case
from .contenders import OURS, Contender, UnsupportedError

SCHEMA = 1
# Largest |y - ours| over largest |ours| of a contender that computes the same.
_AGREEMENT = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 6e-2}
_ROOF_FLOOR_S = 20e-6  # shorter scans are bound by launch and latency


@dataclass
class Result:
    """What one implementation needed for one case; times in seconds, None where not measured.

    skipped says why there is no time; failed tells that there should have been one.
    """

    name: str
    note: str
    skipped: str = ""
    failed: bool = False
    time: timing.Timing | None = None
    eager_s: float | None = None
    deviation: float | None = None

    def figures(self, case_roof: float, work: roof.Work) -> dict[str, Any]:
        """Return the figures of a report."""
        if self.time is None:
            return {"name": self.name, "note": self.note, "skipped": self.skipped, "failed": self.failed}
        seconds = self.time.median
        return {
            "name": self.name,
            "note": self.note,
            "us": seconds * 1e6,
            "us_p10": self.time.p10 * 1e6,
            "us_p90": self.time.p90 * 1e6,
            "samples": self.time.samples,
            "multiple_of_roof": seconds / case_roof,
            "gb_per_s": work.bytes / seconds / 1e9,
            "gexp_per_s": work.exps / seconds / 1e9,
            "eager_us": None if self.eager_s is None else self.eager_s * 1e6,
            "deviation": self.deviation,
        }


@dataclass
class Row:
    """A case and what was measured for it, ours first."""

    case: Case
    results: list[Result] = field(default_factory=list)


class _Prepared:
    """A contender with its calls, ready to be sampled."""

    def __init__(self, contender: Contender, case: Case, sets: Sequence[timing.Inputs], device: torch.device) -> None:
        self.result = Result(contender.name, contender.note)
        self.calls = [contender.prepare(case, inputs) for inputs in sets]
        if device.type != "cuda":
            self.sampler = timing.WallSampler(self.calls)
        elif contender.capturable:
            self.sampler = timing.GraphSampler(device, self.calls)
        else:
            self.sampler = timing.EagerSampler(device, self.calls)

    @property
    def y(self) -> torch.Tensor:
        """The result for the first set of inputs."""
        return self.sampler.outputs[0]


def _deviation(y: torch.Tensor, ours: torch.Tensor) -> float:
    scale = ours.float().abs().max().clamp_min(1e-30)
    return ((y.float() - ours.float()).abs().max() / scale).item()


def _too_large(case: Case, device: torch.device) -> str:
    """Explain why a case does not fit in the device's memory, or return nothing."""
    if device.type != "cuda":
        return ""
    y_bytes = case.batch * case.seqlen * case.dim * (4 if case.dtype == "float32" else 2)
    needed, free = case.work().bytes + y_bytes, torch.cuda.mem_get_info(device)[0]  # a result and the one before it
    if needed < free * 0.9:
        return ""
    return f"needs {needed / 2**30:.1f} GiB of device memory, {free / 2**30:.1f} GiB are free"


def measure_case(case: Case, device: torch.device, contenders: Sequence[Contender] = ()) -> Row:
    """Measure one case.

    Parameters
    ----------
    case : Case
        What to measure.
    device : torch.device
        Where.
    contenders : sequence of Contender
        What to measure in turns with ours; one that cannot run the case, or fails, is skipped with the reason.
    """
    row = Row(case)
    reason = _too_large(case, device)
    if reason:
        row.results.append(Result(OURS.name, OURS.note, reason))
        return row
    prepared = []
    with torch.no_grad():
        sets = timing.rotated(timing.make_inputs(case, device), device)
        for contender in (OURS, *contenders):
            try:
                prepared.append(_Prepared(contender, case, sets, device))
                row.results.append(prepared[-1].result)
            except UnsupportedError as error:
                row.results.append(Result(contender.name, contender.note, str(error)))
            except Exception as error:  # one scan that fails shall not cost the figures of the others
                reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                row.results.append(Result(contender.name, contender.note, reason, failed=True))
        for one, measured in zip(prepared, timing.measure([one.sampler for one in prepared]), strict=True):
            one.result.time = measured
            if device.type == "cuda" and timing.is_short(measured):
                one.result.eager_s = timing.eager_seconds(one.calls[0], device)
        if prepared and prepared[0].result.name == OURS.name:
            for one in prepared[1:]:
                one.result.deviation = _deviation(one.y, prepared[0].y)
    return row


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _faster(a: roof.Roof, b: roof.Roof) -> roof.Roof:
    return roof.Roof(max(a.bytes_per_s, b.bytes_per_s), max(a.exps_per_s, b.exps_per_s), a.exps_source)


def run_cases(
    cases: Sequence[Case],
    device: torch.device,
    contenders: Sequence[Contender] = (),
    progress: Callable[[int, int, Case], object] = lambda done, total, case: None,
) -> dict[str, Any]:
    """Measure all cases and both ceilings, before and after, and return the report.

    Parameters
    ----------
    cases : sequence of Case
        What to measure.
    device : torch.device
        Where.
    contenders : sequence of Contender
        What to compare with.
    progress : function of the number done, the number in all and the next case
        Called before each case.

    Returns
    -------
    dict
        As :func:`report_of`.
    """
    before = roof.measure(device)
    _free_memory(device)
    rows = []
    for index, case in enumerate(cases):
        progress(index, len(cases), case)
        rows.append(measure_case(case, device, contenders))
        _free_memory(device)
    return report_of(rows, device, before, roof.measure(device))


def report_of(rows: Sequence[Row], device: torch.device, before: roof.Roof, after: roof.Roof) -> dict[str, Any]:
    """Return what was measured as dictionaries and lists that JSON can hold.

    The roof is the larger of a case's work over the two ceilings, each the better of before and after.
    """
    ceilings = _faster(before, after)
    report = {
        "schema": SCHEMA,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "ceilings": {
            "bytes_per_s": ceilings.bytes_per_s,
            "exps_per_s": ceilings.exps_per_s,
            "exps_source": ceilings.exps_source,
            "before": [before.bytes_per_s, before.exps_per_s],
            "after": [after.bytes_per_s, after.exps_per_s],
        },
        "cases": [_case_report(row, ceilings) for row in rows],
    }
    report["distribution"] = distribution(report["cases"])
    return report


def _case_report(row: Row, ceilings: roof.Roof) -> dict[str, Any]:
    work = row.case.work()
    bound = ceilings.bound(work)
    return {
        **asdict(row.case),
        "bytes": work.bytes,
        "exps": work.exps,
        "memory_us": ceilings.memory_seconds(work) * 1e6,
        "exp_us": ceilings.exp_seconds(work) * 1e6,
        "roof_us": bound * 1e6,
        "results": [result.figures(bound, work) for result in row.results],
    }


def distribution(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how our multiples of the roof are distributed among the scans whose roof is 20 us or more."""
    long_enough = [case for case in cases if case["roof_us"] >= _ROOF_FLOOR_S * 1e6]
    multiples = sorted(case["results"][0]["multiple_of_roof"] for case in long_enough if "us" in case["results"][0])
    summary: dict[str, Any] = {"least_roof_us": _ROOF_FLOOR_S * 1e6, "count": len(multiples)}
    if multiples:
        quantiles = {"min": 0.0, "median": 0.5, "p90": 0.9, "max": 1.0}
        summary |= {name: timing.quantile(multiples, q) for name, q in quantiles.items()}
    return summary


def complaints(report: dict[str, Any]) -> list[str]:
    """Return a sentence for each of our scans that failed, and for each contender whose result is not ours."""
    sentences = []
    for case in report["cases"]:
        where = f"at {case['batch']}, {case['seqlen']}, {case['dim']}, {case['dstate']}, {case['dtype']}"
        ours, *others = case["results"]
        if ours.get("failed"):
            sentences.append(f"{ours['name']} {where} failed: {ours['skipped']}")
        for result in others:
            deviation = result.get("deviation")
            if deviation is not None and not deviation <= _AGREEMENT[case["dtype"]]:
                sentences.append(f"{result['name']} {where}: its y differs from ours by {deviation:.1e} of the largest")
    return sentences
