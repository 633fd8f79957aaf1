"""The demo: a sequence of 1,638,400 steps (1280 x 1280) streamed in chunks, checked, and measured against the roof."""

import argparse
import json
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from . import demo_files, roof
from ._process import peak_memory_bytes
from .demo_data import Chunk, ChunkSource, Reference
from .streaming import StreamingScan, usable_device

SEQLEN = 1280 * 1280
DSTATE = 16
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Largest |y - reference| over largest |reference|: a few units in the last place of y's dtype.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

_CPU_TARGET_SECONDS = 18.0
_CHECKED_CHUNKS = 8
_CHECKED_STEPS = 256
_CHECKED_CHANNELS = 64


@dataclass
class Figures:
    """What a run measured. Seconds are wall time; scan_s leaves out generating the inputs and checking."""

    scan_s: float = 0.0
    generate_s: float = 0.0
    check_s: float = 0.0
    first_result_s: float = 0.0
    errors: list[float] = field(default_factory=list)
    state_errors: list[float] = field(default_factory=list)
    checked_steps: int = 0
    peak_memory_bytes: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the demo."""
    parser.add_argument("--seqlen", type=int, default=SEQLEN, help=f"steps (default: {SEQLEN})")
    parser.add_argument("--dim", type=int, help="channels (default: 2048 on a GPU; on a CPU, what takes 10 to 30 s)")
    parser.add_argument("--chunk", type=int, help="steps per chunk (default: 65536 on a GPU, 1024 on a CPU)")
    parser.add_argument("--dtype", choices=list(DTYPES), help="default: float16 on a GPU, float32 on a CPU")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where torch sees one)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--no-files", action="store_true", help="leave out the scan from file to file at the end")


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _relative_error(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest deviation over the largest reference; NaN stays NaN and so fails every comparison."""
    return ((value - reference).abs().max() / reference.abs().max()).item()


