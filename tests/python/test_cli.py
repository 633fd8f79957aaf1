"""The commands of python -m mamba_scan, the demo and what is installed with the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mamba_scan
import pytest
import torch
from mamba_scan import cli, control, demo, demo_data, demo_files

PACKAGE = Path(mamba_scan.__file__).parent


def run(capsys, *arguments):
    status = cli.main(arguments)
    return status, capsys.readouterr()


def test_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+", mamba_scan.__version__)
    assert control.doctor()["package_version"] == mamba_scan.__version__


def test_the_package_is_complete():
    assert (PACKAGE / "py.typed").is_file()
    assert "MS_" in (PACKAGE / "kernels" / "selective_scan" / "forward.cu").read_text(encoding="utf-8")
    assert (PACKAGE / "kernels" / "selective_scan" / "problem.h").is_file()


def test_as_a_module_in_a_process_of_its_own():
    command = [sys.executable, "-m", "mamba_scan", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == mamba_scan.__version__


@pytest.mark.parametrize("arguments", [[], ["dance"], ["cache"], ["cache", "burn"]])
def test_a_wrong_command_line_exits_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_doctor_as_json(capsys):
    status, output = run(capsys, "doctor", "--json")
    report = json.loads(output.out)
    assert status == 0
    assert report["self_test"]["passed"] is True
    assert report["torch"]["version"] == torch.__version__
    assert {"driver", "devices", "nvrtc", "cache", "warnings", "remedies"} <= report.keys()


def test_doctor_as_text(capsys):
    status, output = run(capsys, "doctor")
    assert status == 0
    assert f"package_version: {mamba_scan.__version__}" in output.out
    assert "nvrtc:" in output.out


def test_nvrtc_of_the_python_environment_is_found():
    if not any((Path(torch.__file__).parent.parent / "nvidia").rglob("*nvrtc*")):
        pytest.skip("no NVRTC among the packages of this Python")
    assert control.doctor()["nvrtc"]["found"] is True


def test_cache_commands(tmp_path, monkeypatch):
    # A process for each command: in this one a stream that a former test has closed may still be compiling.
    monkeypatch.setenv("MAMBA_SCAN_CACHE_DIR", str(tmp_path))

    def command(*arguments):
        line = [sys.executable, "-m", "mamba_scan", *arguments]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=True).stdout

    def entries():
        return json.loads(command("cache", "list", "--json"))["entries"]

    command("selftest", "--problems", "2", "--seed", "7")  # with a GPU it compiles some
    listed = entries()
    assert (len(listed) > 0) == torch.cuda.is_available()
    command("cache", "verify")
    assert json.loads(command("cache", "clear", "--json"))["removed"] == len(listed)
    assert entries() == []


def test_verify_says_by_its_status_whether_something_was_broken(capsys, monkeypatch):
    for removed, expected in ((["0123"], 1), ([], 0)):
        report = {"checked": 2, "good": 2 - len(removed), "removed": removed, "folder": "x"}
        monkeypatch.setattr(control, "cache_verify", lambda report=report: report)
        assert run(capsys, "cache", "verify", "--json")[0] == expected


def test_warm_refuses_an_unknown_architecture(capsys):
    status, output = run(capsys, "warm", "--arch", "sm_nonsense")
    assert status == 1
    assert "sm_nonsense" in output.err


def test_self_test(capsys):
    status, output = run(capsys, "selftest", "--problems", "3", "--seed", "7", "--json")
    report = json.loads(output.out)
    assert status == 0
    assert report["seed"] == 7
    assert any(backend["backend"] == "cpu" and len(backend["problems"]) == 3 for backend in report["backends"])
    status, output = run(capsys, "selftest", "--problems", "2", "--seed", "7", "--any-plan")
    assert "seed 7: passed" in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", "-1"), "self_test: seed is -1; needs 0 to 4294967295"),
        (("--seed", "99999999999"), "self_test: seed is 99999999999; needs 0 to 4294967295"),
        (("--problems", "0"), "self_test: problems is 0; needs 1 to 2147483647"),
    ],
)
def test_self_test_refuses(capsys, arguments, message):
    status, output = run(capsys, "selftest", *arguments)
    assert status == 1
    assert message in output.err


def test_self_test_says_which_problem_failed(capsys, monkeypatch):
    problem = {"shape": "dim=3", "dtype": "float16", "features": "z", "plan": None, "passed": False}
    problem |= {"relative_error_y": None, "tolerance_y": 0.001, "relative_error_state": 1e-7, "tolerance_state": 1e-5}
    planned = problem | {"plan": {"lanes": 2}}
    problems = [problem, planned, problem | {"passed": True}]
    backend = {"backend": "cpu", "name": "CPU", "error": None, "problems": problems}
    report = {"seed": 7, "passed": False, "backends": [backend]}
    monkeypatch.setattr(control, "self_test", lambda **_: report)
    status, output = run(capsys, "selftest")
    assert status == 1
    assert "cpu CPU: 1 of 3 problems within tolerance" in output.out
    failed = "dim=3, float16, z: error of y not finite (tolerance 1.0e-03), of state 1.0e-07 (tolerance 1.0e-05)"
    assert output.out.count(failed) == 1
    assert output.out.count('dim=3, float16, z, planned as {"lanes": 2}: error of y') == 1


def test_recording():
    with pytest.raises(control.RuntimeFailure, match="record"):
        control.stop_recording()
    control.start_recording()
    assert isinstance(control.stop_recording()["traceEvents"], list)


def test_recording_shows_chunks_and_kernels(device):
    stream = mamba_scan.StreamingScan(-torch.rand(8, 4), device=device)
    chunk = [torch.rand(1, 5, 8, device=device), torch.rand(1, 5, 8, device=device)]
    chunk += [torch.rand(1, 5, 4, device=device) for _ in range(2)]
    stream.step(*chunk)
    control.start_recording(device_times=True)
    for _ in range(3):
        stream.step(*chunk)
    events = control.stop_recording()["traceEvents"]
    chunks = [event for event in events if "first_step" in event.get("args", {})]
    assert [event["args"]["first_step"] for event in chunks] == [5, 10, 15]
    kernels = [event for event in events if "registers per thread" in event.get("args", {})]
    assert len(kernels) == (3 if device == "cuda" else 0)
    assert all(event["dur"] > 0 for event in kernels)


def demo_report(capsys, device, *arguments):
    options = ("--seqlen", "3000", "--dim", "40", "--chunk", "512", "--device", device, "--json", "--no-files")
    status, output = run(capsys, "demo", *options, *arguments)
    return status, json.loads(output.out)


@pytest.mark.parametrize("dtype", list(demo.DTYPES))
def test_demo_checks_its_result(capsys, device, dtype):
    status, report = demo_report(capsys, device, "--dtype", dtype)
    assert status == 0
    assert report["passed"] is True
    assert 0 < report["relative_error"] < report["tolerance"]
    assert report["tokens_per_s"] == pytest.approx(3000 / report["scan_s"])
    assert report["multiple_of_roof"] == pytest.approx(report["scan_s"] / report["roof_s"])
    assert report["peak_memory_bytes"] > 0
    assert report["checked_steps"] >= 512


def test_demo_fails_when_the_scan_is_wrong(capsys, monkeypatch):
    """A check that cannot fail would be no check."""
    honest = demo.StreamingScan.step

    def wrong(self, u, delta, B, C, z=None):
        y = honest(self, u, delta, B, C, z)
        self._state *= 1.001
        return y

    monkeypatch.setattr(demo.StreamingScan, "step", wrong)
    status, report = demo_report(capsys, "cpu", "--dtype", "float32")
    assert status == 1
    assert report["passed"] is False


def test_demo_text(capsys):
    options = ("--seqlen", "600", "--dim", "16", "--chunk", "512", "--device", "cpu", "--quiet")
    status, output = run(capsys, "demo", *options)
    assert status == 0, output
    assert "bitwise equal to an uninterrupted scan" in output.out
    assert "600 steps x 16 channels" in output.out
    assert re.search(r"roof +\S+ s, so the scan took \S+ times that", output.out)
    assert output.out.rstrip().endswith("good")


def test_demo_kills_a_scan_and_goes_on(capsys, device):
    options = ("--seqlen", "30000", "--dim", "24", "--device", device, "--dtype", "bfloat16", "--json")
    status, output = run(capsys, "demo", *options)
    report = json.loads(output.out)
    assert status == 0, report
    files = report["files"]
    assert files["bitwise_equal"] is True
    assert 0.5 * 30000 <= files["resumed_from"] <= 30000
    assert 0 < files["relative_error"] < report["tolerance"]
    assert files["bytes"] == 30000 * (4 * 24 + 2 * 16) * 2


def test_demo_fails_when_the_scan_gone_on_with_differs(capsys, monkeypatch):
    """One bit in one step."""
    honest = demo_files._go_on

    def wrong(folder):
        position = honest(folder)
        with (folder / "killed.bin").open("r+b") as file:
            file.seek(4 * 24 * 1234)
            bit = bytes([file.read(1)[0] ^ 1])
            file.seek(4 * 24 * 1234)
            file.write(bit)
        return position

    monkeypatch.setattr(demo_files, "_go_on", wrong)
    status, output = run(capsys, "demo", "--seqlen", "3000", "--dim", "24", "--device", "cpu", "--json")
    report = json.loads(output.out)
    assert status == 1
    assert report["files"]["bitwise_equal"] is False
    assert report["passed"] is False


def test_demo_leaves_the_files_out_where_there_is_no_room(capsys, monkeypatch):
    monkeypatch.setattr(demo_files.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    status, output = run(capsys, "demo", "--seqlen", "300", "--dim", "24", "--device", "cpu", "--quiet")
    assert status == 0
    assert "from file to file left out: " in output.out


def test_demo_chooses_a_dim_for_this_cpu():
    dim = demo.choose_cpu_dim(512, torch.float32)
    assert 16 <= dim <= 2048
    assert dim % 16 == 0


@pytest.mark.parametrize(("option", "value"), [("--dim", "0"), ("--seqlen", "-5"), ("--chunk", "0")])
def test_demo_refuses_bad_sizes(capsys, option, value):
    status, output = run(capsys, "demo", "--device", "cpu", "--dim", "16", "--seqlen", "10", option, value)
    assert status == 1
    assert f"demo: {option} is {value}; needs at least 1" in output.err


def test_demo_inputs_are_made_anew_the_same():
    make = lambda: demo_data.ChunkSource(100, 8, 4, 32, torch.float32, torch.device("cpu"))  # noqa: E731
    first, second = make(), make()
    assert [first.steps(index) for index in range(len(first))] == [32, 32, 32, 4]
    for index in (3, 0):
        assert torch.equal(first.make(index).u, second.make(index).u)
    assert not torch.equal(first.make(0).u, first.make(1).u)
