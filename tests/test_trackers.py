"""TensorBoard and Weights & Biases get the numbers of metrics.jsonl, also after a resume."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import NARROW, Script, read_jsonl, small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from runtime.errors import InputError
from training import checkpoint

RUN = Path("results/t")


def test_tensorboard_holds_every_epoch_once_after_a_resume(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write = checkpoint.save_last

    def stop_after_second(run: Path, model: object, state: dict) -> None:
        write(run, model, state)
        if len(state["state"]["history"]) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_last", stop_after_second)
        train.main(small(data=kaggle, run="t", epochs=3, channels=64, tensorboard=True))
    train.main(train.Args(run="t", resume=True))
    rows = read_jsonl(RUN / "metrics.jsonl")
    events = EventAccumulator(str(RUN / "tensorboard"))
    events.Reload()
    for tag, values in {
        "loss/train": [row["train"]["loss"] for row in rows],
        "loss/val": [row["val"]["loss"] for row in rows],
        "loss/val_calibrated": [row["calibrated"] for row in rows],
        "f1/val": [row["val"]["f1"] for row in rows],
    }.items():
        found = events.Scalars(tag)
        assert [event.step for event in found] == [1, 2, 3]
        assert [event.value for event in found] == pytest.approx(values)
    assert set(events.Tags()["images"]) == {"learning curves", "network"}
    (best,) = events.Scalars("best/loss/val_calibrated")
    assert best.value == pytest.approx(min(row["calibrated"] for row in rows))
    (settings,) = (data for tag, data in events.summary_metadata.items() if "session_start" in tag)
    assert b"label_smoothing" in settings.plugin_data.content


def log_records(content: bytes, place: int) -> Iterator[bytes]:
    """Records of a log in LevelDB's format, which a file of Weights & Biases has behind a header of `place` bytes."""
    size, parts = 1 << 15, b""
    content, at = bytes(place) + content, place
    while at + 7 <= len(content):
        if size - at % size < 7:
            at += size - at % size  # the end of a block that holds no header
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            yield parts
            parts = b""


def test_wandb_works_without_a_network(
    kaggle: Path, tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    done = script(tmp_path, "train.py", *NARROW, "--data", kaggle, "--epochs", "2", "--run", "t", "--wandb", "-q")
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / RUN).glob("wandb/offline-run-*/*.wandb")
    records = [Record.FromString(data) for data in log_records(file.read_bytes()[7:], 7)]
    rows = [record.history.item for record in records if record.HasField("history")]
    steps = [{item.key or "/".join(item.nested_key): item.value_json for item in items} for items in rows]
    rows = read_jsonl(tmp_path / RUN / "metrics.jsonl")
    logged = [float(items["loss/val"]) for items in steps if "loss/val" in items]
    assert logged == pytest.approx([row["val"]["loss"] for row in rows])


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.options.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--wandb needs a package: pip install -r requirements-trackers.txt$"):
        train.Args(wandb=True).check()
