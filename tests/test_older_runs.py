"""Runs of the version before the rooms (one flat level of modules) still load, resume and predict."""

import csv
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, read_jsonl
from processes import run_script

import predict5
import train
from model import ActionNet
from runtime.errors import InputError
from training import checkpoint

OLD = "078607fbb720"  # the last commit before the rooms
OPTIONS = ["--weights", "random", "--image-size", "64", "--precision", "fp32", "--channels", "48", "--seed", "3"]
OPTIONS += ["--epochs", "3", "--coarse", "0.4", "--ignore-copies", "--run", "old"]
STOP_AFTER_FIRST_EPOCH = """
import sys, checkpoint, train
from console import run_script
save = checkpoint.save_last
def save_and_stop(*args):
    save(*args)
    sys.exit(0)
checkpoint.save_last = save_and_stop
run_script(train.main, train.Args, "")
"""


@pytest.fixture(scope="module")
def old_run(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A folder where the old code trained one epoch of three, with its own projection and feature cache."""
    folder = tmp_path_factory.mktemp("older")
    code = folder / "code"
    code.mkdir()
    archive = subprocess.run(["git", "archive", OLD], cwd=REPOSITORY, capture_output=True)
    if archive.returncode:
        pytest.skip(f"this clone does not hold the commit {OLD}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "x"], cwd=code, input=archive.stdout, check=True)
    (code / "stop_after_first_epoch.py").write_text(STOP_AFTER_FIRST_EPOCH)
    places = ["--cache", folder / "data/cache", "--results", folder / "results"]
    done = run_script(code, code / "stop_after_first_epoch.py", "--data", sample, *OPTIONS, *places)
    assert done.returncode == 0, done.stderr
    return folder


def test_old_checkpoint_predicts_what_it_predicted(
    old_run: Path, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image by image. (Comes first: resuming writes the checkpoint anew.)"""
    monkeypatch.chdir(old_run)
    images = sorted((sample / "test").glob("*.jpg"))[:8]
    places = ["--cache", old_run / "data/cache", "--results", old_run / "results"]
    code = old_run / "code"
    done = run_script(code, code / "predict5.py", *images, "--csv", old_run / "old.csv", *places)
    assert done.returncode == 0, done.stderr
    predict5.main(predict5.Args(run="old", images=tuple(images), csv=Path("new.csv")))
    old, new = (list(csv.DictReader(Path(name).read_text().splitlines())) for name in ("old.csv", "new.csv"))
    assert len(new) == len(images)
    assert [row["label"] for row in new] == [row["label"] for row in old]
    for row, before in zip(new, old, strict=True):  # now in float32, then in what the machine is fast in
        assert float(row["probability"]) == pytest.approx(float(before["probability"]), rel=1e-2)
    record = checkpoint.load_model(Path("results/old"), torch.device("cpu"))[1]
    assert record["projection"].startswith("48 directions ")
    assert record["arguments"]["low_res"] == record["recipe"]["low_res"] == 0.4


def cached_files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path("data/cache").rglob("*") if path.suffix in (".bin", ".pt")}


def test_old_run_resumes_on_its_own_cache(
    old_run: Path, sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(old_run)
    assert len(read_jsonl(Path("results/old/metrics.jsonl"))) == 1
    before = cached_files()
    assert {path.name.partition("-")[0] for path in before} == {"maps.bin", "directions"}
    train.main(train.Args(run="old", resume=True))
    assert "continuing after epoch 1 of 3" in capsys.readouterr().out
    assert before == {
        path: path.read_bytes() for path in Path("data/cache").rglob("*") if path.suffix in (".bin", ".pt")
    }
    fresh = {"weights": "random", "image_size": 64, "precision": "fp32", "channels": 48, "seed": 3, "epochs": 3}
    train.main(train.Args(data=sample, run="new", low_res=0.4, ignore_duplicates=True, **fresh))
    old, new = (read_jsonl(Path("results", run, "metrics.jsonl")) for run in ("old", "new"))
    for row in (old[0], new[0]):  # the old version fitted its temperature by another rule
        row.pop("calibrated"), row.pop("temperature")
    for part in ("train", "val"):  # and took means in float32, without the macro average
        assert old[0].pop(part) | {"macro_f1": new[0][part]["macro_f1"]} == pytest.approx(new[0].pop(part), abs=1e-6)
    assert old == new


def test_runs_with_another_preprocessing_are_refused(tmp_path: Path) -> None:
    model = ActionNet(2)
    record = {
        "dataset": "x", "data": "x", "classes": ["run", "sit"], "weights": "x", "weights_sha256": "x", "image_size": 64,
        "preprocessing": checkpoint.preprocessing(64), "split": {"train": 2, "val": 2, "test": 2}, "seed": 0,
        "recipe": {}, "arguments": {}, "device": "cpu", "precision": "fp32", "versions": {}, "epoch": 1, "seconds": {},
        "val": {"accuracy": 0.5, "loss": 1.0},
    }  # fmt: skip
    split = {part: {"a.png": "0"} for part in ("train", "val", "test")}
    checkpoint.save_best(tmp_path, model, model.state_dict(), record, split)
    assert checkpoint.load_model(tmp_path, torch.device("cpu"))[1] == record
    for other in ({"version": 2}, {"resize": "the middle square of 7/8 of the short side to 64"}, {}):
        checkpoint.save_best(tmp_path, model, model.state_dict(), record | {"preprocessing": other}, split)
        with pytest.raises(InputError, match=r"best\.pt: trained with the preprocessing of another version"):
            checkpoint.load_model(tmp_path, torch.device("cpu"))
