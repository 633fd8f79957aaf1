"""What stream_scan tells about how far it is."""

from __future__ import annotations

import io
import sys
import threading

import mamba_scan
import pytest
import torch
from mamba_scan.stream import progress as progress_module
from mamba_scan.stream.pipeline import Ledger
from streams import split, stream_problem

SEQLEN = 5 * 2048 + 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(progress, **options):
    inputs, weights = split(stream_problem(batch=1, seqlen=SEQLEN, dim=8))
    sink = torch.zeros_like(inputs["u"])
    return mamba_scan.stream_scan(inputs, sink, chunk=2048, progress=progress, **weights | options)


def test_a_function_is_told_steps_total_and_rate(device):
    calls = []
    caller = threading.current_thread()

    def progress(done, total, rate):
        assert threading.current_thread() is caller
        calls.append((done, total, rate))

    run(progress, device=device)
    assert [done for done, _, _ in calls] == sorted({done for done, _, _ in calls})
    assert calls[-1][0] == SEQLEN
    assert all(total == SEQLEN and rate > 0 for _, total, rate in calls)


def test_a_bar_of_the_caller_is_updated_and_left_open():
    class Bar:
        n, closed, postfix = 0, False, ""

        def update(self, steps):
            self.n += steps

        def set_postfix_str(self, text, refresh=True):
            self.postfix = text

        def close(self):
            self.closed = True

    bar = Bar()
    result = run(bar)
    assert bar.n == SEQLEN
    assert bar.postfix == f"{result.statistics.limiting}-bound"
    assert not bar.closed


def test_quiet_where_standard_error_is_no_terminal(capfd, monkeypatch):
    run(True)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", None)  # a Windows program without a console
    run(True)
    assert capfd.readouterr().out == ""


def test_tqdm_on_a_terminal(monkeypatch):
    pytest.importorskip("tqdm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    result = run(True)
    text = terminal.getvalue()
    assert "stream_scan: 100%" in text
    assert "tokens/s" in text
    assert f"{result.statistics.limiting}-bound" in text


def test_a_plain_line_where_tqdm_is_missing(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    result = run(True)
    last = terminal.getvalue().rstrip().split("\r")[-1]
    assert f"{SEQLEN:,} of {SEQLEN:,} tokens, 0 s left" in last
    assert "tokens/s" in last
    assert f"{result.statistics.limiting}-bound" in last


def test_the_terminal_counts_tokens_and_others_steps(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    bar = progress_module.Progress(True, 100, 20, batch=3)
    bar._bar._start -= 10
    bar(Ledger(position=50))
    bar.close()
    assert "stream_scan: 150 of 300 tokens, 17 s left, 9 tokens/s" in terminal.getvalue()
    calls = []
    progress_module.Progress(lambda *call: calls.append(call), 100, 20, batch=3)(Ledger(position=50))
    assert calls[0][:2] == (50, 100)


def test_an_unknown_total_has_no_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    bar = progress_module.Progress(True, None, 0)
    bar(Ledger(position=50, busy_s={"scan": 1.0, "upload": 2.0}))
    bar.close()
    assert "stream_scan: 50, " in terminal.getvalue()
    assert "upload-bound" in terminal.getvalue()
    assert "left" not in terminal.getvalue()


def test_rates_count_what_this_run_has_done():
    calls = []
    report = progress_module.Progress(lambda *call: calls.append(call), 1000, 900)
    report(Ledger(position=900))
    assert calls == []
    report._start -= 10
    report(Ledger(position=1000))
    assert calls[0][:2] == (1000, 1000)
    assert calls[0][2] == pytest.approx(10, rel=0.01)
