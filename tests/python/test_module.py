"""SelectiveScan keeps the contract of mamba-windows-cuda's SelectiveScanCuda."""

from __future__ import annotations

import mamba_scan
import pytest
import torch
from problems import TOLERANCE, assert_matches_reference, make_problem

NAMES = ("u", "delta", "A", "B", "C", "D")


def module_arguments(dtype, device):
    problem = make_problem(2, 19, 24, 16, device=device)
    problem["delta"] = problem["delta"].abs() * 0.1
    return {name: problem[name].to(dtype) for name in NAMES}


def test_the_drop_in_has_the_names_of_mamba_windows_cuda(device):
    problem = module_arguments(torch.float32, device)
    named = {{"B": "B_ssm", "C": "C_ssm", "D": "D_ssm"}.get(name, name): value for name, value in problem.items()}
    h_prev = torch.randn(2, 24, 16, device=device)
    scan, drop_in = mamba_scan.SelectiveScan(), mamba_scan.SelectiveScanCuda()
    assert not list(drop_in.parameters())
    assert torch.equal(drop_in(**named), scan(**problem))
    assert torch.equal(drop_in(*problem.values(), h_prev), scan(**problem, h_prev=h_prev))
    for got, expected in zip(
        drop_in.forward_with_state(**named, h_prev=h_prev), scan.forward_with_state(**problem, h_prev=h_prev),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_everything_in_one_dtype(device, dtype):
    problem = module_arguments(dtype, device)
    scan = mamba_scan.SelectiveScan()
    y = scan(*problem.values())
    assert_matches_reference(problem, y)
    y2, h = scan.forward_with_state(*problem.values())
    assert torch.equal(y, y2)
    assert_matches_reference(problem, y2, h)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_h_comes_back_in_the_dtype_of_h_prev(device, dtype):
    problem = module_arguments(dtype, device)
    h_prev = torch.randn(2, 24, 16, device=device).to(dtype)
    y, h = mamba_scan.SelectiveScan().forward_with_state(*problem.values(), h_prev)
    assert h.dtype is dtype
    assert_matches_reference(problem | {"initial_state": h_prev}, y)
    assert torch.equal(y, mamba_scan.SelectiveScan()(*problem.values(), h_prev=h_prev))


def test_without_h_prev_h_is_float32(device):
    problem = module_arguments(torch.float16, device)
    assert mamba_scan.SelectiveScan().forward_with_state(*problem.values())[1].dtype is torch.float32


def test_a_wrong_shape_is_an_error(device):
    problem = module_arguments(torch.float32, device)
    with pytest.raises(ValueError, match=r"initial_state has shape \(2, 16, 24\); needs shape \(2, 24, 16\)"):
        mamba_scan.SelectiveScan()(*problem.values(), torch.zeros(2, 16, 24, device=device))


def test_inside_a_sequential_model_on_half_precision(device):
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.A = torch.nn.Parameter(-torch.ones(8, 4))
            self.D = torch.nn.Parameter(torch.ones(8))
            self.project = torch.nn.Linear(8, 16)
            self.scan = mamba_scan.SelectiveScan()

        def forward(self, u):
            delta, B, C = self.project(u).split([8, 4, 4], dim=-1)
            return self.scan(u, delta.sigmoid(), self.A, B, C, self.D)

    block = Block().to(device, torch.bfloat16)
    with torch.no_grad():
        y = block(torch.randn(2, 6, 8, device=device, dtype=torch.bfloat16))
    assert y.shape == (2, 6, 8)
    assert y.isfinite().all()
