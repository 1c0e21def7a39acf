"""Videos: what is predicted when, what is written, files as telephones and accidents leave them, Ctrl-C."""

import os
import signal
import struct
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import blobs, read_csv, read_json
from PIL import Image
from processes import RunningScript

import predict5
from figures.timeline import caption
from layouts.parts import EXAMPLES
from runtime.errors import InputError
from runtime.images import load_image
from video.frames import Video
from video.recorder import Recorder, display_size
from video.timeline import UNSURE, Smoother, Timeline

RESULTS = Path("results/pretrained/video")


def write_video(path: Path, images: Sequence[Image.Image], rate: int = 10, codec: str = "libx264") -> Path:
    """Images as a video; lossless with the codec "ffv1"."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path


def photograph(name: str) -> Image.Image:
    return load_image(EXAMPLES / f"{name}.jpg").resize((320, 240))


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder: the pretrained network predicts."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_classes_over_time_and_what_is_written(empty: Path, capsys: pytest.CaptureFixture) -> None:
    images = [photograph("drinking")] * 20 + [photograph("laughing")] * 20
    write_video(empty / "two.mkv", images, codec="ffv1")
    predict5.main(predict5.Args(video="two.mkv", fps=5, smooth=0.5))
    rows = read_csv(RESULTS / "timeline.csv")
    assert [float(row["seconds"]) for row in rows] == pytest.approx(np.arange(20) / 5, abs=0.002)
    about = read_json(RESULTS / "timeline.json")
    assert [segment["label"] for segment in about["segments"]][:: len(about["segments"]) - 1] == [
        "drinking",
        "laughing",
    ]
    assert about["segments"][0]["end"] == pytest.approx(2.4, abs=0.21)  # the weight of two seconds has to fade
    assert about["segments"][-1]["end"] == pytest.approx(3.8, abs=0.002)
    shown = capsys.readouterr().out
    assert "0.0 to" in shown
    assert "20 frames of 3.8 s" in shown
    with av.open(str(RESULTS / "annotated.mp4")) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert [seconds for seconds, _ in frames] == pytest.approx(np.arange(20) / 5, abs=0.002)
    above = [np.asarray(image, float)[:140] for image in (images[0], images[-1])]  # the caption is below
    for (_, pixels), expected in zip((frames[0], frames[-1]), above, strict=True):
        assert np.abs(pixels[:140] - expected).mean() < 6
    assert (RESULTS / "timeline.png").stat().st_size > 10_000
    images[0].save("still.png")
    predict5.main(predict5.Args(images=(Path("still.png"),)))
    (still,) = read_json(Path("results/pretrained/images/predictions.json"))["images"]
    for name, value in still["probabilities"].items():  # in float32, too, but not in one batch
        assert float(rows[0][f"raw: {name}"]) == pytest.approx(value, abs=1e-3)


def test_smoothing_is_exponential_in_time_and_sums_to_one() -> None:
    smoother = Smoother(2.0)
    ends = torch.eye(2)
    assert smoother(0.0, ends[0]).tolist() == [1, 0]
    assert smoother(2.0, ends[1])[0].item() == pytest.approx(np.exp(-1))
    later = smoother(5.0, ends[1])
    assert later[0].item() == pytest.approx(np.exp(-2.5))
    assert later.sum().item() == pytest.approx(1)
    raw = Smoother(0)
    assert [raw(n, ends[n % 2]).tolist() for n in range(3)] == [[1, 0], [0, 1], [1, 0]]


def test_segments_cover_the_time_and_name_doubt() -> None:
    timeline = Timeline(["run", "sit"], 0.6, [], [], [])
    for seconds, share in enumerate((0.9, 0.8, 0.5, 0.3, 0.2)):
        values = torch.tensor([share, 1 - share])
        timeline.add(seconds, values, values)
    found = [(segment["start"], segment["end"], segment["label"]) for segment in timeline.segments()]
    assert found == [(0, 2, "run"), (2, 3, UNSURE), (3, 4, "sit")]
    assert timeline.segments()[0]["probability"] == pytest.approx(0.85)


def test_upright_as_the_file_says(tmp_path: Path) -> None:
    """The display matrix of MP4 (ISO/IEC 14496-12, 8.3.2), as telephones write it for a quarter turn clockwise."""
    image = Image.new("RGB", (64, 32))
    image.paste((255, 0, 0), (0, 0, 32, 32))  # on the left: on top, after a quarter turn clockwise
    content = write_video(tmp_path / "lying.mp4", [image] * 3).read_bytes()
    at = content.index(b"tkhd") + 44
    one = 1 << 16
    assert struct.unpack(">9i", content[at : at + 36]) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "upright.mp4").write_bytes(content[:at] + turned + content[at + 36 :])
    video = Video(str(tmp_path / "upright.mp4"))
    frame = next(video.frames(5))
    video.close()
    assert frame.pixels.shape == (64, 32, 3)
    assert frame.pixels[:24, :, 0].min() > 200
    assert frame.pixels[40:, :, 0].max() < 60


@pytest.mark.parametrize(
    ("size", "expected"), [((1920, 1080), (1280, 720)), ((641, 481), (640, 480)), ((3, 1), (4, 2))]
)
def test_annotated_video_has_even_sides(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert display_size(*size) == expected


def test_wrong_sources_are_one_line_and_leave_nothing(empty: Path) -> None:
    Path("notes.mp4").write_text("no video")
    with wave.open("sound.wav", "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "none"))
        sound.writeframes(bytes(1600))
    for source, message in (
        ("nothing.mp4", "no such file"), ("notes.mp4", "not a video"), ("sound.wav", "holds no video"),
        ("97", "webcam 97 cannot be opened"), (".", "no such file"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"^--video {source}: {message}"):
            predict5.main(predict5.Args(video=source))
    with pytest.raises(InputError, match="--video goes without --tta"):
        predict5.main(predict5.Args(video="x.mp4", tta=True))
    assert not RESULTS.exists()


def test_a_damaged_file_is_predicted_up_to_there(empty: Path, capsys: pytest.CaptureFixture) -> None:
    content = write_video(empty / "whole.mkv", [blobs(n, (160, 120)) for n in range(40)], codec="ffv1").read_bytes()
    Path("cut.mkv").write_bytes(content[: len(content) // 2])
    predict5.main(predict5.Args(video="cut.mkv", fps=5, run="pretrained"))
    assert 5 < len(read_csv(RESULTS / "timeline.csv")) < 20
    assert "frames of" in capsys.readouterr().out


def test_a_webcam_is_predicted_until_ctrl_c(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """FFmpeg's endless test pattern stands for a device: it comes as fast as it is asked for."""
    monkeypatch.setattr("video.frames.CAMERAS", {sys.platform: ("testsrc=size=160x120:rate=30", "lavfi")})
    add = Recorder.add

    def add_until_fourth(self: Recorder, *arguments: object) -> None:
        if self.last >= 0 and self.count >= 3:
            raise KeyboardInterrupt  # before the fourth is recorded
        add(self, *arguments)
        self.pending.result()

    monkeypatch.setattr(Recorder, "add", add_until_fourth)
    predict5.main(predict5.Args(video="0", fps=4))  # ends as it should
    times = [float(row["seconds"]) for row in read_csv(RESULTS / "timeline.csv")]
    assert len(times) == 3
    assert times[0] == 0
    assert min(np.diff(times)) > 0.1  # a quarter of a second, at most the time of a prediction late
    assert "3 frames of" in capsys.readouterr().out
    with av.open(str(RESULTS / "annotated.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_captions_take_classes_of_any_name() -> None:
    image = Image.new("RGB", (160, 120), "green")
    for name in ("a\nb", "\udcff", "走路", "x" * 300, "$_{<b>"):
        drawn = np.asarray(caption(image, name, [(name, 0.5), ("sit", 0.0)], 61.0))
        assert (drawn[:60] == (0, 128, 0)).all()
        assert drawn[60:].max() > 200


def test_ctrl_c_closes_the_files(empty: Path) -> None:
    write_video(empty / "long.mp4", [blobs(n, (160, 120)) for n in range(100)])
    running = RunningScript(empty, "predict5.py", "--video", "long.mp4", "--fps", "10")
    while running.process.is_alive() and not list(Path("results/pretrained").glob(".video.*/annotated.mp4")):
        time.sleep(0.05)
    time.sleep(1)
    os.kill(running.process.pid, signal.SIGINT)
    done = running.finish()
    assert done.returncode == 130, done.stderr
    rows = read_csv(RESULTS / "timeline.csv")
    assert 0 < len(rows) < 100
    with av.open(str(RESULTS / "annotated.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(rows)
    assert not list(Path("results/pretrained").glob(".*"))
