"""How many steps a chunk has, and how many fit into the ring."""

import threading

MULTIPLE = 2048  # cuts at multiples of this leave the result bitwise the same
RING_SLOTS = 3  # one being filled, one under way, one being emptied
# Inputs in one slot. On a GPU a transfer of this size takes a few milliseconds, far more than starting it; on a CPU
# chunks are best when they fit the last-level cache.
_SLOT_BYTES = {"cuda": 128 << 20, "cpu": 16 << 20}
_TARGET_SECONDS = {"cuda": 4e-3, "cpu": 25e-3}  # for the slowest part of a chunk: far more than what a chunk costs
_FREE_SHARE = 0.5  # of the free device memory that the ring may take
_STEP = 4  # how much longer a chunk may be than those that were measured


def ring_capacity(
    device_type: str, input_bytes: int, output_bytes: int, seqlen: int | None, free_bytes: int | None
) -> int:
    """Return how many steps a slot holds, a multiple of MULTIPLE.

    Parameters
    ----------
    device_type : {"cuda", "cpu"}
        Where the scan runs.
    input_bytes, output_bytes : int
        Bytes of one step.
    seqlen : int or None
        Number of steps, where known: a slot is not larger than what there is.
    free_bytes : int or None
        Free device memory.
    """
    steps = _SLOT_BYTES[device_type] // max(input_bytes, 1)
    if free_bytes is not None:
        per_step = RING_SLOTS * (input_bytes + output_bytes)
        steps = min(steps, int(free_bytes * _FREE_SHARE) // max(per_step, 1))
    if seqlen is not None:
        steps = min(steps, -(-seqlen // MULTIPLE) * MULTIPLE)
    return max(steps // MULTIPLE, 1) * MULTIPLE


class ChunkLengths:
    """The length of the next chunk: given, or grown from short ones.

    It grows until the slowest part of a chunk takes so long that what every chunk costs besides does not matter.
    """

    def __init__(self, given: int | None, capacity: int, device_type: str) -> None:
        self._length = given or min(MULTIPLE, capacity)
        self._fixed = given is not None
        self._capacity = capacity
        self._target = _TARGET_SECONDS[device_type]
        self._measured = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """Return how many steps to read next."""
        with self._lock:
            return self._length

    def observe(self, steps: int, seconds: float) -> None:
        """Take note of how long the slowest part of a chunk took."""
        with self._lock:
            self._measured += 1
            # The first chunk may have waited for a compiler; shorter ones are from before the last change.
            if self._fixed or self._measured == 1 or steps != self._length or seconds >= self._target:
                return
            wanted = int(steps * min(self._target / max(seconds, 1e-9), _STEP))
            self._length = max(min(wanted // MULTIPLE * MULTIPLE, self._capacity), self._length)
