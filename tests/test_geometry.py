"""The Convention of geometry.py, colour spaces, and what the bottlenecks hide."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixeltrail.bottleneck import DropLab, DropRGB, Everything, normalised_lab
from pixeltrail.colour import colour_classes, lab_to_rgb, nearest_colour, rgb_to_lab
from pixeltrail.geometry import (
    cells,
    cells_to_pixels,
    down_to_cells,
    labels_to_cells,
    pad_to_multiple,
    pixel_grid,
    sample,
    unpad,
    warp,
)
from pixeltrail.nets.resnet import resnet18, resnet50

sides = st.integers(3, 40)


def test_flow_points_from_the_first_frame_into_the_second():
    second = torch.rand(1, 3, 20, 30)
    flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 20, 30)
    first = warp(second, flow)
    assert torch.allclose(first[0, :, 5, 7], second[0, :, 3, 10], atol=1e-5)
    assert torch.allclose(warp(second, torch.zeros(1, 2, 20, 30)), second, atol=1e-4)


@given(sides, sides, st.sampled_from([2, 4, 8]))
@settings(deadline=None, max_examples=40)
def test_cell_i_sits_on_pixel_i_times_stride(height, width, stride):
    h, w = cells((height, width), stride)
    ramp = pixel_grid(height, width)[None]  # the coordinates themselves as values
    up = cells_to_pixels(pixel_grid(h, w)[None] * stride, (height, width), stride)
    inside = up[..., : (h - 1) * stride + 1, : (w - 1) * stride + 1]
    assert torch.allclose(inside, ramp[..., : inside.shape[-2], : inside.shape[-1]], atol=1e-3)
    down = down_to_cells(ramp, stride)
    inner = down[..., 1 : max(1, (height - stride) // stride), 1 : max(1, (width - stride) // stride)]
    expected = pixel_grid(h, w)[None, :, 1 : 1 + inner.shape[-2], 1 : 1 + inner.shape[-1]] * stride
    assert torch.allclose(inner, expected, atol=1e-3)  # no shift on the way down either


@given(sides, sides, st.sampled_from([1, 4, 8]), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_label_shares_sum_to_one(height, width, stride, seed):
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.uint8))
    shares = labels_to_cells(ids, 4, stride)
    assert shares.shape == (4, *cells((height, width), stride))
    assert torch.allclose(shares.sum(0), torch.ones(()), atol=1e-5)
    assert shares.min() >= 0


@pytest.mark.parametrize("net", [resnet18(stride=8, width=8), resnet18(stride=4, width=8, head=8), resnet50()])
def test_the_encoders_place_cells_as_the_convention_says(net):
    """A feature cell's gradient with respect to the image is centred on pixel cell · stride."""
    net = net.eval()
    if isinstance(net.maxpool, torch.nn.MaxPool2d):
        net.maxpool = torch.nn.AvgPool2d(3, 2, 1)  # on a constant image the maximum is the first of nine equals
    for module in net.modules():  # a plain sum of non-negative paths: its gradient is the receptive field
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1e-2)
    image = torch.ones(1, 3, 193, 193, requires_grad=True)
    cell = 96 // net.stride
    net(image)[0, :, cell, cell].sum().backward()
    weight = image.grad[0].sum(0)
    grid = pixel_grid(193, 193)
    centre = (grid * weight).sum((1, 2)) / weight.sum()
    assert torch.allclose(centre, torch.full((2,), float(cell * net.stride)), atol=0.05)


def test_encoder_keys_are_torchvisions():
    keys = set(resnet18(stride=8).state_dict())
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer3.1.bn2.bias"} <= keys
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var"} <= keys
    fifty = resnet50().state_dict()
    assert fifty["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert fifty["layer3.5.conv3.weight"].shape == (1024, 256, 1, 1)
    assert sum(v.numel() for v in resnet18(stride=8).parameters()) == 2_782_784  # torchvision's up to layer3


def test_sampling_outside_is_zero_or_the_border():
    values = torch.ones(1, 1, 4, 5)
    far = torch.tensor([-9.0, 2.0]).view(1, 2, 1, 1)
    assert float(sample(values, far)) == 0
    assert float(sample(values, far, padding="border")) == 1


def test_padding_is_undone():
    image = torch.rand(1, 3, 21, 35)
    padded, size = pad_to_multiple(image, 16)
    assert padded.shape[-2:] == (32, 48)
    assert torch.equal(unpad(padded, size), image)


def test_lab_of_known_colours_and_back():
    known = {
        (1, 1, 1): (100, 0, 0),
        (0, 0, 0): (0, 0, 0),
        (1, 0, 0): (53.24, 80.09, 67.20),
        (0, 0, 1): (32.30, 79.19, -107.86),
    }
    for rgb, lab in known.items():
        found = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32).view(3, 1, 1)).flatten()
        assert torch.allclose(found, torch.tensor(lab, dtype=torch.float32), atol=0.02)
    x = torch.rand(2, 3, 5, 7)
    assert torch.allclose(lab_to_rgb(rgb_to_lab(x)), x, atol=1e-4)


def test_colour_classes_find_separate_clusters():
    truth = torch.tensor([[-40.0, 0.0], [0.0, 30.0], [50.0, -20.0]])
    points = truth.repeat(50, 1) + torch.randn(150, 2, generator=torch.Generator().manual_seed(0))
    found = colour_classes(points, 3)
    assert torch.allclose(found, truth, atol=1.0)
    assert nearest_colour(truth.T.view(2, 1, 3), found).flatten().tolist() == [0, 1, 2]


class TestBottlenecks:
    clip = torch.rand(2, 3, 3, 6, 8, generator=torch.Generator().manual_seed(0))

    def test_everything_hides_nothing(self):
        seen = Everything()(self.clip)
        assert seen.hidden == ()
        assert torch.equal(seen.view, self.clip * 2 - 1)

    def test_mast_loses_a_or_b_and_never_lightness(self):
        counts = {(1,): 0, (2,): 0}
        for seed in range(60):
            seen = DropLab()(self.clip, torch.Generator().manual_seed(seed))
            counts[seen.hidden] += 1
            assert not seen.view[:, :, seen.hidden[0]].any()
            kept = [c for c in range(3) if c not in seen.hidden]
            assert torch.allclose(seen.view[:, :, kept], 1.5 * normalised_lab(self.clip)[:, :, kept])
        assert min(counts.values()) > 15

    def test_corrflow_keeps_everything_three_times_in_ten_and_rescales(self):
        bottleneck, kept = DropRGB(jitter=0), 0
        for seed in range(300):
            seen = bottleneck(self.clip, torch.Generator().manual_seed(seed))
            kept += seen.hidden == ()
            assert not seen.view[:, :, list(seen.hidden)].any()
            alive = [c for c in range(3) if c not in seen.hidden]
            assert torch.allclose(seen.view[:, :, alive], self.clip[:, :, alive] * 3 / len(alive))
        assert 0.2 < kept / 300 < 0.4

    def test_jitter_changes_some_clips_and_stays_in_range(self):
        seen = DropRGB(keep=1.0, jitter=1.0)(self.clip, torch.Generator().manual_seed(1))
        assert not torch.allclose(seen.view, self.clip)
        assert seen.view.min() >= 0
        assert seen.view.max() <= 1
        assert torch.equal(DropRGB(keep=1.0, jitter=0.0)(self.clip).view, self.clip)
