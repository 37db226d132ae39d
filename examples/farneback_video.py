"""Video in, dense optical flow out, as OpenCV's tutorial shows it: Farneback's method, drawn as hue and brightness.

    python examples/farneback_video.py video.mp4 Dense-optical-flow.mp4

Each frame has a scale of its own, as there; ``pixeltrail flow --colour hsv`` has one for the whole video.
"""

import sys
from itertools import pairwise

from pixeltrail import VideoWriter, open_frames
from pixeltrail.flow.classical import farneback
from pixeltrail.visual.flow import flow_to_hsv

video, out = sys.argv[1:]
frames = open_frames(video)
with VideoWriter(out, 20, frames.size) as writer:
    for first, second in pairwise(frames):
        flow = farneback(first.image, second.image)  # 0.5, 3, 15, 3, 5, 1.2: the tutorial's settings
        writer.write(flow_to_hsv(flow))