def choose_cpu_dim(chunk: int, dtype: torch.dtype) -> int:
    """Return the number of channels with which SEQLEN steps take about 18 s here, from a short run."""
    dim, steps = 256, min(chunk, 4096)
    source = ChunkSource(steps, dim, DSTATE, steps, dtype, torch.device("cpu"))
    inputs = source.make(0)
    stream = StreamingScan(source.A, source.D, delta_bias=source.delta_bias, delta_softplus=True)
    best = float("inf")
    for _ in range(4):
        begin = time.perf_counter()
        stream.step(inputs.u, inputs.delta, inputs.B, inputs.C)
        best = min(best, time.perf_counter() - begin)
    affordable = _CPU_TARGET_SECONDS / SEQLEN * steps * dim / best
    return min(max(int(affordable) // 16 * 16, 16), 2048)


class _Checker:
    """Compares sampled pieces of the stream with the float64 recurrence, from the state the stream had there."""

    def __init__(self, source: ChunkSource, figures: Figures) -> None:
        count = len(source)
        sampled = min(count, _CHECKED_CHUNKS)
        self._chunks = {round(i * (count - 1) / max(sampled - 1, 1)) for i in range(sampled)}
        self._whole = sorted(self._chunks)[len(self._chunks) // 2]  # this one to its end, state included
        dim, dstate = source.A.shape
        generator = torch.Generator().manual_seed(1)
        self._channels = torch.randperm(dim, generator=generator)[:_CHECKED_CHANNELS]
        self._reference = Reference(source, self._channels)
        self._start = torch.zeros(1, dim, dstate)
        self._figures = figures

    def wants(self, index: int) -> bool:
        return index in self._chunks

    def check(
        self, index: int, chunk: Chunk, before: torch.Tensor | None, scan: StreamingScan, y: torch.Tensor
    ) -> None:
        assert scan.state is not None
        length = chunk.u.shape[1]
        steps = length if index == self._whole else min(length, _CHECKED_STEPS)
        expected, state = self._reference.run(chunk, self._start if before is None else before, steps)
        got = y[0, :steps].index_select(-1, self._channels.to(y.device)).cpu().double()
        self._figures.errors.append(_relative_error(got, expected))
        if steps == length:
            got = scan.state[0].index_select(0, self._channels.to(y.device)).cpu().double()
            self._figures.state_errors.append(_relative_error(got, state))
        self._figures.checked_steps += steps


def stream(source: ChunkSource, quiet: bool) -> Figures:
    """Stream the whole sequence, measuring and checking on the way."""
    figures = Figures()
    device = source.device
    checker = _Checker(source, figures)
    scan = StreamingScan(source.A, source.D, delta_bias=source.delta_bias, delta_softplus=True)
    with _progress_bar(source.seqlen, quiet) as bar:
        for index in range(len(source)):
            begin = time.perf_counter()
            chunk = source.make(index)
            _synchronize(device)
            made = time.perf_counter()
            before = scan.state
            y = scan.step(chunk.u, chunk.delta, chunk.B, chunk.C)
            _synchronize(device)
            scanned = time.perf_counter()
            if checker.wants(index):
                checker.check(index, chunk, before, scan, y)
            figures.generate_s += made - begin
            figures.scan_s += scanned - made
            figures.check_s += time.perf_counter() - scanned
            if index == 0:
                figures.first_result_s = scanned - made
            if bar is not None:
                bar.update(source.steps(index))
    figures.peak_memory_bytes = (
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory_bytes()
    )
    return figures


def _progress_bar(total: int, quiet: bool) -> AbstractContextManager:
    """Return a context manager with update(steps), or with None where no bar is wanted or possible."""
    if quiet:
        return nullcontext()
    try:
        from tqdm import tqdm
    except ImportError:
        return nullcontext()
    return tqdm(total=total, unit=" tokens", unit_scale=True, dynamic_ncols=True, desc="scan")


def _resolve(options: argparse.Namespace) -> ChunkSource:
    device = usable_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"), "demo: --device")
    on_gpu = device.type == "cuda"
    dtype = DTYPES[options.dtype or ("float16" if on_gpu else "float32")]
    chunk = (65536 if on_gpu else 1024) if options.chunk is None else options.chunk
    for name, value in (("seqlen", options.seqlen), ("chunk", chunk), ("dim", options.dim)):
        if value is not None and value < 1:
            raise ValueError(f"demo: --{name} is {value}; needs at least 1")
    dim = options.dim
    if dim is None:
        dim = 2048 if on_gpu else choose_cpu_dim(chunk, dtype)
    return ChunkSource(options.seqlen, dim, DSTATE, min(chunk, options.seqlen), dtype, device)


def _report(source: ChunkSource, figures: Figures, ceilings: roof.Roof) -> dict[str, Any]:
    device, dtype = source.device, source.dtype
    dim, dstate = source.A.shape
    on_gpu = device.type == "cuda"
    floor = ceilings.seconds(source.seqlen, dim, dstate, dtype.itemsize)
    tolerance = TOLERANCE[dtype]
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "seqlen": source.seqlen,
        "dim": dim,
        "dstate": dstate,
        "chunk": source.chunk,
        "dtype": str(dtype).removeprefix("torch."),
        "scan_s": figures.scan_s,
        "generate_s": figures.generate_s,
        "check_s": figures.check_s,
        "first_result_s": figures.first_result_s,
        "tokens_per_s": source.seqlen / figures.scan_s,
        "peak_memory_bytes": figures.peak_memory_bytes,
        "peak_memory_of": "GPU, by torch" if on_gpu else "process, torch included",
        "roof_s": floor,
        "multiple_of_roof": figures.scan_s / floor,
        "copy_bytes_per_s": ceilings.bytes_per_s,
        "exps_per_s": ceilings.exps_per_s,
        "exps_source": ceilings.exps_source,
        "checked_steps": figures.checked_steps,
        "relative_error": max(figures.errors),
        "relative_error_state": max(figures.state_errors),
        "tolerance": tolerance,
        "passed": all(error <= tolerance for error in figures.errors + figures.state_errors),
    }


def _print_report(report: dict[str, Any]) -> None:
    r = report
    print(f"device         {r['device']}")
    print(f"sequence       {r['seqlen']:,} steps x {r['dim']} channels, {r['dstate']} states, {r['dtype']}")
    print(f"scan           {r['scan_s']:.2f} s in chunks of {r['chunk']:,}: {r['tokens_per_s']:,.0f} tokens/s")
    print(f"first result   {r['first_result_s'] * 1e3:.1f} ms after the first chunk was there")
    print(f"inputs, check  {r['generate_s']:.2f} s to generate, {r['check_s']:.2f} s to check (not in the scan time)")
    print(f"peak memory    {r['peak_memory_bytes'] / 2**20:,.0f} MiB ({r['peak_memory_of']})")
    print(
        f"roof           {r['roof_s']:.3g} s, so the scan took {r['multiple_of_roof']:.2f} times that "
        f"(copy {r['copy_bytes_per_s'] / 1e9:,.0f} GB/s; {r['exps_per_s'] / 1e9:,.1f} G exps/s, {r['exps_source']})"
    )
    print(
        f"check          {r['checked_steps']:,} sampled steps against float64: relative error "
        f"{r['relative_error']:.1e} in y, {r['relative_error_state']:.1e} in the state "
        f"(tolerance {r['tolerance']:.1e}): {'good' if r['passed'] else 'WRONG'}"
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; 0 when the result is right."""
    source = _resolve(options)
    figures = stream(source, options.quiet or options.json)
    ceilings = roof.measure(source.device)  # afterwards, so that its buffers are not in the peak memory
    report = _report(source, figures, ceilings)
    if not options.json:
        _print_report(report)
    if not options.no_files:
        files = demo_files.run(source, report["tolerance"], options.quiet or options.json)
        report |= {"files": files, "passed": report["passed"] and files["passed"]}
        if not options.json:
            demo_files.print_report(files, report["tolerance"])
    if options.json:
        print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1
