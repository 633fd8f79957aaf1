"""The Windows part of the tests, on Linux: cross-built with MinGW, run under Wine.

python3 dev.py windows         calls this, with the repository and tests/ on PYTHONPATH

What runs: the C++ tests; the command line program compiling kernels with the real Windows NVRTC into a cache below
a long non-ASCII path; the wheel in a Windows Python with the real Windows torch. Wine has no GPU driver, so the
driver is the fake one of tests/fakes, or missing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

import pack_wheel
import prepare
from cross_sources import cross_options
from prepare import WINDOWS, Wine

from dev import (
    BUILD,
    LOGS,
    ROOT,
    SCRIPTS,
    StepError,
    Suite,
    compile_targets,
    configure,
    ctest,
    pytest_counts,
    run,
    save_suites,
    say,
    timed,
    tool,
)

ARCHS = ("sm_75", "sm_90")  # without and with asynchronous copies; variants_test.cpp has them all
# 300 characters: past MAX_PATH, so the long-path spelling is in use, and not in any 8-bit code page.
LONG_CACHE = "C:\\users\\Пользователь 試験\\" + "\\".join(["très long"] * 30)


class Tests:
    """One run: the cross build, the prefix and what is installed in it."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.wine = Wine(WINDOWS / "prefix")
        self.build = BUILD / "mingw64"
        self.no_python = prepare.missing_for_python()
        self.app = WINDOWS / "app"

    def set_up(self) -> list[Suite]:
        """Build everything; nothing to count."""
        options = cross_options()
        if not self.no_python:
            python = prepare.windows_python()
            options |= {
                "MAMBA_SCAN_BUILD_PYTHON": "ON",
                "MAMBA_SCAN_TORCH_DIR": prepare.windows_site() / "torch",
                "MAMBA_SCAN_PYTHON_INCLUDE_DIR": python / "include",
                "MAMBA_SCAN_PYTHON_LIBRARY": python / "libs/libpython311.a",
                "MAMBA_SCAN_PYTHON_SUFFIX": ".cp311-win_amd64.pyd",
                "MAMBA_SCAN_PYBIND11_INCLUDE_DIR": next(
                    SCRIPTS.parent.glob("lib/python3*/site-packages/pybind11/include")
                ),
            }
        configure("mingw64", options)
        compile_targets(self.build, jobs=self.jobs)
        return []

    def cpp(self) -> list[Suite]:
        """The C++ tests, with the fake driver where Windows keeps drivers."""
        fake = next(self.build.glob("**/nvcuda.dll"))
        shutil.copy(fake, self.wine.system32 / "nvcuda.dll")
        env = {**self.wine.env, "MAMBA_SCAN_NVRTC": Wine.path(prepare.windows_nvrtc() / "nvrtc64_130_0.dll")}
        try:
            return [ctest("windows-cpp", self.build / "tests/cpp", "-E", "variants_test", env=env, jobs=self.jobs)]
        finally:
            (self.wine.system32 / "nvcuda.dll").unlink()

    def nvrtc(self) -> list[Suite]:
        """Every kernel family compiled by the Windows NVRTC, then found again in the cache."""
        program = next(self.build.glob("**/mamba-scan.exe"))
        env = {
            "MAMBA_SCAN_NVRTC": Wine.path(prepare.windows_nvrtc() / "nvrtc64_130_0.dll"),
            "MAMBA_SCAN_CACHE_DIR": LONG_CACHE,
        }
        suite = Suite("windows-nvrtc")
        for arch in ARCHS:
            # The first may find what an earlier run left, unless a kernel or the compiler has changed since.
            for step, sign in ((f"windows-warm-{arch}", ""), (f"windows-rewarm-{arch}", "\n0 compiled, ")):
                status, text = self.wine.run(step, [program, "warm", "--arch", arch], env=env, timeout=300, check=False)
                self.count(suite, status == 0 and sign in text, f"{step}: status {status}", text)
        status, text = self.wine.run(
            "windows-cache-verify", [program, "cache", "verify"], env=env, timeout=60, check=False
        )
        self.count(suite, status == 0, f"cache verify: status {status}", text)
        return [suite]

    def install(self) -> list[Suite]:
        """Pack the wheel and install it into a folder beside the site of the Windows Python."""
        start = time.monotonic()
        staged = WINDOWS / "staged"
        shutil.rmtree(staged, ignore_errors=True)
        run(
            "windows-stage",
            [tool("cmake"), "--install", self.build, "--component", "python", "--strip", "--prefix", staged],
        )
        packed = pack_wheel.pack(staged, WINDOWS)
        shutil.rmtree(self.app, ignore_errors=True)
        command = [SCRIPTS / "python", "-m", "pip", "install", "--target", self.app, "--no-deps", "--no-compile"]
        run("windows-install", [*command, "--only-binary=:all:", *prepare.FOR_WINDOWS, packed])
        note = f"{packed.name}, {packed.stat().st_size / 1e6:.1f} MB"
        return [Suite("windows-wheel", passed=1, seconds=time.monotonic() - start, note=note)]

    def python(self, step: str, *arguments: str, timeout: float) -> tuple[int, str]:
        """Run the Windows Python with the wheel and torch on its path."""
        env = {
            "PYTHONPATH": prepare.windows_path_list(self.app, prepare.windows_site()),
            "PYTHONPYCACHEPREFIX": Wine.path(WINDOWS / "pycache"),
            "PYTHONUTF8": "1",
            "MAMBA_SCAN_NVRTC": Wine.path(prepare.windows_nvrtc() / "nvrtc64_130_0.dll"),
            "MAMBA_SCAN_CACHE_DIR": LONG_CACHE,
        }
        command = [prepare.windows_python() / "python.exe", *arguments]
        return self.wine.run(step, command, env=env, timeout=timeout, check=False)

    def pytest(self) -> list[Suite]:
        """The Python tests; those for a GPU skip themselves."""
        report = BUILD / "results" / "windows-pytest.xml"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        start = time.monotonic()
        options = ["-q", "-ra", "-p", "no:cacheprovider", f"--junitxml={Wine.path(report)}", "-n", str(self.jobs)]
        status, text = self.python(
            "windows-pytest", "-m", "pytest", Wine.path(ROOT / "tests/python"), *options, timeout=1800
        )
        suite = pytest_counts("windows-python", report, time.monotonic() - start)
        if status:
            suite.failed = max(suite.failed, 1)
            suite.note = f"see {LOGS / 'windows-pytest.log'}"
            say("\n".join(text.splitlines()[-40:]))
        return [suite]

    def commands(self) -> list[Suite]:
        """`doctor` and a short `demo`."""
        suite = Suite("windows-commands")
        for step, words in {
            "windows-doctor": ["doctor"],
            "windows-demo": ["demo", "--seqlen", "20480", "--dim", "64", "--quiet"],
        }.items():
            status, text = self.python(step, "-m", "mamba_scan", *words, timeout=300)
            self.count(suite, status == 0, f"{step}: status {status}", text)
        return [suite]

    @staticmethod
    def count(suite: Suite, good: bool, note: str, text: str) -> None:
        """Add one result to a suite, and say what was wrong."""
        suite.passed += good
        if not good:
            suite.failed += 1
            suite.note = note
            say("\n".join(line[:240] for line in text.splitlines()[-12:]))


def main() -> int:
    """Run every part; a part that breaks does not stop the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=BUILD / "results" / "windows.json")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    suites: list[Suite] = []
    try:
        tests = Tests(args.jobs)
        tests.wine.make()
        with tests.wine:
            suites += timed("windows-build", tests.set_up)
            if not suites:
                for part in (tests.cpp, tests.nvrtc):
                    suites += timed(f"windows-{part.__name__}", part)
                if tests.no_python:
                    suites.append(Suite("windows-python", skipped=1, note=tests.no_python))
                else:
                    installed = timed("windows-wheel", tests.install)
                    suites += installed
                    if not any(suite.failed for suite in installed):
                        suites += timed("windows-pytest", tests.pytest) + timed("windows-commands", tests.commands)
    except StepError as error:
        say(str(error))
        suites.append(Suite("windows", failed=1, note=str(error).splitlines()[0]))
    save_suites(suites, args.results)
    return int(any(suite.failed for suite in suites))


if __name__ == "__main__":
    sys.exit(main())
