"""Memory of stream_scan: bounded by its ring, whatever the length of the sequence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mamba_scan
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mamba_scan.stream.chunking import ChunkLengths, ring_capacity
from mamba_scan.stream.host_memory import copy

TESTS = Path(__file__).parent
CHILD = """
import json, re, resource, sys, threading
import numpy, torch, mamba_scan
threading.stack_size(1 << 20)  # all of it counts as used
folder, kind, layout, limit = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
seqlen, dim, dstate = 240_000, 128, 4
def shape(width):
    return (1, seqlen, width) if layout == "bld" else (1, width, seqlen)
A = -torch.rand(dim, dstate)
widths = {"u": dim, "delta": dim, "B": dstate, "C": dstate}
def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
def scan(source, sink):
    return mamba_scan.stream_scan(source, sink, A, layout=layout, copy_threads=2, progress=False)
small = {name: torch.zeros((1, 64, width) if layout == "bld" else (1, width, 64)) for name, width in widths.items()}
scan(small, torch.zeros_like(small["u"]))  # threads and libraries are there from now on
source = {name: numpy.memmap(f"{folder}/{name}.bin", numpy.float32, "r", shape=shape(width))
          for name, width in widths.items()}
sink = numpy.memmap(folder + "/y.bin", numpy.float32, "w+", shape=shape(dim)) if kind == "memmap" else (
    folder + "/y.safetensors")
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = status("VmRSS")
if limit:
    used = status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, used + limit))
result = scan(source, sink)
print(json.dumps({"peak": status("VmHWM") - before, "ring": result.statistics.ring_bytes,
                  "chunk": result.statistics.chunk, "bytes": sum(x.nbytes for x in source.values())}))
"""


@pytest.fixture(scope="module", params=["bld", "bdl"])
def big_files(request, tmp_path_factory):
    """253 MB of inputs on disk."""
    folder = tmp_path_factory.mktemp("big")
    generator = np.random.default_rng(0)
    for name, width in (("u", 128), ("delta", 128), ("B", 4), ("C", 4)):
        with (folder / f"{name}.bin").open("wb") as file:
            for _ in range(24):
                file.write(generator.random((10_000, width), np.float32).tobytes())
    yield folder, request.param
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from Linux's /proc")
@pytest.mark.parametrize("kind", ["memmap", "safetensors"])
def test_host_memory_is_bounded_by_the_ring(kind, big_files, tmp_path):
    """Neither the pages of the mapped files nor the result add up, and little anonymous memory is allowed."""
    folder, layout = big_files
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    # Half of what is read and written. The ring and results under way take 70 MB; what malloc cannot reuse of the
    # results of the first, shorter chunks has come to 40 MB.
    limit = 180 << 20
    command = [sys.executable, str(script), str(folder), kind, layout, str(limit)]
    # Every thread has a stack and an arena of its own, which count as used: few threads on any machine.
    few = os.environ | {
        "OMP_NUM_THREADS": "2",
        "OMP_STACKSIZE": "1M",
        "MAMBA_SCAN_NUM_THREADS": "2",
        "MALLOC_ARENA_MAX": "2",
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=few)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bytes"] > 250e6
    assert report["ring"] < 60e6
    # The ring, results under way and what malloc cannot reuse (each up to half of its size), and up to two chunks of
    # mapped pages of inputs and result. Linux maps what it holds of the 64 KiB around a page that is asked for, at both
    # ends of each row.
    channels = 128 + 128 + 4 + 4 + 128
    rows = channels if layout == "bdl" else 5
    mapped = 2 * (report["chunk"] * 4 * channels + rows * (64 << 10))
    assert report["peak"] < 2 * report["ring"] + 1.2 * mapped, report
    assert report["peak"] < 0.5 * (report["bytes"] + 240_000 * 4 * 128), report


def test_the_ring_does_not_grow_with_the_sequence(tmp_path):
    rings = set()
    for seqlen in (100_000, 300_000):
        u = np.memmap(tmp_path / f"u{seqlen}.bin", np.float32, "w+", shape=(1, seqlen, 64))
        b = np.memmap(tmp_path / f"b{seqlen}.bin", np.float32, "w+", shape=(1, seqlen, 4))
        result = mamba_scan.stream_scan((u, u, b, b), lambda y: None, -torch.rand(64, 4), progress=False)
        rings.add(result.statistics.ring_bytes)
    assert len(rings) == 1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    width=st.one_of(st.integers(0, 70), st.integers(1 << 20, 3 << 20)),
    offset=st.tuples(st.integers(0, 70), st.integers(0, 70)),
    threads=st.integers(1, 4),
    dtype=st.sampled_from([torch.uint8, torch.float16, torch.float32]),
)
def test_copies_on_several_threads_are_whole(rows, width, offset, threads, dtype):
    """Short and long rows at any alignment; what lies around them stays as it was."""
    source = torch.arange(rows * (width + 70)).remainder(251).to(dtype).view(rows, -1)[:, offset[0] :][:, :width]
    room = torch.full((rows, width + 140), 255, dtype=torch.uint8).to(dtype)
    target = room[:, offset[1] :][:, :width]
    copy(target, source, threads)
    assert torch.equal(target, source)
    assert bool((room[:, : offset[1]] == 255).all())
    assert bool((room[:, offset[1] + width :] == 255).all())


@pytest.mark.parametrize("size", [3, 1000])
def test_only_host_memory_is_copied(size):
    """An address of anything else would end the process."""
    here, there = torch.zeros(size), torch.zeros(size, device="meta")
    for destination, source in ((here, there), (there, here)):
        with pytest.raises(ValueError, match=r"copy: from device .* to .*; needs cpu on both sides"):
            copy(destination, source, 1)


def test_the_ring_fits_the_free_device_memory():
    plenty = ring_capacity("cuda", 8192, 4096, None, 100 << 30)
    assert plenty % 2048 == 0
    assert 64 << 20 <= plenty * 8192 <= 128 << 20
    little = ring_capacity("cuda", 8192, 4096, None, 200 << 20)
    assert 3 * little * (8192 + 4096) <= 100 << 20
    assert ring_capacity("cuda", 1 << 20, 1 << 20, None, 1 << 20) == 2048  # less does not help
    assert ring_capacity("cuda", 8192, 4096, 5000, 100 << 30) == 6144  # no more than there is
    assert ring_capacity("cpu", 8192, 4096, 0, None) == 2048


def test_chunks_grow_until_their_slowest_part_takes_long_enough():
    lengths = ChunkLengths(None, 16384, "cuda")
    assert lengths.next() == 2048
    lengths.observe(2048, 5.0)  # the first waits for the compiler
    assert lengths.next() == 2048
    lengths.observe(2048, 1e-4)
    assert lengths.next() == 8192
    lengths.observe(2048, 1e-4)  # was under way before the change
    assert lengths.next() == 8192
    lengths.observe(8192, 3e-3)
    assert lengths.next() == 10240
    lengths.observe(10240, 5e-3)
    assert lengths.next() == 10240
    for _ in range(5):
        lengths.observe(lengths.next(), 1e-6)
    assert lengths.next() == 16384  # what the ring holds
    fixed = ChunkLengths(300, 300, "cpu")
    fixed.observe(300, 1e-6)
    fixed.observe(300, 1e-6)
    assert fixed.next() == 300
