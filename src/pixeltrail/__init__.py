"""pixeltrail: follow every pixel of a video, without labels."""
