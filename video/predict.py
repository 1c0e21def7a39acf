"""Predicts a video or webcam: a class over time, the annotated video, a plot and tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dataset import EvalTransform
from evaluation.predictions import short_name
from runtime.files import write_folder
from runtime.status import Progress, print_between, say
from runtime.text import shorten, wrap
from training.predictor import Predictor
from video.frames import Frame, Video
from video.recorder import Recorder, display_size
from video.timeline import Smoother, Timeline

BATCH = 8  # frames of a file that are predicted together; of a webcam each at once
MANY = 10_000  # frames that a webcam may give, for which preparing a fast engine pays


@dataclass(frozen=True)
class Settings:
    """Frames per second, time constant of the smoothing in seconds, threshold of "not sure", classes shown."""

    rate: float
    smooth: float
    threshold: float
    top_k: int


def predict_video(predictor: Predictor, source: str, settings: Settings) -> None:
    """Predicts to the end of a file, or until Ctrl-C; writes results/<run>/video/ either way.

    Raises: KeyboardInterrupt anew where Ctrl-C stopped a file, InputError where it is no video.
    """
    run = predictor.run
    video = Video(source)
    timeline = Timeline(run.classes, settings.threshold, [], [], [])
    stopped = False
    with write_folder(run.folder / "video") as folder:
        recorder = Recorder(folder / "annotated.mp4", settings.rate)
        try:
            watch(predictor, video, settings, timeline, recorder)
        except KeyboardInterrupt:
            stopped = True
        finally:
            recorder.close()
            video.close()
        timeline.cut(recorder.count)  # Ctrl-C may have come before the last frame was recorded
        if not timeline.times:
            raise KeyboardInterrupt
        write_results(folder, predictor, source, settings, timeline)
    tell(run.folder / "video", video, timeline, predictor.title)
    if stopped and not video.live:
        raise KeyboardInterrupt


def watch(predictor: Predictor, video: Video, settings: Settings, timeline: Timeline, recorder: Recorder) -> None:
    """Predicts frame after frame."""
    total = max(1, round(video.seconds * settings.rate))
    classify = make_classifier(predictor, MANY if video.live else total)
    smoother, size, last = Smoother(settings.smooth), None, ""
    if video.live:
        say("predicts the webcam until Ctrl-C")
    frames = video.frames(settings.rate)
    with Progress("predict", total, "frames", leave=not video.live) as progress:
        while batch := list(islice(frames, 1 if video.live else BATCH)):
            for frame, raw in zip(batch, classify(batch), strict=True):
                smoothed = smoother(frame.seconds, raw)
                timeline.add(frame.seconds, raw, smoothed)
                size = size or display_size(frame.pixels.shape[1], frame.pixels.shape[0])
                label = timeline.label(-1)
                recorder.add(frame.seconds, partial(annotate, frame, size, label, top_of(timeline, settings.top_k)))
                if video.live and label != last:
                    last = label
                    print_between(f"{frame.seconds:7.1f} s  {short_name(last)} {smoothed.max().item():.2f}")
            if not video.live:
                progress.update(len(batch))


def make_classifier(predictor: Predictor, count: int) -> Callable[[list[Frame]], torch.Tensor]:
    """A function from N frames, of about `count` in all, to calibrated probabilities (N, K) as images have them."""
    view = predictor.views[0]
    engine = predictor.engine(count, view.size)

    def classify(frames: list[Frame]) -> torch.Tensor:
        images = torch.stack([look(frame, view) for frame in frames])
        return predictor.probabilities(predictor.forward(engine, iter([(images, torch.zeros(len(frames)))]))[0])

    return classify


def look(frame: Frame, view: EvalTransform) -> torch.Tensor:
    """What the network sees of a frame, (3, S, S) uint8."""
    return view(Image.fromarray(frame.pixels))


def top_of(timeline: Timeline, count: int) -> list[tuple[str, float]]:
    """The most probable classes of the last frame."""
    values, indices = timeline.smoothed[-1].topk(min(count, len(timeline.classes)))
    return [(timeline.classes[k], value) for k, value in zip(indices.tolist(), values.tolist(), strict=True)]


def annotate(frame: Frame, size: tuple[int, int], label: str, bars: list[tuple[str, float]]) -> Image.Image:
    from figures.timeline import caption  # with matplotlib, whose font it takes

    image = Image.fromarray(frame.pixels).resize(size, Image.Resampling.BILINEAR)
    return caption(image, label, bars, frame.seconds)


def write_results(folder: Path, predictor: Predictor, source: str, settings: Settings, timeline: Timeline) -> None:
    from figures.timeline import probabilities_over_time

    about: dict[str, Any] = {"video": source, "network": predictor.title, "frames_per_second": settings.rate}
    about |= {"smoothing_seconds": settings.smooth, "threshold": settings.threshold}
    timeline.write(folder, about)
    name = f"webcam {source}" if source.isdecimal() else shorten(Path(source).name, 40)
    caution = predictor.run.caution
    title = f"{name} by {caution}" if caution else f"{name} · {predictor.title}"
    values, segments = torch.stack(timeline.smoothed).numpy(), timeline.segments()
    path = folder / "timeline.png"
    probabilities_over_time(timeline.times, values, timeline.classes, segments, settings.threshold, title, path)


def tell(folder: Path, video: Video, timeline: Timeline, title: str) -> None:
    for line in segment_lines(timeline):
        print(line)
    if video.damage:
        end = f"{timeline.times[-1]:.1f} s"
        print(f"note: {video.source} is damaged after {end} ({video.damage}); the rest is left out")
    say(wrap(f"written: {folder}/: {' '.join(sorted(path.name for path in folder.iterdir()))}"))
    print(f"{len(timeline.times)} frames of {timeline.times[-1]:.1f} s; {title}")


def segment_lines(timeline: Timeline) -> Iterator[str]:
    for segment in timeline.segments():
        when = f"{segment['start']:7.1f} to {segment['end']:5.1f} s"
        yield f"{when}  {short_name(segment['label'])} {segment['probability']:.2f}"
