"""train.py as a user runs it, small: what it leaves behind, resuming, and wrong input."""

import csv
import json
import math
import shutil
import time
from pathlib import Path

import pytest
import torch
from conftest import NARROW, Script, blobs, read_jsonl, small
from PIL import Image
from processes import RunningScript

import predict5
import train
from backbones.imagenet_weights import BackboneWeights
from dataset import EvalTransform, HarDataset, normalise, read_dataset
from evaluation.calibration import fit_temperature
from evaluation.metrics import summarise
from runtime.errors import InputError
from sample.build import ensure_sample
from training import checkpoint
from training.recipe import Recipe


def test_training_writes_its_numbers(trained: Path) -> None:
    run = trained / "results" / "a"
    best = json.loads((run / "best.json").read_text())
    rows = read_jsonl(run / "metrics.jsonl")
    assert best["dataset"] == "built-in sample"
    assert "random" in best["weights"]
    assert len(best["classes"]) == 15
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    winner = min(rows, key=lambda row: row["calibrated"])
    assert {key: best[key] for key in ("epoch", "train", "val")} == {
        key: winner[key] for key in ("epoch", "train", "val")
    }
    assert set(best["val"]) == {"loss", "accuracy", "precision", "recall", "f1", "macro_f1"}
    assert {"check", "features", "training", "sample", "weights"} <= set(best["seconds"])
    split = json.loads((run / "split.json").read_text())
    assert (len(split["test"]), len(split["val"]), len(split["train"])) == (90, 105, 405)
    with Image.open(run / "loss.png") as curves:
        assert curves.size[0] > 800
    output = (trained / "train.py.out").read_text(encoding="utf-8")
    assert "prepare_data.py" in output  # how to get the real set
    assert output.splitlines()[-2].startswith("built-in sample")


def test_checkpoint_opens_safely_and_reproduces_validation(trained: Path) -> None:
    run = trained / "results" / "a"
    content = torch.load(run / "best.pt", weights_only=True)
    assert content["record"]["epoch"] == json.loads((run / "best.json").read_text())["epoch"]
    model, record, split = checkpoint.load_model(run, torch.device("cpu"))
    assert not model.training
    assert {part: list(names) for part, names in split.items()} == json.loads((run / "split.json").read_text())
    data = {sample.name: sample for sample in read_dataset(trained / "data" / "sample").train}
    dataset = HarDataset([data[name] for name in split["val"]], record["classes"], EvalTransform(64))
    images, targets = zip(*(dataset[n] for n in range(len(dataset))), strict=True)
    with torch.inference_mode():
        logits = model(normalise(torch.stack(images)))
    again = summarise(logits, torch.tensor(targets))
    assert again["loss"] == pytest.approx(record["val"]["loss"], rel=0.02)  # training read the maps in bfloat16
    assert again["accuracy"] == pytest.approx(record["val"]["accuracy"], abs=0.03)
    assert record["temperature"] == pytest.approx(fit_temperature(logits, torch.tensor(targets)), rel=0.05)
    torch.testing.assert_close(model.probabilities(logits), (logits / record["temperature"]).softmax(1))


def test_interrupted_run_resumes_to_the_same_numbers(trained: Path, script: Script) -> None:
    """A second process is killed after its second epoch; --resume then writes the numbers of the run that was not."""
    metrics = trained / "results" / "cut" / "metrics.jsonl"
    running = RunningScript(trained, "train.py", *NARROW, "--epochs", 4, "--run", "cut")
    while running.process.is_alive() and not (metrics.exists() and len(read_jsonl(metrics)) >= 2):
        time.sleep(0.02)
    running.process.kill()
    running.finish()
    assert len(read_jsonl(metrics)) < 4
    again = script(trained, "train.py", "--resume", "--run", "cut")
    assert again.returncode == 0, again.stderr
    assert "continuing after epoch" in again.stdout
    assert metrics.read_bytes() == (trained / "results/a/metrics.jsonl").read_bytes()


