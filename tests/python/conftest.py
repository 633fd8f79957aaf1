"""Fixtures. Tests that need a GPU are skipped, with the reason, where torch sees none."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU, or a torch without CUDA")
    return request.param


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU, or a torch without CUDA")
    return "cuda"


@pytest.fixture(autouse=True, scope="session")
def kernel_cache(tmp_path_factory):
    """Keep the tests' kernels out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMBA_SCAN_CACHE_DIR", str(tmp_path_factory.mktemp("kernel_cache")))
        yield
