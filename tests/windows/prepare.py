"""What the Windows tests need besides our own code: Wine with a prefix, a Windows Python, torch and NVRTC."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

from dev import BUILD, PYTHON, ROOT, StepError, run, say, stamped, unpack_wheel

WINDOWS = BUILD / "windows"
NVRTC = "nvidia-cuda-nvrtc==13.5.37"
FOR_WINDOWS = ("--platform", "win_amd64", "--python-version", "3.11")
# Every package by name: pip reads markers such as `platform_system == "Linux"` with the machine it runs on in mind,
# so what a Windows torch requires cannot be left to it.
SITE = (
    "torch==2.13.0",
    "numpy==2.4.6",
    "colorama==0.4.6",
    "execnet==2.1.2",
    "filelock==4.2.11",
    "fsspec==2026.9.0",
    "hypothesis==6.170.15",
    "iniconfig==2.3.1",
    "jinja2==3.1.6",
    "markupsafe==3.0.4",
    "mpmath==1.3.0",
    "networkx==3.6.1",
    "packaging==26.3",
    "pluggy==1.7.0",
    "pygments==2.21.0",
    "pytest==9.2.0",
    "pytest-xdist==3.8.0",
    "sortedcontainers==2.4.0",
    "sympy==1.14.0",
    "tqdm==4.70.1",
    "typing-extensions==4.16.0",
)


def shared_folder() -> Path:
    """Return the folder with the Windows Python and the scripts that make its Wine prefix."""
    return Path(os.environ.get("MAMBA_SCAN_SHARED_DIR") or ROOT.parent / "shared")


def missing_for_python() -> str:
    """Return why the Python part cannot run here, or nothing."""
    wanted = [shared_folder() / name for name in ("python311-mingw.tar.xz", "windows-python/prefix.sh")]
    absent = [str(path) for path in wanted if not path.exists()]
    return f"no {' and no '.join(absent)} (MAMBA_SCAN_SHARED_DIR names their folder)" if absent else ""


def windows_python() -> Path:
    """Unpack the Windows Python; return its folder."""
    archive = shared_folder() / "python311-mingw.tar.xz"
    record = stamped("windows-python", archive.stat().st_size, archive.stat().st_mtime_ns)
    folder = WINDOWS / "python311-mingw"
    if record or not folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(archive) as packed:
            packed.extractall(WINDOWS)
        if record:
            record()
    return folder


def windows_site() -> Path:
    """Install the Windows builds of torch, NumPy and pytest into a folder of their own."""
    folder = WINDOWS / "site"
    record = stamped("windows-site", SITE)
    if record or not folder.exists():
        say("installing the Windows torch, NumPy and pytest")
        shutil.rmtree(folder, ignore_errors=True)
        command = [PYTHON, "-m", "pip", "install", "--target", folder, "--no-deps", "--no-compile"]
        command += ["--only-binary=:all:", "--implementation", "cp", *FOR_WINDOWS, *SITE]
        run("windows-site", command, hint="check the network or the index in pip's settings")
        if record:
            record()
    return folder


def windows_nvrtc() -> Path:
    """Return the folder of the Windows NVRTC's libraries, below a name with spaces and non-ASCII letters."""
    folder = unpack_wheel(NVRTC, WINDOWS / "nvrtc für Prüfung 試験", "--platform", "win_amd64")
    return next(folder.glob("**/nvrtc64_130_0.dll")).parent


def keep_heaps_in_place() -> None:
    """Have the kernel start this process's children with their memory where it always is, not at random.

    Wine's loader is linked to 0x7d400000, and the kernel lays its heap anywhere in the GiB that follows. There, at
    0x7ffe0000, is the page that every Windows program shares with the system. A start whose heap lies on that page,
    one in some 8000, ends with status 1 and not a word.
    """
    addr_no_randomize = 0x0040000  # <sys/personality.h>
    if ctypes.CDLL(None).personality(addr_no_randomize) == -1:
        say("  this machine forbids personality(2): one start of Wine in 8000 will fail by chance")


class Wine:
    """A Wine prefix and the server that serves it; a context manager."""

    loader = Path("/usr/lib/wine/wine64")

    def __init__(self, prefix: Path) -> None:
        keep_heaps_in_place()
        self.prefix = prefix
        self.system32 = prefix / "drive_c/windows/system32"
        self.env = {"WINEPREFIX": str(prefix), "WINEARCH": "win64", "WINEDEBUG": "-all", "DISPLAY": ""}
        self.env |= {"WINEDLLOVERRIDES": "mscoree,mshtml,winedbg.exe=", "LC_ALL": "C.UTF-8"}
        if not self.loader.exists():
            raise StepError(f"{self.loader} is missing: apt-get install wine wine64")
        if (prefix / "env.sh").exists():
            self.read_env()

    def read_env(self) -> None:
        """Take over the settings that the prefix was made with."""
        for line in (self.prefix / "env.sh").read_text().splitlines():
            if line.startswith("export "):
                self.env |= dict(word.split("=", 1) for word in shlex.split(line)[1:])

    def make(self) -> None:
        """Make the prefix, once: with what Python and torch need where that is at hand, else a plain one."""
        script = shared_folder() / "windows-python/prefix.sh"
        record = stamped("windows-prefix", str(self.prefix), script.exists() and script.read_text())
        if record is None and self.system32.exists():
            return
        say("making the Wine prefix")
        shutil.rmtree(self.prefix, ignore_errors=True)
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        if script.exists():
            path = {"PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}"}  # the script calls pip and python3
            run("windows-prefix", ["bash", script, self.prefix, BUILD / "downloads"], env=path, timeout=300)
            self.read_env()
        else:
            run("windows-prefix", [self.loader, "wineboot", "-i"], env=self.env, timeout=300, check=False)
            key = ["reg", "add", r"HKCU\Software\Wine", "/v", "Version", "/d", "win10", "/f"]
            run("windows-version", [self.loader, *key], env=self.env, timeout=60)
        if record:
            record()

    def __enter__(self) -> Wine:
        # A server that stays makes every process start in milliseconds instead of seconds, and no process ever meets
        # one that is about to leave, which resets its connection. The server that made the prefix goes on for some
        # seconds and would keep a second one from starting: it is stopped first.
        self.stop()
        # Wine's services inherit the standard output of whoever starts them first and keep it open: let that be
        # nobody's pipe.
        for command in ([self.server, "-p"], [self.loader, "wineboot"]):
            done = subprocess.run(
                command, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, timeout=120, check=False,
            )  # fmt: skip
            if done.returncode:
                raise StepError(f"{shlex.join(map(str, command))} ended with status {done.returncode}")
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the prefix's server, if one runs, and what runs on it; return when it has gone."""
        subprocess.run([self.server, "-k"], env={**os.environ, **self.env}, capture_output=True, check=False)

    @property
    def server(self) -> str:
        """The wineserver that belongs to the loader."""
        return str(self.loader.with_name("wineserver"))

    def run(
        self,
        step: str,
        command: list[str | Path],
        *,
        env: dict[str, str] | None = None,
        timeout: float,
        check: bool = True,
    ) -> tuple[int, str]:
        """Run a Windows program as dev.run does; a crash under Wine may otherwise wait for ever, hence the limit."""
        return run(step, [self.loader, *command], env={**self.env, **(env or {})}, timeout=timeout, check=check)

    @staticmethod
    def path(path: Path) -> str:
        """Spell a path of this machine as Windows sees it."""
        return "Z:" + str(path).replace("/", "\\")


def windows_path_list(*folders: Path) -> str:
    """Join folders as a Windows path variable."""
    return ";".join(Wine.path(folder) for folder in folders)
