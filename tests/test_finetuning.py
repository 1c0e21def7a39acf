"""Fine-tuning: one stage on cached features, and the recipe that trains the whole network."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl, small

import predict5
import train
from backbones.imagenet_weights import BackboneWeights
from dataset import EvalTransform, HarDataset, normalise, read_dataset
from model import ActionNet
from runtime.errors import InputError
from training import checkpoint


def test_fine_tuned_stage_is_trained_saved_and_resumed(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrained: BackboneWeights
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"data": kaggle, "unfreeze": "layer4", "views": 1, "snapshots": True}
    train.main(small(**options, run="u", epochs=2))
    model, record, _ = checkpoint.load_model(Path("results/u"), torch.device("cpu"))
    assert model.unfreeze == record["arguments"]["unfreeze"] == "layer4"
    assert torch.equal(model.base_model.layer3[0].conv1.weight, untrained.state["layer3.0.conv1.weight"])
    assert not torch.equal(model.base_model.layer4[0].conv1.weight, untrained.state["layer4.0.conv1.weight"])
    predict5.main(predict5.Args(run="u", precision="fp32"))
    with Path("results/u/test/test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = {sample.name: sample for sample in read_dataset(kaggle).labelled}
    dataset = HarDataset([files[row["filename"]] for row in rows], record["classes"], EvalTransform(64))
    images = normalise(torch.stack([dataset[n][0] for n in range(len(dataset))]))
    with torch.inference_mode():
        highest = model.probabilities(model(images)).max(1).values  # the whole network at once
    assert [float(row["probability"]) for row in rows] == pytest.approx(highest.tolist(), abs=1e-4)
    save = checkpoint.save_snapshot

    def stop_at_second(run: Path, state: dict, epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt
        save(run, state, epoch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_snapshot", stop_at_second)
        train.main(small(**options, run="v", epochs=2))
    assert len(read_jsonl(Path("results/v/metrics.jsonl"))) == 1
    train.main(train.Args(run="v", resume=True))
    one, other = (read_jsonl(Path(f"results/{run}/metrics.jsonl"))[1] for run in "uv")
    assert (one["train"], one["val"]) == (other["train"], other["val"])
    start = model.base_model.layer4[0].conv1.weight.clone()
    checkpoint.load_snapshot(checkpoint.find_snapshots(Path("results/v"))[0], model)
    assert not torch.equal(start, model.base_model.layer4[0].conv1.weight)  # as it was before training
    torch.testing.assert_close(
        model.base_model.layer4[0].conv1.weight, untrained.state["layer4.0.conv1.weight"], rtol=1e-3, atol=1e-4
    )


def test_finetune_recipe_trains_a_head_first_and_continues_where_that_stopped(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.recipe.EPOCHS", 2)  # of the head
    options, write = {"data": kaggle, "recipe": "finetune", "epochs": 1, "run": "f"}, checkpoint.save_last

    def stop_after_first(run: Path, model: ActionNet, state: dict) -> None:
        write(run, model, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_last", stop_after_first)
        train.main(small(**options))
    first = read_jsonl(Path("results/f_head/metrics.jsonl"))
    train.main(small(**options))
    rows = read_jsonl(Path("results/f_head/metrics.jsonl"))
    assert (len(first), len(rows), rows[0]) == (1, 2, first[0])
    best = json.loads(Path("results/f/best.json").read_text())
    assert best["split"] == json.loads(Path("results/f_head/best.json").read_text())["split"]
    assert (best["arguments"]["unfreeze"], best["arguments"]["head"], best["image_size"]) == ("layer1", "f_head", 64)
    assert (best["recipe"]["views"], best["recipe"]["layer_decay"], best["recipe"]["min_crop"]) == (0, 0.7, 0.25)
    before, after = (torch.load(f"results/{run}/best.pt", weights_only=True)["model"] for run in ("f_head", "f"))
    changed = {key for key, value in after.items() if not torch.equal(before[key], value)}
    assert {"base_model.layer1.0.conv1.weight", "base_model.layer4.2.conv3.weight", "conv1.weight"} <= changed
    assert not any(key.startswith("base_model.conv1") or ("base_model" in key and ".bn" in key) for key in changed)


def test_finetuning_takes_the_split_of_its_head_and_refuses_what_it_ignores(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(small(data=kaggle, epochs=1, run="frozen"))
    train.main(small(data=kaggle, epochs=1, run="f", recipe="finetune", head="frozen"))
    one, other = (json.loads(Path(f"results/{run}/split.json").read_text()) for run in ("frozen", "f"))
    assert one == other
    assert not Path("results/f_head").exists()
    with pytest.raises(InputError, match=r"results/f exists; give another name, or --resume"):
        train.main(small(data=kaggle, run="f", recipe="finetune"))  # before a head is trained
    assert not Path("results/f_head").exists()
    with pytest.raises(InputError, match=r"--recipe finetune takes fresh crops: leave --views out"):
        train.main(small(data=kaggle, run="g", recipe="finetune", views=1))
