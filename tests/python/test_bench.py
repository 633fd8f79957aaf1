"""python -m mamba_scan bench: shapes, arithmetic, comparison and files."""

from __future__ import annotations

import json
import time
import types

import mamba_scan
import pytest
import torch
from mamba_scan import bench, cli, roof
from mamba_scan.bench import cases, contenders, report, runner, timing
from mamba_scan.bench.cases import Case
from problems import assert_matches_reference
from reference import selective_scan_reference

CPU = torch.device("cpu")
CEILINGS = roof.Roof(1e9, 2e9, "given")


@pytest.fixture
def quick(monkeypatch):
    """Ceilings that need no measuring and few short samples."""
    monkeypatch.setattr(roof, "measure", lambda device: CEILINGS)
    monkeypatch.setattr(timing, "_SAMPLE_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "_WARM_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_ROUNDS", (3, 3))
    monkeypatch.setattr(timing, "_CPU_ROTATED_BYTES", 1 << 16)


def run(capsys, *arguments):
    status = cli.main(("bench", "--device", "cpu", *arguments))
    return status, capsys.readouterr()


# ------------------------------------------------------------------------------------------------------------ the roof
def test_work_of_a_known_shape():
    work = roof.work(3, 101, 37, 5, torch.float16, features="z D final_state constant_B")
    assert work.exps == 3 * 101 * 37 * 5
    sequences, projection = 4 * 3 * 101 * 37 * 2, 3 * 101 * 5 * 2
    assert work.bytes == sequences + projection + 2 * (37 * 5 * 4) + 37 * 4 + 3 * 37 * 5 * 4
    assert roof.work(1, 8, 6, 2, torch.float32, groups=3).bytes == 8 * (3 * 6 + 2 * 3 * 2) * 4 + 6 * 2 * 4


def test_the_roof_is_the_larger_floor():
    assert CEILINGS.bound(roof.Work(bytes=3_000_000, exps=2_000_000)) == pytest.approx(3e-3)
    assert CEILINGS.bound(roof.Work(bytes=1_000_000, exps=8_000_000)) == pytest.approx(4e-3)
    assert CEILINGS.seconds(100, 8, 4, 2) == pytest.approx(100 * (3 * 8 + 2 * 4) * 2 / 1e9)


@pytest.mark.parametrize(("word", "dtype"), [("skip", torch.float32), ("", torch.float64)])
def test_work_refuses_what_it_does_not_know(word, dtype):
    with pytest.raises(ValueError, match="needed"):
        roof.work(1, 1, 1, 1, dtype, features=word)


def test_ceilings_of_this_machine(device):
    """Within what any machine can do: a rate that is off by the size of an element or a thread count is not."""
    ceilings = roof.measure(torch.device(device))
    assert 1e8 < ceilings.bytes_per_s < 1e14
    assert 1e7 < ceilings.exps_per_s < 1e14


def test_figures_follow_from_the_time():
    case = Case(2, 100, 8, 4)
    result = runner.Result("x", "", time=timing.Timing(1e-3, 0.9e-3, 1.2e-3, 5), eager_s=2e-3)
    entry = runner.report_of([runner.Row(case, [result])], CPU, CEILINGS, CEILINGS)["cases"][0]
    work = case.work()
    assert entry["memory_us"] == pytest.approx(work.bytes / 1e9 * 1e6)
    assert entry["exp_us"] == pytest.approx(work.exps / 2e9 * 1e6)
    assert entry["roof_us"] == max(entry["memory_us"], entry["exp_us"])
    figures = entry["results"][0]
    assert figures["us"] == pytest.approx(1000)
    assert figures["multiple_of_roof"] == pytest.approx(1000 / entry["roof_us"])
    assert figures["gb_per_s"] == pytest.approx(work.bytes / 1e-3 / 1e9)
    assert figures["gexp_per_s"] == pytest.approx(work.exps / 1e-3 / 1e9)
    assert figures["eager_us"] == pytest.approx(2000)


def test_the_better_of_two_measured_ceilings_counts():
    before, after = roof.Roof(1e9, 3e9, ""), roof.Roof(2e9, 1e9, "")
    ceilings = runner.report_of([], CPU, before, after)["ceilings"]
    assert (ceilings["bytes_per_s"], ceilings["exps_per_s"]) == (2e9, 3e9)


def test_timing_is_median_and_spread():
    measured = timing.Timing.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (measured.median, measured.samples) == (3.0, 5)
    assert (measured.p10, measured.p90) == (pytest.approx(1.4), pytest.approx(4.6))
    assert measured.spread == pytest.approx(3.2 / 3)


def test_samplers_take_turns(monkeypatch):
    """A change of the clock in the middle must meet both."""
    order = []

    class Fake:
        def __init__(self, name):
            self.name = name

        def sample(self):
            order.append(self.name)
            return 1.0

    monkeypatch.setattr(timing, "_ROUNDS", (5, 5))
    monkeypatch.setattr(timing, "_WARM_SECONDS", 0.0)
    measured = timing.measure([Fake("a"), Fake("b")])
    assert "".join(order) == "ab" + "ab" * 5, "one to warm up, then in turns"
    assert [one.samples for one in measured] == [5, 5]


def test_a_slow_contender_is_sampled_less():
    class Slow:
        def sample(self):
            time.sleep(0.02)
            return 0.02

    class Quick:
        def sample(self):
            return 1e-6

    slow, quick = timing.measure([Slow(), Quick()], budget_seconds=0.05)
    assert slow.samples == 3
    assert quick.samples == 25


# ----------------------------------------------------------------------------------------------------------- the cases
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", cases.PRESETS)
def test_presets_hold_scans_that_can_run(name, gpu):
    found = cases.preset_cases(name, gpu)
    assert found
    for case in found:
        assert case.dim % case.groups == 0
        assert case.work().exps == case.batch * case.seqlen * case.dim * case.dstate


def test_the_table_holds_the_rows_by_which_the_scan_is_judged():
    table = cases.preset_cases("table", gpu=True)
    for sizes in ((64, 2048, 1536), (8, 2048, 5120), (1, 131072, 2048), (1, 16384, 768), (1, 1024, 256)):
        base = Case(*sizes)
        assert {base, Case(*sizes, dtype="float32"), Case(*sizes, layout="bdl")} <= set(table)
    assert {case.dstate for case in table} == {1, 4, 8, 16, 32, 64, 128, 256}
    assert Case(1, 1638400, 2048) in table


def test_random_scans_follow_the_seed_and_the_bounds():
    bounds = cases.Bounds(1 << 28, 10**8)
    first, again, other = (cases.random_cases(40, seed, bounds) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert all(case.work().bytes <= bounds.bytes and case.work().exps <= bounds.exps for case in first)
    assert all(1 <= case.batch <= 64 and 100 <= case.seqlen <= 200_000 and 1 <= case.dstate <= 256 for case in first)
    for name in ("dtype", "layout", "groups", "z", "D", "softplus", "initial_state", "final_state", "constant"):
        assert len({getattr(case, name) for case in first}) > 1, name
    assert sum(case.seqlen % 16 != 0 for case in first) > 20


def test_shapes_from_the_command_line():
    assert cases.parse_shape("3,5,8") == Case(3, 5, 8)
    assert cases.parse_shape("3,5,8,2,4") == Case(3, 5, 8, 2, 4)
    for text in ("3,5", "a,b,c", "0,1,1", "1,2,3,4,5,6", "1,2,9,4,2"):
        with pytest.raises(ValueError, match="bench: --shape is"):
            cases.parse_shape(text)


@pytest.mark.parametrize("case", cases.random_cases(6, 3, cases.Bounds(1 << 20, 10**6)), ids=lambda case: case.label)
def test_inputs_are_what_the_case_says(case):
    inputs = timing.make_inputs(case, CPU)
    outputs = case.batch * case.seqlen * case.dim * inputs["u"].element_size()
    states = case.batch * case.dim * case.dstate * 4 if case.final_state else 0
    assert timing.input_bytes(inputs) == case.work().bytes - outputs - states
    delta = inputs["delta"].float()
    delta = torch.nn.functional.softplus(delta) if case.softplus else delta
    assert 0.0009 < delta.min() < delta.max() < 0.11


# --------------------------------------------------------------------------------------------------- the contenders
LOOP_CASES = [
    Case(2, 33, 12, 5, 3, "float32").full(),
    Case(2, 33, 12, 5, 3, "float32", "bdl", initial_state=True),
    Case(1, 17, 7, 3, dtype="float16", constant="B", layout="bdl").full(),
    Case(3, 1, 5, 2, dtype="bfloat16", constant="BC"),
    Case(2, 19, 6, 4, dtype="float32", constant="C"),
]


@pytest.mark.parametrize("case", LOOP_CASES, ids=lambda case: f"{case.shape} {case.options}")
def test_the_loop_is_the_scan(case):
    inputs = timing.make_inputs(case, CPU, seed=5)
    assert_matches_reference(inputs, contenders.loop(case, inputs))


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_the_loop_scans_from_the_end(layout):
    case = Case(2, 13, 4, 3, dtype="float32", layout=layout, reverse=True).full()
    inputs = timing.make_inputs(case, CPU)
    assert inputs.pop("reverse") is True
    axis = 1 if layout == "bld" else 2
    flipped = inputs | {name: inputs[name].flip(axis) for name in ("u", "delta", "B", "C", "z")}
    expected = selective_scan_reference(**flipped)[0].flip(axis)
    torch.testing.assert_close(contenders.loop(case, inputs).double(), expected, rtol=1e-4, atol=1e-5)


def raw_state_spaces():
    """The interface of selective_scan_cuda: everything (b, d, l), B and C with a group axis."""

    def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        assert u.is_contiguous() and delta.is_contiguous()
        assert B.ndim == 4 and C.ndim == 4
        y = selective_scan_reference(
            u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=delta_softplus, layout="bdl"
        )[0]
        if z is None:
            return [y.to(u.dtype), None]
        return [y.to(u.dtype), None, (y * torch.nn.functional.silu(z.double())).to(u.dtype)]

    return types.SimpleNamespace(fwd=fwd)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_state_spaces_gets_its_own_memory_order(layout, full, groups):
    case = Case(2, 11, 6, 4, groups, "float32", layout)
    case = case.full() if full else case
    inputs = timing.make_inputs(case, CPU)
    call = contenders._prepare_state_spaces(contenders._raw_state_spaces(raw_state_spaces()), case, inputs)
    assert_matches_reference(inputs, call())


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_mamba_windows_cuda_gets_its_own_memory_order(layout):
    class SelectiveScanCuda:
        def forward(self, u, delta, A, B, C, D, h_prev=None):
            assert len({tensor.dtype for tensor in (u, delta, A, B, C, D)}) == 1
            return selective_scan_reference(u, delta, A, B, C, D, initial_state=h_prev)[0].to(u.dtype)

    case = Case(2, 11, 6, 16, 1, "float32", layout, D=True, initial_state=True)
    inputs = timing.make_inputs(case, CPU)
    assert_matches_reference(inputs, contenders._prepare_windows(SelectiveScanCuda(), case, inputs)())


def test_contenders_say_what_they_lack():
    with pytest.raises(contenders.UnsupportedError, match="mamba_ssm has no initial state"):
        case = Case(1, 8, 8, initial_state=True)
        contenders._prepare_state_spaces(None, case, timing.make_inputs(case, CPU))
    with pytest.raises(contenders.UnsupportedError, match="mamba_windows_cuda has no softplus"):
        contenders._prepare_windows(None, Case(1, 8, 8, softplus=True), {})
    with pytest.raises(contenders.UnsupportedError, match="too large"):
        contenders._prepare_loop(Case(8, 8192, 2048), {"u": torch.empty(0)})


def test_a_contender_that_computes_something_else_is_called_wrong(quick):
    wrong = contenders.Contender("other", "", lambda case, inputs: lambda: 1.5 * mamba_scan.selective_scan(**inputs))
    broken = contenders.Contender("broken", "", lambda case, inputs: 1 / 0)
    result = runner.run_cases([Case(1, 64, 16, 4, dtype="float32")], CPU, [wrong, broken])
    ours, other, failed = result["cases"][0]["results"]
    assert ours["deviation"] is None
    assert other["deviation"] == pytest.approx(0.5, rel=1e-3)
    assert failed["failed"] is True
    assert "ZeroDivisionError" in failed["skipped"]
    assert len(runner.complaints(result)) == 1
    assert "other at 1, 64, 16, 4" in runner.complaints(result)[0]


def test_a_scan_that_fails_costs_only_its_own_figures(quick):
    result = runner.run_cases([Case(1, 8, 6, 2, 4, "float32"), Case(1, 8, 8, 2, dtype="float32")], CPU)
    first, second = (entry["results"][0] for entry in result["cases"])
    assert first["failed"] is True
    assert second["us"] > 0
    assert "failed" in runner.complaints(result)[0]
    assert "not measured" in report.text_of(result)


# ----------------------------------------------------------------------------------------------------- the command line
def test_bench_prints_and_writes_what_it_measured(quick, capsys, tmp_path):
    path = tmp_path / "bench.json"
    status, output = run(
        capsys, "--shape", "1,64,16,4", "--shape", "2,33,8", "--full", "--compare", "--json", str(path)
    )
    assert status == 0, output.out
    written = json.loads(path.read_text(encoding="utf-8"))
    assert written["schema"] == runner.SCHEMA
    assert {"device", "torch", "ceilings", "cases", "distribution"} <= written.keys()
    assert [case["dstate"] for case in written["cases"]] == [4, 16]
    for case in written["cases"]:
        assert case["dtype"] == "float32" and case["z"] and case["softplus"]
        ours, loop = case["results"]
        assert (ours["name"], loop["name"]) == ("mamba_scan", "PyTorch loop")
        assert ours["us_p10"] <= ours["us"] <= ours["us_p90"]
        assert ours["samples"] == 3
        assert ours["multiple_of_roof"] == pytest.approx(ours["us"] / case["roof_us"])
        assert loop["deviation"] < 1e-4
    assert "1, 64, 16, 4" in output.out
    assert "x our time" in output.out
    assert "z D softplus bias" in output.out


def test_options_reach_the_cases(quick, capsys, tmp_path):
    path = tmp_path / "bench.json"
    options = ("--dtype", "bfloat16", "--layout", "bdl", "--dstate", "3", "--json", str(path))
    assert run(capsys, "--shape", "1,20,8", *options)[0] == 0
    case = json.loads(path.read_text(encoding="utf-8"))["cases"][0]
    assert (case["dtype"], case["layout"], case["dstate"]) == ("bfloat16", "bdl", 3)


def test_random_preset_reports_its_distribution(quick, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "CPU_BOUNDS", cases.Bounds(1 << 20, 10**6))
    path = tmp_path / "bench.json"
    status, output = run(capsys, "random", "--count", "5", "--seed", "3", "--json", str(path))
    assert status == 0, output.out
    written = json.loads(path.read_text(encoding="utf-8"))
    multiples = [c["results"][0]["multiple_of_roof"] for c in written["cases"] if c["roof_us"] >= 20]
    assert len(written["cases"]) == 5 and len(multiples) > 1
    assert written["distribution"]["count"] == len(multiples)
    assert written["distribution"]["max"] == pytest.approx(max(multiples))
    assert f"max {max(multiples):.2f}" in output.out


def test_png(quick, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "bench.png"
    assert run(capsys, "--shape", "1,64,16,4", "--shape", "1,32,16,4", "--compare", "--png", str(path))[0] == 0
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 10_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tables",), "bench: preset is 'tables'; needs one of table, mamba-130m"),
        (("--shape", "1,2"), "bench: --shape is '1,2'; needs batch,seqlen,dim"),
        (("random", "--count", "0"), "bench: --count is 0; needs at least 1"),
        (("table", "--dstate", "0"), "bench: --dstate is 0; needs at least 1"),
        (("--device", "tpu"), "bench: --device is 'tpu'; needs cpu, cuda or cuda:N"),
        (("--device", "cuda:99"), "bench: --device is cuda:99, and this torch sees"),
        (("--json", "/nowhere/at/all.json"), "bench: --json is '/nowhere/at/all.json'; needs a folder that exists"),
        (("--json", "."), "bench: --json is '.', a folder; needs the path of a file"),
    ],
)
def test_bench_refuses(capsys, arguments, sentence):
    status, output = run(capsys, *arguments)
    assert status == 1
    assert sentence in output.err
    assert output.out == ""


def test_png_without_matplotlib_is_refused_before_measuring(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "can_plot", lambda: False)
    monkeypatch.setattr(bench, "run_cases", lambda *arguments: pytest.fail("measured first"))
    status, output = run(capsys, "--png", str(tmp_path / "x.png"))
    assert status == 1
    assert "needs pip install matplotlib" in output.err


def test_graph_samples_write_every_result(cuda):
    """A replayed graph computes what a call does, for each of its inputs."""
    case = Case(1, 100, 64, 16)
    sets = [timing.make_inputs(case, torch.device(cuda), seed) for seed in range(3)]
    calls = [contenders.OURS.prepare(case, inputs) for inputs in sets]
    with torch.no_grad():
        sampler = timing.GraphSampler(torch.device(cuda, 0), calls)
        for y in sampler.outputs:
            y.fill_(float("nan"))
        assert sampler.sample() > 0
        for y, call in zip(sampler.outputs, calls, strict=True):
            assert torch.equal(y, call())
