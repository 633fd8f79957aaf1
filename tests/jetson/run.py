"""The Jetson part of the tests: the runtime and its C++ tests cross-built for aarch64, run under qemu.

python3 dev.py test --only jetson         calls this, with the repository and tests/ on PYTHONPATH
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cross_sources import cross_options

from dev import BUILD, Suite, compile_targets, configure, ctest, save_suites, timed, unpack_wheel

NVRTC = "nvidia-cuda-nvrtc==13.5.37"
LAUNCHER = "qemu-aarch64-static -L /usr/aarch64-linux-gnu"


def run_tests(jobs: int) -> list[Suite]:
    """Build, then run; the kernels are compiled by the aarch64 NVRTC, under qemu too."""
    folder = configure("aarch64", cross_options())
    compile_targets(folder, jobs=jobs)
    nvrtc = unpack_wheel(NVRTC, BUILD / "nvrtc-aarch64", "--platform", "manylinux2014_aarch64")
    env = {
        "MAMBA_SCAN_NVRTC": str(next(nvrtc.glob("**/libnvrtc.so.13"))),
        "MAMBA_SCAN_TEST_LAUNCHER": LAUNCHER,  # without binfmt_misc a test cannot start another program by itself
    }
    return [ctest("jetson-cpp", folder / "tests/cpp", "-E", "variants_test", env=env, jobs=jobs)]


def main() -> int:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=BUILD / "results" / "jetson.json")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    suites = timed("jetson", lambda: run_tests(args.jobs))
    save_suites(suites, args.results)
    return int(any(suite.failed for suite in suites))


if __name__ == "__main__":
    sys.exit(main())
