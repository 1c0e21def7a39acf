"""predict5.py as a user runs it, small: its metrics, tables and predictions."""

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, small, write_rows
from PIL import Image
from sklearn.metrics import f1_score

import predict5
import train
from dataset import normalise, tta_views
from model import ActionNet
from runtime.errors import InputError
from runtime.images import load_image
from training import checkpoint
from training.predictor import Predictor
from training.trained_run import TrainedRun


def test_metrics_follow_from_the_table_of_predictions(trained: Path) -> None:
    folder = trained / "results" / "a" / "test"
    values = json.loads((folder / "metrics.json").read_text())
    with (folder / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    true, predicted = [row["true"] for row in rows], [row["predicted"] for row in rows]
    assert values["n"] == len(rows) == 90
    assert values["accuracy"] == pytest.approx(np.mean([t == p for t, p in zip(true, predicted, strict=True)]))
    assert values["f1"] == pytest.approx(f1_score(true, predicted, average="weighted", zero_division=0))
    assert values["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))
    assert values["accuracy"] <= values["top5_accuracy"] <= 1
    low, high = values["intervals"]["accuracy"]
    assert low < values["accuracy"] < high
    spread = math.sqrt(values["accuracy"] * (1 - values["accuracy"]) / 90)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.3)
    confidence = [float(row["probability"]) for row in rows]
    right = [t == p for t, p in zip(true, predicted, strict=True)]
    for row in values["coverage"]:
        kept = [good for good, value in zip(right, confidence, strict=True) if value >= row["threshold"]]
        assert (row["coverage"], row["accuracy"]) == pytest.approx((len(kept) / 90, np.mean(kept)))
    said = json.loads((folder / "trust.json").read_text())["bins"]
    error = sum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in said) / 90
    assert values["calibration"]["ece"] == pytest.approx(error)
    assert sum(row["n"] * row["confidence"] for row in said) / 90 == pytest.approx(np.mean(confidence), abs=1e-5)
    with (folder / "label_issues.csv").open(newline="") as file:
        issues = list(csv.DictReader(file))
    assert len(issues) == values["label_issues"]
    assert {row["filename"] for row in issues} <= {row["filename"] for row in rows}
    split = json.loads((folder.parent / "split.json").read_text())
    assert sorted(row["filename"] for row in rows) == sorted(split["test"])
    with (folder / "conf_matrix.csv").open(newline="") as file:
        matrix = list(csv.reader(file))
    counts = np.array([line[1:] for line in matrix[1:]], dtype=int)
    assert counts.sum() == 90
    assert np.trace(counts) == round(values["accuracy"] * 90)
    with (folder / "predictions.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 30
    assert set(predictions[0]) == {"filename", "label", "probability"}
    assert all(0 < float(row["probability"]) <= 1 for row in predictions)
    shown = json.loads((folder / "pred.json").read_text())
    assert len(shown) == 5
    assert [row["filename"] for row in shown] == [list(split["test"])[row["index"]] for row in shown]
    for name in ("conf_matrix.png", "pred.png", "mistakes.png", "trust.png", "confused.png"):
        with Image.open(folder / name) as image:
            assert np.asarray(image.convert("L")).std() > 10, name
    assert (trained / "predict5.py.out").read_text(encoding="utf-8").splitlines()[-2].startswith("built-in sample")


def test_printed_losses_say_whether_they_are_calibrated(trained: Path) -> None:
    folder = trained / "results" / "a"
    output = (trained / "predict5.py.out").read_text(encoding="utf-8")
    found = re.search(r"calibrated loss (\S+) .* raw (\S+)\n", output)
    values = json.loads((folder / "test" / "metrics.json").read_text())
    assert float(found[1]) == pytest.approx(values["loss"], abs=1e-4)
    assert float(found[2]) == pytest.approx(values["calibration"]["loss_uncalibrated"], abs=1e-4)
    assert found[1] != found[2]
    best = json.loads((folder / "best.json").read_text())
    trained_output = (trained / "train.py.out").read_text(encoding="utf-8")
    assert f"val   raw loss {best['val']['loss']:.4f}" in trained_output
    assert f"val   calibrated loss {best['calibrated']:.4f}" in trained_output


def test_tta_is_the_mean_probability_over_views(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=kaggle, run="a", epochs=1))
    predict5.main(predict5.Args(run="a", tta=True, precision="fp32"))
    run = Path("results/a")
    with (run / "test_tta" / "test_predictions.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[1]
    model, record, _ = checkpoint.load_model(run, torch.device("cpu"))
    about = json.loads((run / "tta.json").read_text())
    image, shares = load_image(kaggle / row["filename"]), []
    with torch.inference_mode():
        for view in tta_views(64):
            shares.append(model(normalise(view(image))[None])[0].softmax(0))
    assert len(shares) == 3
    mean = torch.stack(shares).mean(0)
    expected = (mean.log() / about["temperature"]).softmax(0)
    assert float(row["probability"]) == pytest.approx(expected.max().item(), abs=1e-4)
    assert row["predicted"] == record["classes"][int(expected.argmax())]
    assert about["epoch"] == record["epoch"]
    assert about["val"]["accuracy"] == pytest.approx(record["val"]["accuracy"], abs=0.15)
    before = (run / "tta.json").stat().st_mtime_ns
    predict5.main(predict5.Args(run="a", tta=True, precision="fp32", images=(kaggle / row["filename"],)))
    assert (run / "tta.json").stat().st_mtime_ns == before
    assert f"{row['predicted']} {float(row['probability']):.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(("views", "full"), [(2, False), (3, True)])
def test_tta_includes_the_full_image_only_where_training_saw_it(views: int, full: bool) -> None:
    record = {"image_size": 320, "recipe": {"views": views}}
    run = TrainedRun(Path(), ActionNet(2), record, {}, torch.device("cpu"), None, Path())
    assert [view.size for view in Predictor(run, tta=True).views] == [320, 320, 320] + [256] * full
    assert [view.size for view in Predictor(run).views] == [320]


def image_of(row: dict[str, str]) -> Path:
    return Path("data/sample") / row["filename"]


def test_any_images_and_folders_are_predicted(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(trained)
    Path("mine").mkdir()
    blobs(0).save("mine/one.png")
    blobs(1).convert("L").save("mine/two.jpg")
    Path("mine/notes.txt").touch()
    args = predict5.Args(images=(Path("mine"), Path("mine/one.png")), csv=Path("mine.csv"), precision="fp32")
    predict5.main(args)
    with Path("mine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == ["mine/one.png", "mine/two.jpg"]
    shown = capsys.readouterr().out
    assert rows[0]["label"] in shown
    assert "note: left out of mine: 1 file(s) that Pillow does not open (notes.txt)" in shown
    with pytest.raises(InputError, match=r"mine/three.png: no such file"):
        predict5.main(predict5.Args(images=(Path("mine/three.png"),)))
    Path("mine/bad.jpg").write_bytes(b"?")
    with pytest.raises(InputError, match=r"mine/bad.jpg"):
        predict5.main(args)


def test_effect_of_duplicate_leakage_is_measured(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sample, "mine")
    with Path("mine/Training_set.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    for name, _ in rows[::2]:
        shutil.copy(Path("mine/train") / name, Path("mine/train") / f"copy_{name}")
    write_rows(Path("mine/Training_set.csv"), [header, *rows, *((f"copy_{name}", label) for name, label in rows[::2])])
    train.main(small(data=Path("mine"), run="leak", epochs=1, ignore_duplicates=True))
    predict5.main(predict5.Args(run="leak", precision="fp32"))
    split = json.loads(Path("results/leak/split.json").read_text())
    with Path("results/leak/test/test_predictions.csv").open(newline="") as file:
        right = {row["filename"]: row["true"] == row["predicted"] for row in csv.DictReader(file)}
    learned = {(Path("mine") / name).read_bytes() for name in split["train"]}
    true = {name: (Path("mine") / name).read_bytes() in learned for name in split["test"]}
    copies = json.loads(Path("results/leak/test/metrics.json").read_text())["copies"]
    for kind, wanted in (("with a copy in training", True), ("without", False)):
        chosen = [right[name] for name, copied in true.items() if copied is wanted]
        assert copies[kind] == {"n": len(chosen), "accuracy": pytest.approx(np.mean(chosen))}
