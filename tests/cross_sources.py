"""What the cross builds take from the distribution: Highway's source and two header-only libraries."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

from dev import BUILD, StepError, run, say


def header_folder() -> Path:
    """Return a folder with nlohmann/json and CLI11 alone: /usr/include itself breaks a cross compiler."""
    folder = BUILD / "cross-include"
    for name in ("nlohmann", "CLI"):
        source = Path("/usr/include") / name
        if not source.exists():
            raise StepError(f"{source} is missing: apt-get install nlohmann-json3-dev libcli11-dev")
        if not (folder / name).exists():
            shutil.copytree(source, folder / name)
    return folder


def highway_folder() -> Path:
    """Return the source of the distribution's Highway, fetched with apt from the mirror that apt already uses."""
    found = next(iter((BUILD / "highway").glob("highway-*/hwy")), None)
    if found:
        return found.parent
    work = BUILD / "downloads" / "highway"
    lists = work / "lists"
    lists.mkdir(parents=True, exist_ok=True)
    if not list(work.glob("highway_*.orig.tar.*")):
        say("downloading Highway's source")
        sources = work / "sources.list"
        release = os_release()
        components = "universe" if release["ID"] == "ubuntu" else "main"
        sources.write_text(f"deb-src {apt_mirror()} {release['VERSION_CODENAME']} {components}\n")
        # Folders of our own: apt's are untouched, and no root is needed.
        options = [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null"]
        options += [f"Dir::State::lists={lists}", f"Dir::Cache={work}", "APT::Sandbox::User=root"]
        apt = ["apt-get", *(word for option in options for word in ("-o", option))]
        hint = "check apt's network, or unpack Highway's source into build/highway/highway-<version>"
        run("highway-index", [*apt, "update"], hint=hint, cwd=work)
        run("highway-source", [*apt, "source", "--tar-only", "--download-only", "highway"], hint=hint, cwd=work)
    with tarfile.open(next(iter(work.glob("highway_*.orig.tar.*")))) as archive:
        archive.extractall(BUILD / "highway")
    return next(iter((BUILD / "highway").glob("highway-*/hwy"))).parent


def apt_mirror() -> str:
    """Return the address of the first package source that apt uses for the distribution itself."""
    parts = Path("/etc/apt/sources.list.d")
    for file in [*sorted(parts.glob("*.sources")), Path("/etc/apt/sources.list")]:
        for line in file.read_text().splitlines() if file.exists() else []:
            words = line.split()
            if words[:1] == ["URIs:"]:
                return words[1]
            if words[:1] == ["deb"]:
                return next(word for word in words if "://" in word)
    raise StepError(f"no package source found in {parts} or /etc/apt/sources.list")


def os_release() -> dict[str, str]:
    """Read /etc/os-release."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)


def cross_options() -> dict[str, str | Path]:
    """Return the CMake options that every cross build of ours needs."""
    headers = header_folder()
    return {
        "MAMBA_SCAN_HIGHWAY_DIR": highway_folder(),
        "NLOHMANN_JSON_INCLUDE_DIR": headers,
        "CLI11_INCLUDE_DIR": headers,
        "MAMBA_SCAN_BUILD_TESTS": "ON",
    }
