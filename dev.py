#!/usr/bin/env python3
"""Sets up, builds, tests and shows mamba_scan. Needs Python 3.10 and its standard library; fetches the rest.

python3 dev.py demo       stream a 1.6-million-step scan through this machine's GPU or CPU
python3 dev.py test       every test that this machine can run, with a table at the end
python3 dev.py bench      the scan against this machine's roof, and the benchmarks in tests/bench
python3 dev.py doctor     what was found of driver, compiler and cache, and what to do about the rest
python3 dev.py windows    only the Windows part of the tests: cross-built, run under Wine
python3 dev.py clean      remove build/ (and with --all the virtual environment)

Every step is skipped when its inputs have not changed. Full output of each step is in build/logs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"
LOGS = BUILD / "logs"
NATIVE = BUILD / ("msvc" if os.name == "nt" else "native")
PACKAGE = BUILD / "python"  # the installed package; a .pth file in the virtual environment points here
VENV = ROOT / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")

# Exact versions: a range would let pip fetch several builds of torch to compare them.
TORCH = "torch==2.13.0"
REQUIREMENTS = (
    "clang-format==23.1.5",
    "cmake==4.4.4",
    "hypothesis==6.170.15",
    "matplotlib==3.11.2" if sys.version_info >= (3, 11) else "matplotlib==3.10.8",
    "ninja==1.13.2",
    "numpy==2.4.6" if sys.version_info >= (3, 11) else "numpy==2.2.6",
    "nvidia-cuda-nvrtc==13.0.88",
    "pybind11==3.1.0",
    "pytest==9.2.0",
    "pytest-xdist==3.8.0",
    "ruff==0.17.6",
    "safetensors==0.8.0",
    "scikit-build-core==1.1.2",
    "setuptools==84.2.1",
    "tqdm==4.70.1",
)
NVRTC12 = "nvidia-cuda-nvrtc-cu12==12.9.86"  # the last that compiles for sm_61 and sm_70; kept out of the venv

PACKAGE_TARGETS = ("mamba_scan_runtime", "mamba_scan_torch", "mamba_scan_python_runtime", "mamba-scan")
SYSTEM_PACKAGES = {
    "build": ("g++", "libhwy-dev", "nlohmann-json3-dev", "libcli11-dev"),
    "test": ("googletest", "libboost-context-dev"),
    "windows": ("g++-mingw-w64-x86-64-posix", "wine64", "wine"),
    "jetson": ("g++-aarch64-linux-gnu", "qemu-user-static"),
}
SOURCE_FOLDERS = ("kernels", "runtime", "python", "tests")
SUITES = ("format", "cpp", "emulator", "variants", "python", "wheel", "windows", "jetson")
EXTRA_SUITES = ("jetson",)  # only when asked for


class StepError(Exception):
    """A step that failed: what was run, the end of what it said, and what to do."""


@dataclass
class Suite:
    """One line of the closing table."""

    name: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    note: str = ""


# ---------------------------------------------------------------------------------------------- running commands
def say(text: str) -> None:
    """Print one line of progress at once, even into a pipe."""
    print(text, flush=True)


def run(
    step: str,
    command: Sequence[str | Path],
    *,
    hint: str = "",
    env: dict[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float | None = None,
    check: bool = True,
) -> tuple[int, str]:
    """Run a command with its output in build/logs/<step>.log; return its exit status and that output.

    Raises StepError, with the last lines and the hint, when it fails and `check` is set, or runs out of time.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{step}.log"
    words = [str(word) for word in command]
    start = time.monotonic()
    try:
        with log.open("wb") as out:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                timeout=timeout,
                check=False,
            )
        status, problem = done.returncode, f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        status, problem, check = 124, f"no end after {timeout:.0f} s", True
    except OSError as error:
        status, problem, check = 127, str(error), True
    text = log.read_text("utf-8", "replace")
    seconds = time.monotonic() - start
    if seconds > 1:
        say(f"  {step}: {seconds:.1f} s")
    if check and status:
        tail = "\n".join("    " + line for line in text.splitlines()[-30:])
        raise StepError(
            f"step '{step}' failed ({problem}):\n  {shlex.join(words)}\n{tail}\n"
            f"  full output: {log}\n  what to do: {hint or 'read the lines above'}"
        )
    return status, text


def stamped(name: str, *inputs: object) -> Callable[[], None] | None:
    """Return None when these inputs were already dealt with, else a function that records that they now are."""
    stamp = BUILD / "stamps" / name
    digest = hashlib.sha256(repr(inputs).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return None

    def record() -> None:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest)

    return record


