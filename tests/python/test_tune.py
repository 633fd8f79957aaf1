"""python -m mamba_scan tune: which scans it times, and what it says."""

from __future__ import annotations

import json

import pytest
import torch
from mamba_scan import cli, control
from mamba_scan.bench import tune
from mamba_scan.bench.cases import Case


def run(capsys, *arguments):
    status = cli.main(("tune", *arguments))
    return status, capsys.readouterr()


@pytest.fixture
def timed(monkeypatch):
    """What would be timed, on a machine without a GPU."""
    calls = []

    def tune(*sizes, dtype, layout, options, thorough, candidates, device):
        calls.append((*sizes, dtype, layout, " ".join(options), thorough, candidates, device))
        warps = {"tile": 16, "unroll": 4, "stages": 2, "min_blocks": 16, "warps": 1, "slices": 1, "served": False}
        warps |= {"abreast": 1, "whole_rows": False, "wrapped": False, "together": False}
        turns = {"tile": 32, "unroll": 0, "stages": 3, "min_blocks": 2, "warps": 8, "slices": 2, "served": False}
        turns |= {"abreast": 1, "whole_rows": False, "wrapped": False, "together": False}
        shares = {"wrapped": True, "expected_us": 12.0, "us": 13.0}
        rows = {"whole_rows": True, "tile": 8, "unroll": 0}
        served = {**warps, "stages": 4, "min_blocks": 1, "served": True}
        candidates = [
            {"lanes": 2, "channels": 4, "cut": False, **warps, "expected_us": 11.0, "us": 12.0},
            {"lanes": 4, "channels": 2, "cut": True, **warps, "expected_us": 12.0, "us": 10.0},
            {"lanes": 16, "channels": 1, "cut": False, **turns, "expected_us": 12.0, "us": 11.0},
            {"lanes": 1, "channels": 1, "cut": False, **served, "expected_us": 12.0, "us": 13.0},
            {"lanes": 2, "channels": 1, "cut": False, **turns, "served": True, **shares},
            {"lanes": 8, "channels": 1, "cut": False, **warps, **shares},
            {"lanes": 8, "channels": 1, "cut": False, **served, **shares},
            {"lanes": 1, "channels": 1, "cut": False, **warps, "abreast": 4, "expected_us": 12.0, "us": 14.0},
            {"lanes": 1, "channels": 1, "cut": True, **warps, "together": True, "expected_us": 12.0, "us": 14.5},
            {"lanes": 1, "channels": 1, "cut": False, **warps, **rows, "expected_us": 12.0, "us": 15.0},
        ]
        return {"device": "GPU", "problem": "a scan", "candidates": candidates, "chosen": 1, "summary": "kept"}

    monkeypatch.setattr(control, "tune", tune)
    return calls


def test_every_scan_named_is_timed_once(timed, capsys):
    status, output = run(capsys, "mamba-130m", "--shape", "2,100,64,8,4", "--full", "--dtype", "bfloat16")
    assert status == 0
    assert timed[0] == (2, 100, 64, 8, 4, "bfloat16", "bld", "z D delta_bias delta_softplus", False, 6, 0)
    assert len(timed) == len(set(timed)) == 8
    assert "*  4 lanes, 2 channels, cut in time" in output.out
    assert " 16 lanes, 1 channels, turns of 8 warps  tile 32, 3 stages, 2 blocks, 2 slices" in output.out
    assert "  1 lanes, 1 channels, whole, served     tile 16, unroll 4, 4 stages, 1 blocks" in output.out
    assert "  2 lanes, 1 channels, turns of 8 warps, served, in even shares tile 32" in output.out
    assert "  8 lanes, 1 channels, in even shares    tile 16" in output.out
    assert "  1 lanes, 1 channels, cut in time, together tile 16" in output.out
    assert "  8 lanes, 1 channels, in even shares, served tile 16" in output.out
    assert "  1 lanes, 1 channels, whole, 4 abreast  tile 16, unroll 4, 2 stages, 16 blocks" in output.out
    assert "  1 lanes, 1 channels, whole, side by side tile 8, 2 stages, 16 blocks" in output.out
    assert output.out.endswith("kept\n")


def test_every_scan_of_the_table_can_be_tuned_with_its_options(timed, capsys):
    status, _ = run(capsys, "table", "vision", "--thorough", "--json")
    assert status == 0
    options = {call[7] for call in timed}
    assert {"", "z delta_bias delta_softplus", "D delta_bias delta_softplus"} <= options


def test_scans_with_constant_projections_are_left_out(timed, capsys, monkeypatch):
    monkeypatch.setattr(tune, "preset_cases", lambda name, gpu: [Case(1, 2, 3, constant="B"), Case(1, 2, 4)])
    status, _ = run(capsys, "random", "--json")
    assert status == 0
    assert [call[:3] for call in timed] == [(1, 2, 4)]


def test_a_scan_that_cannot_be_tuned_is_left_out_unless_it_is_the_only_one(timed, capsys, monkeypatch):
    whole = control.tune

    def tune_short(*sizes, **options):
        if sizes[1] > 1000:
            raise ValueError("shape: got too many steps")
        return whole(*sizes, **options)

    monkeypatch.setattr(control, "tune", tune_short)
    status, output = run(capsys, "--shape", "1,2000,8", "--shape", "1,500,8")
    assert status == 0
    assert [call[1] for call in timed] == [500]
    assert "tune: 1, 2000, 8, 16 is left out: shape: got too many steps" in output.err
    status, output = run(capsys, "--shape", "1,2000,8")
    assert status == 1
    assert "mamba_scan: shape: got too many steps" in output.err


def test_as_json(timed, capsys):
    status, output = run(
        capsys, "--shape", "1,100,64", "--layout", "bdl", "--device", "1", "--candidates", "9", "--thorough", "--json"
    )
    assert status == 0
    assert timed == [(1, 100, 64, 16, 1, "float16", "bdl", "", True, 9, 1)]
    assert json.loads(output.out)[0]["chosen"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "tune: no scan is named; needs a preset or --shape"),
        (("--shape", "1"), "--shape is '1'; needs batch,seqlen,dim"),
        (("nonsense",), "preset is 'nonsense'; needs one of"),
    ],
)
def test_tune_refuses(timed, capsys, arguments, sentence):
    status, output = run(capsys, *arguments)
    assert status == 1
    assert sentence in output.err
    assert timed == []


def test_no_candidate_is_refused(capsys):
    status, output = run(capsys, "--shape", "1,100,64", "--candidates", "0")
    assert status == 1
    assert "candidates: got 0, needed at least 1" in output.err


def test_tune_without_a_gpu_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    status, output = run(capsys, "--shape", "1,100,64")
    assert status == 1
    assert "mamba_scan: " in output.err


def test_tune_on_a_gpu(cuda, capsys):
    status, output = run(capsys, "--shape", "1,2000,64", "--json")
    assert status == 0
    report = json.loads(output.out)[0]
    assert report["us"] <= report["untuned_us"]
    assert all(candidate["us"] > 0 for candidate in report["candidates"])
