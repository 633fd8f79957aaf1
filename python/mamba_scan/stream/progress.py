"""How far a streamed scan is, shown on a terminal or told to the caller."""

import sys
import time
from typing import Any

from .pipeline import Ledger

_REFRESH_SECONDS = 0.2


class Progress:
    """Reports steps done.

    Parameters
    ----------
    target : bool, callable, or object with update(steps)
        As in :func:`mamba_scan.stream_scan`.
    total : int or None
        Number of steps, where known.
    done : int
        Steps done before this run.
    batch : int
        Tokens of a step: the terminal's bar counts those, others steps.
    """

    def __init__(self, target: Any, total: int | None, done: int, batch: int = 1) -> None:
        self._total, self._begin, self._done = total, done, done
        self._start = time.monotonic()
        self._callable = self._bar = None
        self._own = False
        self._unit = 1
        if target is True:
            self._unit = batch
            self._bar = _terminal_bar(None if total is None else total * batch, done * batch)
            self._own = self._bar is not None
        elif hasattr(target, "update"):
            self._bar = target
        elif target is not False and target is not None:
            self._callable = target

    def __call__(self, ledger: Ledger) -> None:
        """Report, if there is news."""
        new = ledger.position - self._done
        if new <= 0:
            return
        self._done = ledger.position
        if self._callable is not None:
            seconds = max(time.monotonic() - self._start, 1e-9)
            self._callable(self._done, self._total, (self._done - self._begin) / seconds)
        elif self._bar is not None:
            limiting = ledger.limiting()
            if limiting and hasattr(self._bar, "set_postfix_str"):
                self._bar.set_postfix_str(f"{limiting}-bound", refresh=False)
            self._bar.update(new * self._unit)

    def close(self) -> None:
        """Leave the terminal as it should be."""
        if self._own:
            self._bar.close()


def _terminal_bar(total: int | None, done: int) -> Any:
    """Return tqdm's bar, a plain one where tqdm is missing, or None where nobody would see it."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return _PlainBar(total, done)
    return tqdm(total=total, initial=done, unit=" tokens", unit_scale=True, dynamic_ncols=True, desc="stream_scan")


class _PlainBar:
    """One line that is written over, with tqdm's interface."""

    def __init__(self, total: int | None, done: int) -> None:
        self._total, self._begin, self._done = total, done, done
        self._start = time.monotonic()
        self._shown = 0.0
        self._postfix = ""
        self._width = 0

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self._postfix = text

    def update(self, steps: int) -> None:
        self._done += steps
        if time.monotonic() - self._shown >= _REFRESH_SECONDS:
            self._show()

    def close(self) -> None:
        self._show()
        print(file=sys.stderr)

    def _show(self) -> None:
        self._shown = time.monotonic()
        rate = (self._done - self._begin) / max(self._shown - self._start, 1e-9)
        text = f"stream_scan: {self._done:,}"
        if self._total is not None:
            text += f" of {self._total:,} tokens, {(self._total - self._done) / max(rate, 1e-9):.0f} s left"
        text += f", {rate:,.0f} tokens/s {self._postfix}"
        print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
        self._width = len(text)