# ---------------------------------------------------------------------------------------------------- setting up
def install_system_packages(*groups: str) -> None:
    """Install the distribution's packages that are missing; elsewhere CMake names what it lacks (vcpkg.json)."""
    if not shutil.which("dpkg-query"):
        return
    wanted = [name for group in groups for name in SYSTEM_PACKAGES[group]]
    if not importlib.util.find_spec("ensurepip") and not PYTHON.exists():
        wanted.append("python3-venv")
    if not (Path(__import__("sysconfig").get_path("include")) / "Python.h").exists():
        wanted.append("python3-dev")
    listed = subprocess.run(
        ["dpkg-query", "-W", "-f=${Package} ${Status}\n", *wanted], capture_output=True, text=True, check=False
    ).stdout
    present = {line.split()[0] for line in listed.splitlines() if line.endswith("install ok installed")}
    missing = [name for name in wanted if name not in present]
    if not missing:
        return
    say(f"system packages: {' '.join(missing)}")
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    hint = f"install them by hand: sudo apt-get install {' '.join(missing)}"
    run("apt-update", [*sudo, "apt-get", "update"], hint=hint, check=False)
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    run("apt-install", [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", *install], hint=hint)


def installed_versions() -> dict[str, str]:
    """Return the versions of what the virtual environment can import."""
    script = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({(d.name or '').lower().replace('_', '-'): d.version for d in m.distributions()}))"
    )
    return json.loads(subprocess.check_output([PYTHON, "-c", script], text=True))


def sees_cuda(python: str | Path) -> bool:
    """Tell whether this interpreter has a torch that is new enough and sees a GPU."""
    script = (
        "import torch; v = torch.__version__.split('.'); "
        "raise SystemExit(not ((int(v[0]), int(v[1])) >= (2, 10) and torch.cuda.is_available()))"
    )
    return subprocess.run([python, "-c", script], capture_output=True, check=False).returncode == 0


def prepare_venv(torch: str | None) -> None:
    """Make .venv and install the pinned requirements. A torch of 2.10 or newer that is there is kept."""
    if not PYTHON.exists():
        share = torch is None and importlib.util.find_spec("torch") is not None and sees_cuda(sys.executable)
        if share:
            say(f"using the torch of {sys.executable}: it sees a GPU")
        options = ["--system-site-packages"] if share else []
        hint = "install python3-venv, or run dev.py with a Python that has the venv module"
        run("venv", [sys.executable, "-m", "venv", *options, VENV], hint=hint)
    record = stamped("venv", REQUIREMENTS, torch, str(VENV))
    if record is None:
        return
    have = installed_versions()
    wanted = [pin for pin in REQUIREMENTS if have.get(pin.split("==")[0]) != pin.split("==")[1]]
    major, minor = (int(part) for part in have.get("torch", "0.0").split(".")[:2])
    if torch or (major, minor) < (2, 10):
        wanted.append(torch or TORCH)
    if wanted:
        say(f"python packages: {' '.join(wanted)}")
        hint = "check the network or the index in pip's settings (pip config list); --torch names another torch"
        status, _ = run("pip-install", [PYTHON, "-m", "pip", "install", *wanted], hint=hint, check=False)
        present = installed_versions()
        if status and all(re.split("[=<> @]", name)[0] in present for name in wanted):
            say("  pip failed, going on with the versions that are installed (build/logs/pip-install.log)")
        elif status:
            run("pip-install", [PYTHON, "-m", "pip", "install", *wanted], hint=hint)
    if has_driver() and not sees_cuda(PYTHON):
        say("  a GPU driver is here, but this torch does not see it: --torch SPEC installs a CUDA build of torch")
    record()


