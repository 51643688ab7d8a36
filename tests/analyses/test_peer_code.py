"""What stands in for a peer's requirements, and the report that compares."""

from __future__ import annotations

import pytest
import torch
from parity_report import Report
from peer_code import WithoutCuda, blurred, recorded_losses
from torchvision.transforms.functional import gaussian_blur


def test_blur_is_torchvisions() -> None:
    maps = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    expected = gaussian_blur(maps, [7, 5], [1.5, 1.0])  # width first
    torch.testing.assert_close(blurred(maps, (5, 7), (1.0, 1.5)), expected, rtol=0, atol=1e-6)


def test_report_is_wrong_above_a_limit_and_where_a_number_is_nan(capsys: pytest.CaptureFixture[str]) -> None:
    reference = torch.tensor([1.0, 4.0])
    report = Report()
    report.line("close", [reference + 3e-5], [reference])
    assert report.right
    report.line("far", [reference, reference + 6e-5], [reference, reference])
    assert not report.right
    assert capsys.readouterr().out.count("above") == 1
    unknown = Report()
    unknown.line("no number", [torch.tensor([float("nan"), 4.0]), reference], [reference, reference])
    assert not unknown.right
    with pytest.raises(ValueError, match="shapes"):
        Report().line("another shape", [reference[:1]], [reference])


def test_code_for_cuda_runs_on_the_cpu_and_its_losses_are_seen() -> None:
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    with WithoutCuda(), recorded_losses() as losses:
        y = (2 * x).to("cuda")
        y /= y.norm(dim=-1, keepdim=True)  # without the copy, its backward pass would fail
        y[0, 0].backward()
    torch.testing.assert_close(losses[-1], torch.tensor(0.6))
    torch.testing.assert_close(x.grad, torch.tensor([[0.128, -0.096]]))
