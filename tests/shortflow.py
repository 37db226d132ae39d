"""A network and a run for flow that are small enough for a test, and images to move."""

import numpy as np

from pixeltrail.data.textures import noise
from pixeltrail.training.run import Run

TINY = {
    "channels": [8, 12, 16], "decoder": [16, 12], "context": [], "dense": False, "convolutions": 1, "normalise": True,
}  # fmt: skip
RUN = Run(
    method="pwcnet", settings=TINY, steps=4, batch_size=2, frames=2, size=32, width=48, save_every=2, warmup=0,
    precision="fp32",
)  # fmt: skip


def textured(seed, height, width):
    rng = np.random.default_rng(seed)
    return np.stack([np.clip(128 + 50 * noise(rng, height, width, 1.3), 0, 255) for _ in range(3)], -1).astype(np.uint8)