def has_driver() -> bool:
    """Tell whether an NVIDIA driver is installed."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def tool(name: str) -> Path:
    """Return a program of the virtual environment."""
    return SCRIPTS / (f"{name}.exe" if os.name == "nt" else name)


def unpack_wheel(requirement: str, folder: Path, *pip_options: str) -> Path:
    """Download one wheel, without what it depends on, into build/downloads and unpack it into a folder."""
    downloads = BUILD / "downloads"
    record = stamped(f"wheel-{folder.name}", requirement, pip_options, str(folder))
    if record and folder.exists():
        shutil.rmtree(folder)
    if not folder.exists():
        name, version = requirement.split("==")
        pattern = f"{name.replace('-', '_')}-{version}-*.whl"
        target = downloads / folder.name
        if not list(target.glob(pattern)):
            command = [PYTHON, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *pip_options]
            run(f"download-{name}", [*command, "-d", target, requirement], hint="check the network")
        with zipfile.ZipFile(next(iter(target.glob(pattern)))) as wheel:
            wheel.extractall(folder)
    if record:
        record()
    return folder


# ------------------------------------------------------------------------------------------------------ building
def configure(preset: str, options: dict[str, str | Path]) -> Path:
    """Configure build/<preset> unless it already is, with the same options."""
    folder = BUILD / preset
    definitions = [f"-D{key}={value}" for key, value in sorted(options.items())]
    record = stamped(f"configure-{preset}", definitions, (ROOT / "CMakePresets.json").read_text())
    if record or not (folder / "CMakeCache.txt").exists():
        generator = [] if preset == "msvc" else [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
        hint = "a missing package is named above; `dev.py clean` starts from nothing"
        run(f"configure-{preset}", [tool("cmake"), "--preset", preset, *generator, *definitions], hint=hint)
        if record:
            record()
    return folder


def compile_targets(folder: Path, *targets: str, jobs: int) -> None:
    """Build some targets, or all."""
    wanted = ["--target", *targets] if targets else []
    command = [tool("cmake"), "--build", folder, "--config", "Release", "--parallel", str(jobs), *wanted]
    run(f"build-{folder.name}", command, hint="mend the error above; it is the compiler's own")


def build_package(args: argparse.Namespace, *, tests: bool = False) -> None:
    """Build the native libraries and put the package where the virtual environment finds it."""
    say("building")
    if os.name == "nt" and not os.environ.get("VCPKG_ROOT"):
        raise StepError("VCPKG_ROOT is not set: install vcpkg and set it to vcpkg's folder (vcpkg.json has the list)")
    options: dict[str, str | Path] = {"MAMBA_SCAN_BUILD_PYTHON": "ON", "Python_EXECUTABLE": PYTHON}
    if tests or (NATIVE / "tests").exists():
        options |= {"MAMBA_SCAN_BUILD_TESTS": "ON", "MAMBA_SCAN_BUILD_EMULATOR": "ON"}
    folder = configure(NATIVE.name, options)
    compile_targets(folder, *(() if tests else PACKAGE_TARGETS), jobs=args.jobs)
    install = [tool("cmake"), "--install", folder, "--config", "Release", "--component", "python"]
    run("install", [*install, "--prefix", PACKAGE])
    site = next(iter(VENV.glob("lib/python3*/site-packages")), VENV / "Lib" / "site-packages")
    link = site / "mamba_scan_dev.pth"
    if not link.exists() or link.read_text() != f"{PACKAGE}\n":
        link.write_text(f"{PACKAGE}\n")


# -------------------------------------------------------------------------------------------------------- suites
def sources(*suffixes: str) -> list[str]:
    """Return the project's own files of these kinds, relative to the root."""
    files = [path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return sorted(str(path.relative_to(ROOT)) for path in [*files, *ROOT.glob("*.py")] if path.suffix in suffixes)


def format_suite(args: argparse.Namespace) -> list[Suite]:
    """Check that every source is as the formatters would write it."""
    native, python = sources(".h", ".cpp", ".cu", ".cuh"), sources(".py")
    checks = {
        "clang-format": ([tool("clang-format"), "--dry-run", "-Werror", *native], "clang-format -i the files above"),
        "ruff-check": ([tool("ruff"), "check", *python], "ruff check --fix"),
        "ruff-format": ([tool("ruff"), "format", "--check", *python], "ruff format"),
    }
    suite = Suite("format")
    for name, (command, remedy) in checks.items():
        status, text = run(name, command, check=False)
        suite.passed += status == 0
        if status:
            suite.failed += 1
            suite.note = f"{name}: {remedy}"
            say("\n".join(text.splitlines()[-20:]))
    return [suite]


def ctest(step: str, folder: Path, *options: str, env: dict[str, str] | None = None, jobs: int = 1) -> Suite:
    """Run CTest and count single GoogleTest cases, not programs; a program that dies counts as one failure."""
    suite = Suite(step)
    start = time.monotonic()
    command = [
        tool("ctest"),
        "--test-dir",
        folder,
        "-C",
        "Release",
        "-V",
        "--timeout",
        "900",
        "-j",
        str(jobs),
        *options,
    ]
    status, text = run(step, command, env=env, check=False)
    bad = []
    for name, verdict in re.findall(r"Test +#\d+: (\S+) \.+ *(\S+)", text):
        if not verdict.startswith("Passed"):
            bad.append(name)
    per_program: dict[str, dict[str, int]] = {}
    for number, word, count in re.findall(r"^(\d+): \[  (PASSED|SKIPPED|FAILED)  ?\] (\d+) tests?[.,]", text, re.M):
        per_program.setdefault(number, {})[word] = int(count)  # the last such line is the program's own
    for counts in per_program.values():
        suite.passed += counts.get("PASSED", 0)
        suite.skipped += counts.get("SKIPPED", 0)
        suite.failed += counts.get("FAILED", 0)
    suite.failed = max(suite.failed, len(bad), int(status != 0))
    if suite.failed:
        suite.note = f"{', '.join(bad) or 'ctest'}: see {LOGS / (step + '.log')}"
        failures = [line for line in text.splitlines() if re.search(r"\[  FAILED  \]|Failure$|\*\*\*|error:", line)]
        say("\n".join(failures[-30:]))
    elif not suite.passed:
        suite.failed, suite.note = 1, "no test ran"
    suite.seconds = time.monotonic() - start
    return suite


def nvrtc_environment() -> dict[str, str]:
    """Return where the C++ tests find the two compilers."""
    new = next(VENV.glob("**/nvidia/cu13/**/*nvrtc*.so.13*" if os.name != "nt" else "**/nvrtc64_130_0.dll"), None)
    env = {"MAMBA_SCAN_NVRTC": str(new)} if new else {}
    old = unpack_wheel(NVRTC12, BUILD / "nvrtc12")
    libraries = [*old.glob("**/libnvrtc.so.12"), *old.glob("**/nvrtc64_120_0.dll")]
    return env | {"MAMBA_SCAN_TEST_NVRTC12": str(libraries[0])}


def cpp_suite(args: argparse.Namespace) -> list[Suite]:
    """Run the runtime's C++ tests."""
    return [ctest("cpp", NATIVE / "tests/cpp", "-E", "variants_test", env=nvrtc_environment(), jobs=args.jobs)]


def emulator_suite(args: argparse.Namespace) -> list[Suite]:
    """Execute the kernels on the CPU."""
    return [ctest("emulator", NATIVE / "tests/emulator", jobs=args.jobs)]


def variants_suite(args: argparse.Namespace) -> list[Suite]:
    """Compile every shipped variant for every supported GPU with the real NVRTC; print what they take of each."""
    resources = BUILD / "results" / "resources.md"
    resources.parent.mkdir(parents=True, exist_ok=True)
    resources.unlink(missing_ok=True)
    paths = {
        "MAMBA_SCAN_VARIANTS_REPORT": LOGS / "variants.txt",
        "MAMBA_SCAN_RESOURCES_REPORT": resources,
        "MAMBA_SCAN_VARIANTS_CACHE": BUILD / "variants",
    }
    env = nvrtc_environment() | {name: str(path) for name, path in paths.items()}
    suite = ctest("variants", NATIVE / "tests/cpp", "-R", "variants_test", env=env)
    if resources.exists():
        say(resources.read_text("utf-8"))
    return [suite]


def pytest_counts(name: str, report: Path, seconds: float, note: str = "") -> Suite:
    """Read the counts from pytest's JUnit file."""
    if not report.exists():
        return Suite(name, failed=1, seconds=seconds, note=note or "pytest wrote no report")
    total = ElementTree.parse(report).getroot().find("testsuite")
    count = {key: int(total.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    return Suite(name, passed, failed, count["skipped"], seconds, note)


def python_suite(args: argparse.Namespace) -> list[Suite]:
    """Run the Python tests."""
    report = BUILD / "results" / "pytest.xml"
    report.unlink(missing_ok=True)
    start = time.monotonic()
    command = [PYTHON, "-m", "pytest", "tests/python", "-q", "-ra", f"--junitxml={report}", "-n", str(args.jobs)]
    status, text = run("pytest", command, check=False)
    suite = pytest_counts("python", report, time.monotonic() - start)
    if status:
        suite.failed = max(suite.failed, 1)
        suite.note = f"see {LOGS / 'pytest.log'}"
        say("\n".join(text.splitlines()[-40:]))
    return [suite]


def wheel_suite(args: argparse.Namespace) -> list[Suite]:
    """Build a wheel that runs on other machines, install it in a fresh environment and run a scan from it."""
    start = time.monotonic()
    dist, fresh = BUILD / "dist", BUILD / "fresh-venv"
    for folder in (dist, fresh):
        shutil.rmtree(folder, ignore_errors=True)
    env = {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}", "CMAKE_BUILD_PARALLEL_LEVEL": str(args.jobs)}
    pip = [PYTHON, "-m", "pip"]
    options = ["--no-deps", "--no-build-isolation", f"--config-settings=build-dir={BUILD / 'wheel'}"]
    if os.name != "nt":  # from source, so that the wheel needs no libhwy.so where it is installed
        sys.modules.setdefault("dev", sys.modules[__name__])  # cross_sources imports this file
        sys.path.insert(0, str(ROOT / "tests"))
        from cross_sources import highway_folder

        options.append(f"--config-settings=cmake.define.MAMBA_SCAN_HIGHWAY_DIR={highway_folder()}")
    run("wheel-build", [*pip, "wheel", *options, "-w", dist, ROOT], env=env)
    run("wheel-venv", [PYTHON, "-m", "venv", "--without-pip", fresh])
    python = fresh / PYTHON.relative_to(VENV)
    run("wheel-install", [*pip, "--python", python, "install", "--no-deps", *dist.glob("*.whl")])
    # torch is shared by path and not by installing it again; a .pth file inside a folder named in a .pth is not read,
    # so the development copy of the package stays out.
    site = next(iter(fresh.glob("lib/python3*/site-packages")), fresh / "Lib" / "site-packages")
    (site / "shared.pth").write_text(installed_site() + "\n")
    script = (
        "import torch, mamba_scan, pathlib; "
        f"assert pathlib.Path(mamba_scan.__file__).is_relative_to({str(fresh)!r}), mamba_scan.__file__; "
        "u = torch.randn(2, 33, 8); A = -torch.rand(8, 4); B = torch.randn(2, 33, 4); "
        "y = mamba_scan.selective_scan(u, u.abs(), A, B, B); assert y.shape == u.shape and y.isfinite().all()"
    )
    run("wheel-scan", [python, "-c", script], cwd=dist)
    if os.name != "nt":
        for library in fresh.glob("lib/python3*/site-packages/mamba_scan/lib*.so"):
            if b"libhwy.so" in library.read_bytes():
                raise StepError(f"{library.name} in the wheel needs libhwy.so, which users do not have")
    return [Suite("wheel", passed=1, seconds=time.monotonic() - start)]


def installed_site() -> str:
    """Return the folder that holds the virtual environment's torch."""
    script = "import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec('torch').origin).parents[1])"
    return subprocess.check_output([PYTHON, "-c", script], text=True).strip()


def script_suite(name: str, args: argparse.Namespace) -> list[Suite]:
    """Run tests/<name>/run.py, which leaves its suites in build/results/<name>.json."""
    if os.name == "nt":
        return [Suite(name, skipped=1, note="cross builds run on Linux")]
    if shutil.which("dpkg-query"):
        install_system_packages("build", "test", name)
    results = BUILD / "results" / f"{name}.json"
    results.unlink(missing_ok=True)
    command = [PYTHON, ROOT / "tests" / name / "run.py", "--results", results, "--jobs", str(args.jobs)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}  # they import this file
    status = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, env=env, check=False).returncode
    suites = [Suite(**entry) for entry in json.loads(results.read_text())] if results.exists() else []
    if status and not any(suite.failed for suite in suites):
        suites.append(Suite(name, failed=1, note=f"tests/{name}/run.py ended with status {status}"))
    return suites


def save_suites(suites: list[Suite], path: Path) -> None:
    """Write suites for the dev.py that started this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(suite) for suite in suites]))


def timed(name: str, body: Callable[[], list[Suite]]) -> list[Suite]:
    """Run one suite; a step that fails becomes a failed line and the others go on."""
    say(f"== {name}")
    start = time.monotonic()
    try:
        suites = body()
    except StepError as error:
        say(str(error))
        suites = [Suite(name, failed=1, note=str(error).splitlines()[0])]
    if len(suites) == 1:
        suites[0].seconds = time.monotonic() - start
    return suites


def report(suites: list[Suite]) -> int:
    """Print the table and the closing line; return the exit status."""
    say(f"\n{'suite':<22}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}  note")
    for suite in suites:
        counts = f"{suite.passed:>8}{suite.failed:>8}{suite.skipped:>9}{suite.seconds:>9.1f}"
        say(f"{suite.name:<22}{counts}  {suite.note}".rstrip())
    passed, failed, skipped = (sum(getattr(suite, key) for suite in suites) for key in ("passed", "failed", "skipped"))
    say(f"\n{passed} passed, {failed} failed, {skipped} skipped")
    return int(failed > 0 or passed == 0)


# ------------------------------------------------------------------------------------------------------ commands
def set_up(args: argparse.Namespace, *groups: str) -> None:
    """Install what the command needs."""
    install_system_packages(*groups)
    prepare_venv(args.torch)


def test_command(args: argparse.Namespace) -> int:
    """Run the suites asked for."""
    chosen = args.only.split(",") if args.only else [name for name in SUITES if name not in EXTRA_SUITES or args.jetson]
    unknown = set(chosen) - set(SUITES)
    if unknown:
        raise StepError(f"--only got {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    set_up(args, "build", "test")
    suites: list[Suite] = []
    if set(chosen) & {"cpp", "emulator", "variants", "python"}:
        built = timed("build", lambda: build_package(args, tests=True) or [])
        suites += built
        if built:
            chosen = [name for name in chosen if name == "format"]
    bodies = {
        "format": format_suite,
        "cpp": cpp_suite,
        "emulator": emulator_suite,
        "variants": variants_suite,
        "python": python_suite,
        "wheel": wheel_suite,
    }
    for name in chosen:
        suites += timed(name, lambda name=name: bodies[name](args) if name in bodies else script_suite(name, args))
    return report(suites)


def windows_command(args: argparse.Namespace) -> int:
    """Run the Windows part alone."""
    set_up(args, "build", "test")
    return report(timed("windows", lambda: script_suite("windows", args)))


def package_command(args: argparse.Namespace) -> int:
    """Build the package and hand over to `python -m mamba_scan <command>`."""
    set_up(args, "build")
    build_package(args)
    return subprocess.run([PYTHON, "-m", "mamba_scan", args.command, *args.rest], cwd=ROOT, check=False).returncode


def bench_command(args: argparse.Namespace) -> int:
    """Run `python -m mamba_scan bench` and every program and script of tests/bench; with arguments, only the first."""
    if args.rest:
        return package_command(args)
    set_up(args, "build", "test")
    build_package(args, tests=True)
    programs: list[list[str | Path]] = [[PYTHON, "-m", "mamba_scan", "bench"]]
    programs += [[PYTHON, script] for script in sorted((ROOT / "tests/bench").glob("*.py"))]
    built = (NATIVE / "tests/bench").rglob("*_bench*")
    programs += [[path] for path in sorted(built) if path.is_file() and path.suffix in ("", ".exe")]
    failed = 0
    for program in programs:
        say(f"== {Path(program[-1]).name}")
        failed += subprocess.run(program, cwd=ROOT, check=False).returncode != 0
    return int(failed > 0)


def clean_command(args: argparse.Namespace) -> int:
    """Remove what dev.py made."""
    for folder in (BUILD, *([VENV] if args.all else [])):
        if folder.exists():
            say(f"removing {folder}")
            shutil.rmtree(folder)
    return 0


def main() -> int:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--jobs", type=int, default=os.cpu_count() or 2, help="parallel compilers and tests")
    shared.add_argument("--torch", metavar="SPEC", help=f"what pip installs as torch (default {TORCH})")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    table: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {
        "demo": (package_command, "stream a long scan; further options go to `python -m mamba_scan demo`"),
        "test": (test_command, "run the tests"),
        "bench": (bench_command, "run the benchmarks; options go to `python -m mamba_scan bench`"),
        "doctor": (package_command, "report what was found and what is missing"),
        "windows": (windows_command, "cross-build for Windows and test under Wine"),
        "clean": (clean_command, "remove build/"),
    }
    parsers = {name: commands.add_parser(name, parents=[shared], help=text) for name, (_, text) in table.items()}
    parsers["test"].add_argument("--only", metavar="SUITES", help=f"comma-separated: {', '.join(SUITES)}")
    parsers["test"].add_argument("--jetson", action="store_true", help="also cross-build for aarch64, run under qemu")
    parsers["clean"].add_argument("--all", action="store_true", help="the virtual environment too")
    args, args.rest = parser.parse_known_args()
    if args.rest and args.command not in ("demo", "bench", "doctor"):
        parser.error(f"unknown arguments: {' '.join(args.rest)}")
    try:
        return table[args.command][0](args)
    except StepError as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
