"""Selective scan (Mamba) for PyTorch, on CUDA GPUs and on CPUs, compiled at run time.

Shapes are written with batch ``b``, seqlen ``l``, dim ``d``, dstate ``n`` and groups ``g``.
"""

from ._version import __version__
from .modules import SelectiveScan, SelectiveScanCuda
from .ops import selective_scan
from .stream import StreamResult, StreamStatistics, stream_scan
from .streaming import StreamingScan

__all__ = [
    "SelectiveScan",
    "SelectiveScanCuda",
    "StreamResult",
    "StreamStatistics",
    "StreamingScan",
    "__version__",
    "selective_scan",
    "stream_scan",
]
