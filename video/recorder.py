"""Writes the annotated video: H.264 in MP4, which browsers play."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

CLOCK = 1000  # ticks per second
MAX_SIDE = 720  # of the shorter side, pixels


class Recorder:
    """Adds images with their times to a video file; `close` makes it playable."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.container, self.stream, self.last = path, rate, None, None, -1

    def add(self, seconds: float, image: Image.Image) -> None:
        """All images must have the size of the first one."""
        import av

        if self.container is None:
            self.container = av.open(str(self.path), "w", format="mp4", options={"movflags": "faststart"})
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self.stream = self.container.add_stream(codec, rate=max(1, round(self.rate)))
            self.stream.width, self.stream.height = image.size
            self.stream.pix_fmt = "yuv420p"
            self.stream.codec_context.time_base = Fraction(1, CLOCK)
            self.stream.codec_context.options = {"preset": "veryfast", "crf": "21"}
        frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
        self.last = frame.pts = max(self.last + 1, round(seconds * CLOCK))
        frame.time_base = Fraction(1, CLOCK)
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        if self.container is not None:
            self.container.mux(self.stream.encode())
            self.container.close()
            self.container = None


def display_size(width: int, height: int) -> tuple[int, int]:
    """Size of the annotated video: the shorter side at most `MAX_SIDE`, both even, as H.264 wants them."""
    scale = min(1, MAX_SIDE / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
