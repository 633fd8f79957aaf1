"""stream_scan against its slowest part: reading + upload, scan, download + writing, each alone and all together.

    python tests/bench/stream.py [--json] [--kinds pageable,pinned,memmap] [--seqlen 1638400] [--dim 2048]

Every part runs through the same threads, buffers and chunks as the whole, with the other parts left out. Times are
medians; the figure to look at is "together / slowest". Device memory is measured for two lengths.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import mamba_scan
import torch
from mamba_scan.stream import lanes, scan
from mamba_scan.stream.chunking import MULTIPLE

DSTATE = 16
PARTS = ("read", "scan", "write")  # with a GPU: read and upload, scan, download and write
SHORT = 100_000  # steps; device memory must be the same as for the long sequence
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def lane_for(part: str, kind: type) -> type:
    """A lane that does one part of the work and leaves out the others."""

    class PartLane(kind):
        still_y = None

        def load(self, slot, first, steps):
            if part == "read":
                return super().load(slot, first, steps)
            specs = self._source.specs
            if slot.device is not None:
                tensors = {name: slot.device.tensor(name, steps) for name in specs}
            else:
                tensors = {name: slot.host.tensor(name, steps) if name in self._staged
                           else self._source.view(name, 0, steps) for name in specs}  # fmt: skip
            return lanes.Chunk(first, steps, slot, tensors, seconds={"read": 0.0})

        def scan(self, chunk, out):
            chunk.out, chunk.in_place = out, part != "write"
            on_gpu = chunk.slot.device is not None
            if part == "scan":
                if on_gpu:
                    with self._timed(chunk, "scan"):
                        self._step(chunk)
                else:
                    self._step(chunk)
            elif part == "write":
                if self.still_y is None:
                    device = chunk.tensors["u"].device
                    self.still_y = torch.zeros(self._y.at(self._capacity), dtype=self._y.dtype, device=device)
                chunk.y = chunk.host_y = self.still_y.narrow(self._y.time, 0, chunk.steps)
                if on_gpu:
                    chunk.events["scan"] = (None, None)
                    self._download(chunk, out)
                    del chunk.events["scan"]

        def collect(self, chunk):
            if part == "write":
                return super().collect(chunk)
            for _, end in chunk.events.values():
                end.synchronize()
            return None

    return PartLane


def fill(array, layout: str, value) -> None:
    """Repeat a block of random numbers along the sequence."""
    axis = 1 if layout == "bld" else 2
    for first in range(0, array.shape[axis], MULTIPLE):
        steps = min(MULTIPLE, array.shape[axis] - first)
        array.narrow(axis, first, steps).copy_(value.narrow(axis, 0, steps))


class Case:
    """Inputs and a result of one kind in host memory or in files."""

    def __init__(self, kind: str, seqlen: int, options: argparse.Namespace, folder: Path) -> None:
        self.kind, self.seqlen, self.options, self.folder = kind, seqlen, options, folder
        self.dtype = DTYPES[options.dtype]
        generator = torch.Generator().manual_seed(0)
        self.A = -torch.arange(1.0, DSTATE + 1).repeat(options.dim, 1)
        widths = {"u": options.dim, "delta": options.dim, "B": DSTATE, "C": DSTATE}
        self.source = {}
        for name, width in widths.items():
            tensor = self.make(name, width)
            block = torch.rand(self.shape(width, MULTIPLE), generator=generator)
            fill(tensor, options.layout, (block * 0.1 if name == "delta" else block - 0.5).to(self.dtype))
            self.source[name] = tensor
        self.sink = self.make("y", options.dim)
        fill(self.sink, options.layout, torch.zeros(self.shape(options.dim, MULTIPLE), dtype=self.dtype))
        if kind == "memmap":
            self.source = {name: self.map(name, tensor, "r") for name, tensor in self.source.items()}
            self.sink = self.map("y", self.sink, "r+")

    def shape(self, width: int, steps: int) -> tuple[int, int, int]:
        return (1, steps, width) if self.options.layout == "bld" else (1, width, steps)

    def make(self, name: str, width: int) -> torch.Tensor:
        shape = self.shape(width, self.seqlen)
        if self.kind == "memmap":
            size = shape[1] * shape[2]
            path = str(self.folder / f"{name}.bin")
            return torch.from_file(path, shared=True, size=size, dtype=self.dtype).view(shape)
        return torch.empty(shape, dtype=self.dtype, pin_memory=self.kind == "pinned")

    def map(self, name: str, tensor: torch.Tensor, mode: str):
        import numpy

        dtype = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "uint16"}[self.dtype]
        return numpy.memmap(self.folder / f"{name}.bin", dtype, mode, shape=tuple(tensor.shape))

    def run(self, part: str | None, chunk: int | str) -> scan.StreamStatistics:
        """Run the whole, or one part of it."""
        kind = "Lane" if self.options.device == "cpu" else "CudaLane"
        original = getattr(lanes, kind)
        if part is not None:
            setattr(lanes, kind, lane_for(part, original))
        try:
            return mamba_scan.stream_scan(
                self.source, self.sink, self.A, layout=self.options.layout, chunk=chunk, progress=False,
                device=self.options.device, copy_threads=self.options.copy_threads,
            ).statistics  # fmt: skip
        finally:
            setattr(lanes, kind, original)


def measure(case: Case, options: argparse.Namespace) -> dict[str, object]:
    """Every part alone and all together, in turns."""
    case.run(None, options.chunk)  # compiles and locks pages; the second run shows the chunk length that "auto" finds
    warm = case.run(None, options.chunk)
    chunk = warm.chunk // MULTIPLE * MULTIPLE or warm.chunk
    seconds = {name: [] for name in (*PARTS, "together", "auto")}
    last = warm
    for _ in range(options.repeats):
        for part in PARTS:
            seconds[part].append(case.run(part, chunk).seconds)
        last = case.run(None, chunk)
        seconds["together"].append(last.seconds)
        seconds["auto"].append(case.run(None, "auto").seconds)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    slowest = max(PARTS, key=median.__getitem__)
    return {
        "kind": case.kind,
        "seqlen": case.seqlen,
        "chunk": chunk,
        "seconds": median,
        "slowest": slowest,
        "together_over_slowest": median["together"] / median[slowest],
        "auto_over_slowest": median["auto"] / median[slowest],
        "tokens_per_s": case.seqlen / median["together"],
        "busy_seconds": last.busy_seconds,
        "ring_bytes": last.ring_bytes,
    }


def device_memory(options: argparse.Namespace, folder: Path) -> dict[int, int]:
    """Peak device memory of a short and a long sequence, in bytes."""
    peaks = {}
    for seqlen in (SHORT, options.seqlen):
        case = Case("pageable", seqlen, options, folder)
        case.run(None, options.chunk)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        case.run(None, options.chunk)
        peaks[seqlen] = torch.cuda.max_memory_allocated()
    return peaks


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kinds", help="of pageable, pinned, memmap (default: all on a GPU, pageable,memmap on a CPU)")
    parser.add_argument("--seqlen", type=int, help="default: 1638400 on a GPU, 65536 on a CPU")
    parser.add_argument("--memmap-seqlen", type=int, help="steps where files are used (default: a quarter)")
    parser.add_argument("--dim", type=int, help="default: 2048 on a GPU, 256 on a CPU")
    parser.add_argument("--dtype", choices=list(DTYPES), help="default: float16 on a GPU, float32 on a CPU")
    parser.add_argument("--layout", choices=["bld", "bdl"], default="bld")
    parser.add_argument("--chunk", default="auto", help="steps per chunk, or auto")
    parser.add_argument("--copy-threads", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where the files go (default: the system's temporary folder)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    on_gpu = options.device != "cpu"
    options.kinds = (options.kinds or ("pageable,pinned,memmap" if on_gpu else "pageable,memmap")).split(",")
    options.seqlen = options.seqlen or (1_638_400 if on_gpu else 65_536)
    options.memmap_seqlen = options.memmap_seqlen or max(options.seqlen // 4, 1)
    options.dim = options.dim or (2048 if on_gpu else 256)
    options.dtype = options.dtype or ("float16" if on_gpu else "float32")
    options.chunk = options.chunk if options.chunk == "auto" else int(options.chunk)
    return options


def main() -> int:
    options = parse()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
        for kind in options.kinds:
            seqlen = options.memmap_seqlen if kind == "memmap" else options.seqlen
            rows.append(measure(Case(kind, seqlen, options, Path(folder)), options))
        peaks = device_memory(options, Path(folder)) if options.device != "cpu" else {}
    report = {"device": options.device, "dim": options.dim, "dtype": options.dtype, "layout": options.layout,
              "rows": rows, "device_memory_bytes": peaks}  # fmt: skip
    if options.json:
        print(json.dumps(report))
        return 0
    print(
        f"{options.device}: dim {options.dim}, {options.dtype}, {options.layout}; seconds, medians of {options.repeats}"
    )
    print(f"{'kind':<10}{'steps':>10}{'chunk':>8}{'read+up':>9}{'scan':>9}{'down+wr':>9}{'together':>10}"
          f"{'/ slowest':>11}{'auto /':>8}{'tokens/s':>13}")  # fmt: skip
    for row in rows:
        s = row["seconds"]
        print(f"{row['kind']:<10}{row['seqlen']:>10}{row['chunk']:>8}{s['read']:>9.3f}{s['scan']:>9.3f}"
              f"{s['write']:>9.3f}{s['together']:>10.3f}{row['together_over_slowest']:>10.2f}x"
              f"{row['auto_over_slowest']:>7.2f}x{row['tokens_per_s']:>13,.0f}")  # fmt: skip
    for seqlen, peak in peaks.items():
        print(f"device memory, {seqlen:>9} steps: {peak / 2**20:,.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
