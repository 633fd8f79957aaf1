"""The streaming engine: scans of sequences that fit in no memory.

``sources`` and ``sinks`` are the two ends, ``lanes`` move a chunk between them, ``pipeline`` runs reading, scanning and
writing at the same time, ``resume`` keeps what is needed to go on after an interruption.
"""

from .scan import StreamResult, StreamStatistics, stream_scan

__all__ = ["StreamResult", "StreamStatistics", "stream_scan"]
