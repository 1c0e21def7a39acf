"""Reads the frames of a video file or a webcam at a lower rate, upright."""

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from runtime.errors import InputError, first_line

if TYPE_CHECKING:
    import av

CAMERAS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}:none", "avfoundation")}  # FFmpeg's names, by platform
INSTALL = "pip install -r requirements-video.txt"
MAX_PIXELS = 64_000_000  # of a frame


class Frame(NamedTuple):
    """A frame: seconds from the first one, and its pixels (h, w, 3) uint8."""

    seconds: float
    pixels: np.ndarray


class Video:
    """An open video file, or webcam where `source` is its number.

    Raises: InputError where it cannot be opened, or has no frames.

    Attributes:
        live: whether it is a webcam.
        seconds: the duration that the file states; 0 where it states none.
        damage: what ended the file early; "".
    """

    def __init__(self, source: str) -> None:
        self.source, self.live, self.damage = source, source.isdecimal(), ""
        self.container = open_container(source)
        if not self.container.streams.video:
            raise InputError(f"--video {source}: holds no video; give another file")
        self.stream = self.container.streams.video[0]
        if self.stream.width * self.stream.height > MAX_PIXELS:
            size = f"{self.stream.width} × {self.stream.height}"
            raise InputError(f"--video {source}: its frames have {size} pixels; give one of at most 64 million")
        self.stream.thread_type = "AUTO"
        self.seconds = (self.container.duration or 0) / 1e6

    def frames(self, rate: float) -> Iterator[Frame]:
        """Yields at most `rate` frames per second of the video, the first one of each interval.

        A webcam's are those that come when one is asked for; the others are left out. A damaged file ends there.
        """
        begin, due = None, -math.inf
        decoded = self.decoded()
        for number, frame in enumerate(decoded):
            if self.live:
                now = time.monotonic()
            else:
                now = frame.time if frame.time is not None else number / float(self.stream.average_rate or 25)
            begin = now if begin is None else begin
            seconds = now - begin
            if seconds < due:
                continue
            due = (math.floor(seconds * rate + 1e-6) + 1) / rate - 1e-6
            yield Frame(seconds, upright(frame))
        if begin is None:
            raise InputError(f"--video {self.source}: no frame can be decoded ({self.damage or 'it holds none'})")

    def decoded(self) -> Iterator["av.VideoFrame"]:
        import av

        try:
            yield from self.container.decode(self.stream)
        except av.error.FFmpegError as error:
            self.damage = error.strerror or first_line(error)

    def close(self) -> None:
        self.container.close()


def open_container(source: str) -> "av.container.InputContainer":
    try:
        import av
    except ImportError:
        raise InputError(f"--video needs the package av: {INSTALL}") from None
    av.logging.set_level(av.logging.PANIC)  # what matters comes as an exception
    name, form = source, None
    if source.isdecimal():
        if sys.platform not in CAMERAS:
            raise InputError(f"--video {source}: webcams are read on Linux and macOS alone; give a file")
        pattern, form = CAMERAS[sys.platform]
        name = pattern.format(source)
    elif not Path(source).is_file():
        raise InputError(f"--video {source}: no such file; give a video file, or the number of a webcam (0)")
    try:
        return av.open(name, format=form, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        what = f"webcam {source} cannot be opened" if form else "not a video that FFmpeg reads"
        text = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"--video {source}: {what} ({text}); give another file or webcam") from error


def upright(frame: "av.VideoFrame") -> np.ndarray:
    """Pixels (h, w, 3) uint8, turned as the file says: telephones store upright videos lying down."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)  # counterclockwise
