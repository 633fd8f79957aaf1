"""Shows a report of the benchmark: lines for a terminal, a JSON file, a PNG."""

import json
from pathlib import Path
from typing import Any

from .cases import Case

_COLUMNS = ("batch, seqlen, dim, N", "dtype", "layout", "us", "+-%", "roof us", "bound", "x roof", "GB/s", "Gexp/s",
            "eager us", "options")  # fmt: skip
_WIDTHS = (26, 6, 4, 11, 6, 11, 4, 8, 8, 8, 9, 0)
_SHORT_DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_CASE_FIELDS = frozenset(Case.__dataclass_fields__)


def case_of(entry: dict[str, Any]) -> Case:
    """Return the case that an entry of the report describes."""
    return Case(**{name: value for name, value in entry.items() if name in _CASE_FIELDS})


def _line(cells: tuple[str, ...]) -> str:
    first, *rest = (
        (cell.ljust(width) if index in (0, 1, 2, 11) else cell.rjust(width))
        for index, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True))
    )
    return "  ".join((first, *rest)).rstrip()


def _rate(value: float) -> str:
    """Three digits, whether of a GPU or of a CPU."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _measured(result: dict[str, Any]) -> tuple[str, str, str, str, str, str]:
    spread = (result["us_p90"] - result["us_p10"]) / result["us"] / 2 * 100
    eager = "" if result["eager_us"] is None else f"{result['eager_us']:.1f}"
    return (
        f"{result['us']:,.1f}",
        f"{spread:.1f}",
        f"{result['multiple_of_roof']:.2f}",
        _rate(result["gb_per_s"]),
        _rate(result["gexp_per_s"]),
        eager,
    )


def _rows(entry: dict[str, Any]) -> list[str]:
    case = case_of(entry)
    bound = "exp" if entry["exp_us"] >= entry["memory_us"] else "mem"
    options = "  ".join(text for text in (case.options, case.label) if text)
    lines = []
    ours = entry["results"][0]
    for index, result in enumerate(entry["results"]):
        about = (case.shape, _SHORT_DTYPES[case.dtype], case.layout) if index == 0 else (f"  {result['name']}", "", "")
        if "us" not in result:
            lines.append(f"{about[0]:<26}  not measured: {result['skipped']}")
            continue
        us, spread, multiple, bytes_rate, exp_rate, eager = _measured(result)
        roof = (f"{entry['roof_us']:,.1f}", bound) if index == 0 else ("", "")
        note = options if index == 0 else f"{result['us'] / ours['us']:.2f}x our time" if "us" in ours else ""
        lines.append(_line((*about, us, spread, *roof, multiple, bytes_rate, exp_rate, eager, note)))
    return lines


def text_of(report: dict[str, Any]) -> str:
    """Return the report as a table."""
    ceilings = report["ceilings"]
    drift = [abs(a / b - 1) * 100 for a, b in zip(ceilings["after"], ceilings["before"], strict=True)]
    lines = [
        f"{report['device']}, torch {report['torch']}",
        f"ceilings: {ceilings['bytes_per_s'] / 1e9:,.1f} GB/s copied, {ceilings['exps_per_s'] / 1e9:,.1f} Gexp/s "
        f"({ceilings['exps_source']}); before and after differ by {drift[0]:.1f} % and {drift[1]:.1f} %",
        "",
        _line(_COLUMNS),
    ]
    for entry in report["cases"]:
        lines += _rows(entry)
    spread = report["distribution"]
    if spread["count"] > 1:
        lines += [
            "",
            f"multiple of the roof, {spread['count']} scans whose roof is {spread['least_roof_us']:.0f} us or more: "
            f"min {spread['min']:.2f}, median {spread['median']:.2f}, p90 {spread['p90']:.2f}, max {spread['max']:.2f}",
        ]
    return "\n".join(lines)


def write_json(report: dict[str, Any], path: str) -> None:
    """Write the report; figures in microseconds and units per second."""
    Path(path).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def can_plot() -> bool:
    """Tell whether matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def write_png(report: dict[str, Any], path: str) -> None:
    """Draw every case's multiple of the roof, one row per case and one mark per implementation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    entries = [entry for entry in report["cases"] if any("us" in result for result in entry["results"])]
    names = dict.fromkeys(result["name"] for entry in entries for result in entry["results"] if "us" in result)
    labels = []
    for entry in entries:
        case = case_of(entry)
        words = (case.shape, _SHORT_DTYPES[case.dtype], case.layout, case.options)
        labels.append("  ".join(word for word in words if word))

    figure = Figure(figsize=(11, 1.8 + 0.28 * len(entries)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, marker in zip(names, "osD^v<>", strict=False):
        points = [
            (result["multiple_of_roof"], row)
            for row, entry in enumerate(entries)
            for result in entry["results"]
            if result["name"] == name and "us" in result
        ]
        axes.scatter(*zip(*points, strict=True), label=name, marker=marker, zorder=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.grid(True, axis="x", which="both", linewidth=0.4, zorder=0)
    axes.set_xlabel(
        "time as a multiple of the roof (1 = the larger of moving the data and evaluating the exponentials)"
    )
    ceilings = report["ceilings"]
    axes.set_title(
        f"Selective scan, {report['device']}: {ceilings['bytes_per_s'] / 1e9:,.0f} GB/s, "
        f"{ceilings['exps_per_s'] / 1e9:,.1f} Gexp/s\nrows: batch, seqlen, dim, states",
        fontsize=10,
    )
    axes.legend(fontsize=8)
    figure.savefig(path, format="png")
