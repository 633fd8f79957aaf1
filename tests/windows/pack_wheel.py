"""Packs the cross-built package into a win_amd64 wheel, with the metadata that `pip wheel` would write."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import shutil
import zipfile
from pathlib import Path

from dev import ROOT

TAG = "cp311-cp311-win_amd64"


def metadata(folder: Path) -> Path:
    """Let the project's own build backend write the .dist-info folder; return it."""
    from scikit_build_core.build import prepare_metadata_for_build_wheel

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with working_folder(ROOT), contextlib.redirect_stdout(io.StringIO()):  # it announces itself
        info = folder / prepare_metadata_for_build_wheel(str(folder))
    wheel = info / "WHEEL"
    lines = [line for line in wheel.read_text().splitlines() if line and not line.startswith("Tag:")]
    wheel.write_text("\n".join([*lines, f"Tag: {TAG}"]) + "\n")
    return info


@contextlib.contextmanager
def working_folder(folder: Path):
    """contextlib.chdir, which Python 3.10 does not have."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def pack(staged: Path, work: Path) -> Path:
    """Write the wheel of everything below `staged` into `work`; return its path."""
    info = metadata(work / "metadata")
    target = work / f"{info.name.removesuffix('.dist-info')}-{TAG}.whl"
    target.unlink(missing_ok=True)
    files = {path.relative_to(staged).as_posix(): path for path in sorted(staged.rglob("*")) if path.is_file()}
    for path in sorted(info.rglob("*")):
        if path.is_file() and path.name != "RECORD":
            files[path.relative_to(info.parent).as_posix()] = path
    record = f"{info.name}/RECORD"
    rows = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, path in files.items():
            data = path.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(data)}")
            wheel.write(path, name)
        wheel.writestr(record, "\n".join([*rows, f"{record},,"]) + "\n")
    return target
