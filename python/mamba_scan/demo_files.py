"""The end of the demo: a scan from files to a file that is killed half-way, gone on with, and compared.

python -m mamba_scan.demo_files FOLDER     the process that is killed, and the one that goes on (the demo starts both)
"""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .demo_data import Chunk, ChunkSource, Reference
from .stream import StreamResult, stream_scan

if TYPE_CHECKING:
    import numpy

_SEQLEN = {"cpu": 131_072, "cuda": 262_144}
_MOST_DIM = {"cpu": 128, "cuda": 2048}
_BLOCK = 4096  # steps that are generated at a time
_CHECKED_STEPS = 256
_CHECKED_CHANNELS = 64
_WAIT_TO_BE_KILLED_SECONDS = 120
_RESULTS = ("killed", "whole")  # what the interrupted scans write, and what one without interruption does
_NAMES = ("u", "delta", "B", "C")


@dataclass(frozen=True)
class Plan:
    """Sizes of the scan; what the processes have to agree upon."""

    seqlen: int
    dim: int
    dstate: int
    dtype: str
    device: str

    def source(self, block: int = 1) -> ChunkSource:
        """Return weights, and inputs in blocks of so many steps; blocks that nobody wants are better short."""
        dtype = getattr(torch, self.dtype)
        return ChunkSource(self.seqlen, self.dim, self.dstate, block, dtype, torch.device("cpu"), seed=2)

    def shape(self, name: str) -> tuple[int, int, int]:
        """Return the shape of an input or a result."""
        return (1, self.seqlen, self.dstate if name in ("B", "C") else self.dim)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        width = (2 + len(_RESULTS)) * self.dim + 2 * self.dstate
        return self.seqlen * width * getattr(torch, self.dtype).itemsize

    @property
    def chunk(self) -> int | str:
        """The length of a chunk: found by stream_scan, but a short sequence must not be a single one."""
        if self.seqlen >= 16 * 2048:
            return "auto"
        return 2048 if self.device != "cpu" else max(self.seqlen // 8, 1)


def missing(plan: Plan) -> str:
    """Return why this part cannot run here, or nothing."""
    if importlib.util.find_spec("numpy") is None:
        return "NumPy is not installed"
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 2 * plan.bytes:
        return f"{plan.bytes >> 20} MiB of files want twice that much free space in {tempfile.gettempdir()}"
    return ""


def make_plan(source: ChunkSource) -> Plan:
    """Return a scan of a size that takes some seconds, no larger than that of the demo."""
    kind, (dim, dstate) = source.device.type, source.A.shape
    dtype = str(source.dtype).removeprefix("torch.")
    return Plan(min(source.seqlen, _SEQLEN[kind]), min(dim, _MOST_DIM[kind]), dstate, dtype, str(source.device))


def _memmap(folder: Path, plan: Plan, name: str, mode: str) -> "numpy.memmap":
    import numpy

    dtype = "uint16" if plan.dtype == "bfloat16" else plan.dtype  # NumPy has no bfloat16; its bits will do
    return numpy.memmap(folder / f"{name}.bin", dtype, mode, shape=plan.shape(name))


def _tensor(folder: Path, plan: Plan, name: str) -> torch.Tensor:
    """Return the contents of a file; mapped, so that only what is looked at is read."""
    count = torch.Size(plan.shape(name)).numel()
    path = str(folder / f"{name}.bin")
    return torch.from_file(path, shared=True, size=count, dtype=getattr(torch, plan.dtype)).view(plan.shape(name))


def _write_inputs(folder: Path, plan: Plan) -> None:
    source = plan.source(min(_BLOCK, plan.seqlen))
    for name in (*_NAMES, *_RESULTS):
        _memmap(folder, plan, name, "w+")
    targets = [_tensor(folder, plan, name) for name in _NAMES]
    for index in range(len(source)):
        first, steps = index * source.chunk, source.steps(index)
        chunk = source.make(index)
        for target, piece in zip(targets, (chunk.u, chunk.delta, chunk.B, chunk.C), strict=True):
            target.narrow(1, first, steps).copy_(piece)


def _scan(folder: Path, plan: Plan, result: str, progress: bool | Callable, resume: Path | None = None) -> StreamResult:
    source = plan.source()
    inputs = {name: _memmap(folder, plan, name, "r") for name in _NAMES}
    return stream_scan(
        inputs, _memmap(folder, plan, result, "r+"), source.A, source.D, delta_bias=source.delta_bias,
        delta_softplus=True, device=plan.device, chunk=plan.chunk, progress=progress, resume=resume,
        checkpoint_seconds=0,
    )  # fmt: skip


def _child(folder: Path, wait: bool) -> int:
    """Scan with a resume file; with ``wait``, stop half-way and wait to be killed."""
    plan = Plan(**json.loads((folder / "plan.json").read_text("utf-8")))
    resume = folder / "scan.resume"

    def progress(done: int, total: int | None, rate: float) -> None:
        if wait and 2 * done >= plan.seqlen and resume.exists():
            print("half", flush=True)
            time.sleep(_WAIT_TO_BE_KILLED_SECONDS)

    result = _scan(folder, plan, "killed", progress, resume)
    torch.save(result.final_state.cpu(), folder / "state.pt")
    print(json.dumps({"resumed_from": result.statistics.resumed_from}), flush=True)
    return 0


def _start_child(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "mamba_scan.demo_files", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")


def _kill_half_way(folder: Path) -> None:
    """Start a scan and kill its process when half is done."""
    child = _start_child(folder, "--wait")
    try:
        said = child.stdout.readline().strip()
    finally:
        child.kill()
        child.communicate()
    if said != "half":
        raise RuntimeError(f"demo: the process to be killed ended early (status {child.returncode}, said {said!r})")


def _go_on(folder: Path) -> int:
    """Let another process finish the scan; return the step that it began with."""
    child = _start_child(folder)
    said, _ = child.communicate()
    if child.returncode:
        raise RuntimeError(f"demo: the process that goes on failed with status {child.returncode}")
    return json.loads(said.splitlines()[-1])["resumed_from"]


def _equal(folder: Path, plan: Plan) -> bool:
    """Compare the two results bit by bit."""
    first, second = (_tensor(folder, plan, name).view(torch.uint8) for name in _RESULTS)
    return all(torch.equal(a, b) for a, b in zip(first.split(4096, 1), second.split(4096, 1), strict=True))


def _window_errors(folder: Path, plan: Plan, begins: list[int]) -> list[float]:
    """Compare windows of the interrupted result with the float64 recurrence, from the state of a scan up to there."""
    source = plan.source()
    channels = torch.randperm(plan.dim, generator=torch.Generator().manual_seed(3))[:_CHECKED_CHANNELS]
    reference = Reference(source, channels)
    inputs = [_tensor(folder, plan, name) for name in _NAMES]
    y = _tensor(folder, plan, "killed")
    state, at, errors = torch.zeros(1, plan.dim, plan.dstate), 0, []
    for begin in begins:
        if begin > at:
            before = tuple(x[:, at:begin] for x in inputs)
            state = stream_scan(
                before, lambda _: None, source.A, source.D, delta_bias=source.delta_bias, delta_softplus=True,
                initial_state=state, device=plan.device, progress=False,
            ).final_state.cpu()  # fmt: skip
            at = begin
        steps = min(_CHECKED_STEPS, plan.seqlen - begin)
        window = Chunk(*(x[:, begin : begin + steps] for x in inputs))
        expected, _ = reference.run(window, state, steps)
        got = y[0, begin : begin + steps].index_select(-1, channels).double()
        errors.append(((got - expected).abs().max() / expected.abs().max()).item())
    return errors


def run(source: ChunkSource, tolerance: float, quiet: bool) -> dict[str, Any]:
    """Run this part; return its figures, among them "passed"."""
    plan = make_plan(source)
    if reason := missing(plan):
        return {"skipped": reason, "passed": True}
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mamba_scan_demo_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "plan.json").write_text(json.dumps(asdict(plan)), "utf-8")
        _write_inputs(folder, plan)
        _kill_half_way(folder)
        position = _go_on(folder)
        whole = _scan(folder, plan, "whole", not quiet)
        state = torch.load(folder / "state.pt", weights_only=True)
        equal = _equal(folder, plan) and torch.equal(state, whole.final_state.cpu())
        # Where it began, where it was gone on with, and the end.
        last = max(plan.seqlen - _CHECKED_STEPS, 0)
        errors = _window_errors(folder, plan, sorted({0, min(position, last), last}))
    statistics = whole.statistics
    return {
        "seqlen": plan.seqlen,
        "dim": plan.dim,
        "bytes": plan.bytes,
        "scan_s": statistics.seconds,
        "tokens_per_s": statistics.tokens_per_s,
        "limiting": statistics.limiting,
        "chunk": statistics.chunk,
        "ring_bytes": statistics.ring_bytes,
        "resumed_from": position,
        "bitwise_equal": equal,
        "relative_error": max(errors),
        "seconds": time.perf_counter() - begin,
        "passed": equal and position > 0 and all(error <= tolerance for error in errors),
    }


def print_report(report: dict[str, Any], tolerance: float) -> None:
    """Print the figures for people."""
    r = report
    if "skipped" in r:
        print(f"from file to file left out: {r['skipped']}")
        return
    print(
        f"file to file   {r['seqlen']:,} steps x {r['dim']} channels, memmaps to memmap: {r['tokens_per_s']:,.0f} "
        f"tokens/s, {r['limiting']}-bound, chunks of {r['chunk']:,}, ring of {r['ring_bytes'] / 2**20:,.0f} MiB"
    )
    print(
        f"killed         half-way; another process went on from step {r['resumed_from']:,}: "
        f"{'bitwise equal to' if r['bitwise_equal'] else 'DIFFERENT from'} an uninterrupted scan, relative error "
        f"{r['relative_error']:.1e} against float64 (tolerance {tolerance:.1e}): {'good' if r['passed'] else 'WRONG'}"
    )


if __name__ == "__main__":
    sys.exit(_child(Path(sys.argv[1]), "--wait" in sys.argv[2:]))
