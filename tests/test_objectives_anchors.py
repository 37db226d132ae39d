"""Self-training on anchors (dul): the second view, the formula, and whom the gradient reaches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixeltrail.methods.dul import AnchorSelfTraining, _view, _zoom_and_flip


class TestDul:
    def test_the_second_view_is_the_map_that_it_says(self):
        g = torch.Generator().manual_seed(2)
        clip = F.interpolate(torch.rand(3, 3, 8, 8, generator=g), 48, mode="bicubic")[:, None]
        scale, shift = _zoom_and_flip(3, (48, 48), 0.5, g)
        other = _view(clip, scale, shift)
        for b in range(3):
            for x, y in ((5, 7), (20, 40)):
                p = scale[b, :, 0, 0] * torch.tensor([x, y]) + shift[b, :, 0, 0]
                assert (p >= -1e-4).all()
                assert (p <= 47 + 1e-4).all()
                x0, y0 = (int(v.clamp(0, 46)) for v in p)
                around = clip[b, 0, :, y0 : y0 + 2, x0 : x0 + 2]
                low, high = around.amin((1, 2)) - 1e-4, around.amax((1, 2)) + 1e-4
                assert ((other[b, 0, :, y, x] >= low) & (other[b, 0, :, y, x] <= high)).all()

    def test_self_training_is_cross_entropy_with_the_teachers_choice_of_own_anchors(self):
        torch.manual_seed(0)
        objective = AnchorSelfTraining(8, grid=2)
        b, t, d, h, w, a = 2, 2, 5, 3, 4, 3
        keys, teacher = (F.normalize(torch.randn(b, t, d, h, w), dim=2) for _ in range(2))
        anchors = F.normalize(torch.randn(b, a, d), dim=2)
        source = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy")).float()
        source = torch.stack((source, w - 1 - source * torch.tensor([1.0, 0]).view(2, 1, 1)))
        source[1, 1] = torch.arange(h).float().view(h, 1)
        total = 0.0
        for i in range(b):
            for s in range(t):
                for y in range(h):
                    for x in range(w):
                        own = [float(teacher[i, s, :, y, x] @ anchors[i, k]) for k in range(a)]
                        label = i * a + int(np.argmax(own))
                        px, py = (int(v) for v in source[i, :, y, x])
                        logits = keys[i, s, :, py, px] @ anchors.flatten(0, 1).T / objective.temperature
                        total += float(torch.logsumexp(logits, 0) - logits[label])
        ours = objective._self_training(keys, teacher, anchors, source)
        assert float(ours) == pytest.approx(total / (b * t * h * w), rel=1e-4)

    def test_no_gradient_reaches_the_teacher(self):
        objective = AnchorSelfTraining(8)
        keys, teacher, anchors = (torch.randn(1, 1, 4, 2, 2, requires_grad=True), torch.randn(1, 1, 4, 2, 2, requires_grad=True),
                                  torch.randn(1, 3, 4, requires_grad=True))  # fmt: skip
        source = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="xy")).float()[None]
        objective._self_training(keys, teacher, anchors, source).backward()
        assert keys.grad is not None
        assert anchors.grad is not None
        assert teacher.grad is None