def test_a_run_stopped_within_its_first_epoch_starts_anew(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=kaggle, run="whole"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_last", stop)
        train.main(small(data=kaggle, run="cut"))
    folder = Path("results/cut")
    assert (folder / "best.pt").exists()
    (folder / ".123.last.pt").write_text("half")  # as SIGKILL leaves it
    train.main(small(data=kaggle, run="cut"))
    assert (folder / "metrics.jsonl").read_bytes() == Path("results/whole/metrics.jsonl").read_bytes()
    assert not list(folder.glob(".*"))
    for name in ("last.pt", "loss.png", "network.png", "network.json"):  # somebody kept the network alone
        (folder / name).unlink(missing_ok=True)
    record = json.loads((folder / "best.json").read_text())
    (folder / "best.json").write_text(json.dumps(record | {"epoch": 2}))
    with pytest.raises(InputError, match=r"--run cut: results/cut exists; give another name, or delete it"):
        train.main(small(data=kaggle, run="cut"))


def test_other_worker_counts_write_the_same_bytes(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On caches of their own, with random crops in them."""
    monkeypatch.chdir(tmp_path)
    for workers in (0, 1, 3):
        name = f"w{workers}"
        train.main(small(data=kaggle, views=2, workers=workers, run=name, cache=Path(name), no_report=True))
    first, *others = (Path(f"results/w{workers}/metrics.jsonl").read_bytes() for workers in (0, 1, 3))
    assert others == [first, first]


def test_second_run_reuses_cached_features(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(trained)
    before = {path: path.stat().st_mtime_ns for path in Path("data/cache").glob("maps-*/maps.bin")}
    train.main(small(run="b", epochs=1, seed=0, channels=64))
    assert len(before) == Recipe().views
    assert before == {path: path.stat().st_mtime_ns for path in Path("data/cache").glob("maps-*/maps.bin")}
    with pytest.raises(InputError, match=r"results/b exists; give another name, or --resume"):
        train.main(small(run="b"))
    with pytest.raises(InputError, match=r"own --epochs; leave it out"):
        train.main(train.Args(run="b", resume=True, epochs=7))
    shutil.rmtree("results/b")  # other tests take the newest run of this folder


def test_int8_model_is_calibrated_once_and_reused_by_predict5(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"data": kaggle, "precision": "int8", "epochs": 1, "views": 1, "cache": Path("cache")}
    train.main(small(**options, run="q"))
    models = {path: path.stat().st_mtime_ns for path in Path("cache").glob("int8-*/*")}
    assert models
    assert json.loads(Path("results/q/best.json").read_text())["precision"].startswith("int8 ")
    predict5.main(predict5.Args(run="q", cache=Path("cache")))
    with Path("results/q/test/test_predictions.csv").open(newline="") as file:
        int8 = [float(row["probability"]) for row in csv.DictReader(file)]
    predict5.main(predict5.Args(run="q", cache=Path("cache"), precision="fp32"))
    with Path("results/q/test/test_predictions.csv").open(newline="") as file:
        fp32 = [float(row["probability"]) for row in csv.DictReader(file)]
    assert int8 != fp32
    assert int8 == pytest.approx(fp32, abs=0.1)
    assert models == {path: path.stat().st_mtime_ns for path in Path("cache").glob("int8-*/*")}


def test_head_is_copied_only_from_a_run_on_the_same_split(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=kaggle, views=1, run="frozen", epochs=3))
    options = {"data": kaggle, "views": 1, "unfreeze": "layer4", "head": "frozen", "epochs": 1}
    train.main(small(**options, lr=1e-9, run="tuned"))  # a rate at which nothing moves
    frozen, tuned = (checkpoint.load_model(Path("results", run), torch.device("cpu"))[0] for run in ("frozen", "tuned"))
    for layer in ("conv1", "conv2", "fc"):
        weights = [getattr(model, layer).weight for model in (tuned, frozen)]
        torch.testing.assert_close(*weights, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"--head frozen: .* has other images or another --seed"):
        train.main(small(**options, seed=1, run="leak"))
    with pytest.raises(InputError, match=r"--head nothing: .* has no best.pt; runs that have one: frozen, tuned"):
        train.main(small(**options | {"head": "nothing"}, run="leak"))
    assert not Path("results/leak").exists()


def test_plain_recipe_trains_without_a_cache(kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=kaggle, recipe="plain", epochs=1, run="p"))
    best = json.loads(Path("results/p/best.json").read_text())
    assert best["recipe"]["batch_size"] == 32
    assert best["recipe"]["optimizer"] == "adam"
    assert math.isfinite(best["val"]["loss"])
    assert not list(Path("data/cache").glob("maps-*"))
    last = torch.load("results/p/last.pt", weights_only=True)
    del last["state"]["history"][0]["calibrated"]  # as it was before
    torch.save(last, "results/p/last.pt")
    with pytest.raises(
        InputError, match=r"cannot resume results/p: its features are missing .* older version; start a new run"
    ):
        train.main(train.Args(run="p", resume=True))


def test_small_set_keeps_all_channels_and_val_share_decides_sizes(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=sample, epochs=1, run="s", val_share=0.4))
    best = json.loads(Path("results/s/best.json").read_text())
    assert (best["recipe"]["channels"], best["recipe"]["channel_dropout"], best["projection"]) == (0, 0.2, "")
    assert [best["split"][part] for part in ("train", "val", "test")] == [60, 45, 15]
    assert train.Args().resolve_recipe(2000)[0].channels == 512
    assert train.Args(channels=64).resolve_recipe(10)[0].channels == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": Path("nowhere")}, r"nowhere: no such folder"),
        ({"recipe": "plain", "mixup": 0.2}, r"--recipe plain fixes --mixup at 0.0; leave --mixup out"),
        ({"views": 0, "low_res": 0.5}, r"--low-res needs cached features"),
        ({"layer_decay": 0.5}, r"--layer-decay is for fine-tuned stages"),
        ({"unfreeze": "layer4", "low_res": 0.5}, r"--low-res needs .* a frozen backbone"),
        ({"views": 0, "channels": 64}, r"--channels needs cached features"),
        ({"views": 0, "precision": "int8"}, r"--precision int8 needs cached features"),
        ({"image_size": 100}, r"--image-size 100: must be a multiple of 32"),
        ({"dropout": 1.5}, r"--dropout 1.5: must be 0 to 1"),
        ({"epochs": 0}, r"--epochs 0: must be above 0"),
        ({"run": "a/b"}, r"--run a/b: must be a name of letters"),
        ({"run": ".."}, r"--run ..: must be a name of letters"),
        ({"val_share": 1.0}, r"--val-share 1.0: must be between 0 and 1"),
        ({"seed": -1}, r"--seed -1: must be 0 or more"),
        ({"weights": "nothing.pth"}, r"nothing.pth: no such file"),
        ({"device": "cuda:99"}, r"--device cuda:99"),
        ({"resume": True}, r"no run has a last.pt"),
    ],
)
def test_wrong_input_is_named_and_leaves_nothing(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        train.main(small(**{"data": sample} | options))
    assert not Path("results").exists() or not list(Path("results").iterdir())


def test_wrong_run_ends_with_one_line(tmp_path: Path, script: Script) -> None:
    done = script(tmp_path, "predict5.py", "--run", "nothing")
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == f"error: --run nothing: {Path('results/nothing')} has no best.pt; runs that have one: none"
    )


def test_changed_images_are_refused(kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(kaggle, "mine")
    train.main(small(data=Path("mine"), epochs=1, run="c", precision="bf16"))
    train.main(train.Args(run="c", resume=True))  # finished: says so, and changes nothing
    best = json.loads(Path("results/c/best.json").read_text())
    assert best["seconds"]["training"] > 0
    tested = json.loads(Path("results/c/split.json").read_text())["test"][0]
    blobs(5, (200, 150)).save(Path("mine") / tested)
    with pytest.raises(
        InputError,
        match=rf"{tested} and 0 other test images have changed since this run was trained\. Pass the original",
    ):
        predict5.main(predict5.Args(run="c", precision="fp32"))
    with pytest.raises(InputError, match=r"the dataset has changed since the run began"):
        train.main(train.Args(run="c", resume=True))


def test_imagenet_features_separate_the_drawn_actions(
    imagenet: BackboneWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few and small images: far above one in fifteen, but not all of them."""
    monkeypatch.chdir(tmp_path)
    ensure_sample(Path("drawn"), per_class=12)
    train.main(train.Args(data=Path("drawn"), image_size=128, epochs=6, views=1, batch_size=32, run="i"))
    predict5.main(predict5.Args())
    assert 0.4 < json.loads(Path("results/i/test/metrics.json").read_text())["accuracy"] < 1  # 0.67 and 0.6 by seed
