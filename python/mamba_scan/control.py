"""Control of the runtime: what the machine offers, the kernel cache, compiling ahead, recording.

Every function returns what the runtime reports as plain dictionaries and lists. None of them is on the path of a
call.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from ._library import _runtime

RuntimeFailure = _runtime.Error
"""What the runtime raises when it cannot do what was asked; a RuntimeError."""


def doctor() -> dict[str, Any]:
    """Report driver, devices, NVRTC, cache, warnings and remedies. Never raises for something missing."""
    return json.loads(_runtime.doctor())


def cache_list() -> dict[str, Any]:
    """Return the folder of the kernel cache and its entries."""
    return json.loads(_runtime.cache_list())


def cache_verify() -> dict[str, Any]:
    """Check every entry of the kernel cache; broken ones are removed."""
    return json.loads(_runtime.cache_verify())


def cache_clear() -> dict[str, Any]:
    """Empty the kernel cache."""
    return json.loads(_runtime.cache_clear())


def warm(archs: Sequence[str] = ()) -> dict[str, Any]:
    """Compile the kernels ahead.

    Parameters
    ----------
    archs : sequence of str
        ``"sm_87"``, ``"87"`` or ``"8.7"``; empty: for every device present.
    """
    return json.loads(_runtime.warm(list(archs)))


def tune(
    batch: int,
    seqlen: int,
    dim: int,
    dstate: int = 16,
    groups: int = 1,
    *,
    dtype: str = "float16",
    layout: str = "bld",
    options: Iterable[str] = (),
    thorough: bool = False,
    candidates: int = 6,
    device: int = 0,
) -> dict[str, Any]:
    """Time the plans for one scan on a GPU; keep the fastest, beside the kernel cache, for scans like it.

    Parameters
    ----------
    batch, seqlen, dim, dstate, groups : int
        Sizes. Scans share a plan whose dtype, layout, options and sizes are the same, seqlen up to the same power of
        two, and whose rows are multiples of 16 bytes long in both or in neither; a row is seqlen elements in
        ``"bdl"``, dim in ``"bld"``.
    dtype, layout : str
        As in :func:`mamba_scan.selective_scan`.
    options : iterable of str
        What the scan has of: ``"z"``, ``"D"``, ``"delta_bias"``, ``"delta_softplus"``, ``"initial_state"``,
        ``"final_state"``, ``"reverse"``.
    thorough : bool
        Go on with plans that differ from the fastest in one detail, until none is faster.
    candidates : int
        How many of the plans are timed: those that the model of the device thinks fastest.
    device : int
        Number of the GPU.

    Raises
    ------
    RuntimeFailure
        There is no such GPU.
    ValueError
        There is no such scan, or no candidate.
    """
    sizes = (batch, seqlen, dim, dstate, groups)
    return json.loads(_runtime.tune(*sizes, dtype, layout, list(options), thorough, candidates, device))


def self_test(
    problems: int = 12, seed: int = 0, cpu: bool = True, cuda: bool = True, any_plan: bool = False
) -> dict[str, Any]:
    """Run random problems on every backend against a float64 loop.

    Parameters
    ----------
    problems : int
        Number per backend.
    seed : int
        Below 2^32; 0 takes one from the clock. The answer holds it.
    cpu, cuda : bool
        Which backends to test.
    any_plan : bool
        Run every problem on a GPU by a plan drawn at random among those possible, in place of the model's or a tuned
        one: so that all kernels are tested.

    Raises
    ------
    ValueError
        There is no such number of problems, or no such seed.
    """
    for name, number, least, most in (("problems", problems, 1, 2**31 - 1), ("seed", seed, 0, 2**32 - 1)):
        if not least <= number <= most:
            raise ValueError(f"self_test: {name} is {number}; needs {least} to {most}")
    return json.loads(_runtime.self_test(problems, seed, cpu, cuda, any_plan))


def start_recording(device_times: bool = False) -> None:
    """Record what the runtime launches, compiles and copies from now on.

    Parameters
    ----------
    device_times : bool
        Time kernels with events, too.
    """
    _runtime.start_recording(device_times)


def stop_recording() -> dict[str, Any]:
    """Stop, and return the recording in Chrome's Trace Event format."""
    return json.loads(_runtime.stop_recording())
