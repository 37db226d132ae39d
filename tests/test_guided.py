"""The guided filter: constants and sums pass, edges of the picture are found, and it is the formula."""

import pytest
import torch
import torch.nn.functional as F

from pixeltrail.geometry import cells_to_pixels, labels_to_cells
from pixeltrail.guided import GuidedFilter


def test_constants_and_sums_pass_through():
    guide = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    values = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(1)).softmax(0)
    guided = GuidedFilter(guide, (12, 16))
    assert torch.allclose(guided(values).sum(0), torch.ones(48, 64), atol=1e-3)
    assert torch.allclose(guided(torch.full((1, 12, 16), 0.3)), torch.full((1, 48, 64), 0.3), atol=1e-4)


def test_labels_snap_to_the_edge_of_the_picture():
    height, width, stride = 96, 128, 8
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disk = (x - 61).square() + (y - 45).square() < 27**2
    noise = 0.03 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    guide = (
        torch.where(disk, torch.tensor([0.8, 0.3, 0.2]).view(3, 1, 1), torch.tensor([0.2, 0.5, 0.3]).view(3, 1, 1))
        + noise
    )
    cells = labels_to_cells(disk.to(torch.uint8), 2, stride).unsqueeze(0)
    coarse = cells_to_pixels(cells, (height, width), stride)
    guided = GuidedFilter(guide, (24, 32))
    fine = guided(F.interpolate(coarse, guided.small, mode="bilinear", align_corners=False)[0])

    def wrong(values: torch.Tensor) -> int:
        return int((values.argmax(0).bool() != disk).sum())

    assert wrong(fine) < 0.5 * wrong(coarse[0])


def test_at_full_size_it_is_the_papers_linear_model():
    """One window of the size of the picture: a and b by plain least squares with a ridge."""
    g = torch.Generator().manual_seed(3)
    guide, values, epsilon = torch.rand(1, 3, 9, 9, generator=g), torch.rand(1, 9, 9, generator=g), 1e-2
    ours = GuidedFilter(guide, (9, 9), radius=1, epsilon=epsilon)(values)
    slopes, offsets = torch.zeros(3, 9, 9), torch.zeros(9, 9)
    at = [min(max(i, 0), 8) for i in range(-1, 10)]
    for y in range(9):
        for x in range(9):
            window = [(at[y + i], at[x + j]) for i in range(3) for j in range(3)]
            colours = torch.stack([guide[0, :, i, j] for i, j in window])
            labels = torch.stack([values[0, i, j] for i, j in window])
            centred = colours - colours.mean(0)
            covariance = centred.T @ centred / 9 + epsilon * torch.eye(3)
            slopes[:, y, x] = torch.linalg.solve(covariance, centred.T @ (labels - labels.mean()) / 9)
            offsets[y, x] = labels.mean() - slopes[:, y, x] @ colours.mean(0)
    expected = (slopes * guide[0]).sum(0) + offsets  # fast form: the model is interpolated, not averaged over windows
    assert ours[0].flatten().tolist() == pytest.approx(expected.flatten().tolist(), abs=1e-4)
