"""Writes the annotated video: H.264 in MP4, which browsers play."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

CLOCK = 1000  # ticks per second
MAX_SIDE = 720  # of the shorter side, pixels


class Recorder:
    """Adds images with their times to a video file, in a thread; `close` makes it playable.

    Signals interrupt the main thread alone, so that Ctrl-C never leaves a frame half-written.

    Attributes:
        count: images in the file.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate, self.container, self.stream, self.last, self.count = path, rate, None, None, -1, 0
        self.thread, self.pending = ThreadPoolExecutor(1), Future()
        self.pending.set_result(None)

    def add(self, seconds: float, draw: Callable[[], Image.Image]) -> None:
        """Draws and writes an image while the caller goes on; all must have the size of the first one."""
        self.pending.result()  # raises what the one before raised
        self.pending = self.thread.submit(self.write, seconds, draw)

    def write(self, seconds: float, draw: Callable[[], Image.Image]) -> None:
        import av

        image = draw()
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
        self.count += 1

    def close(self) -> None:
        self.thread.shutdown()
        if self.container is not None:
            self.container.mux(self.stream.encode())
            self.container.close()
            self.container = None
        self.pending.result()


def display_size(width: int, height: int) -> tuple[int, int]:
    """Size of the annotated video: the shorter side at most `MAX_SIDE`, both even, as H.264 wants them."""
    scale = min(1, MAX_SIDE / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
