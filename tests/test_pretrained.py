"""The network in this repository: its file, what loads it, and what makes it."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Script, small

import export
import predict5
import train
import visualize_activations
from backbones.imagenet_weights import load_weights
from backbones.packed import PRETRAINED, SCALE, SMALL, pack, read_packed, unpack, write_packed
from dataset import EvalTransform, normalise, read_dataset
from layouts.parts import EXAMPLES
from model import ActionNet
from runtime.errors import InputError
from runtime.images import load_image
from runtime.options import RunOptions
from training import checkpoint
from training.checkpoint import load_pretrained
from training.trained_run import TrainedRun, load_run

CPU = torch.device("cpu")
EXPECTED = {"drinking.jpg": ("drinking", 0.999), "laughing.jpg": ("laughing", 0.892), "rabbit.jpg": ("hugging", 0.252)}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def probabilities(model: ActionNet, path: Path) -> torch.Tensor:
    with torch.inference_mode():
        image = normalise(EvalTransform(320)(load_image(path, 320)))
        return model.probabilities(model(image[None]))[0]


def test_it_reproduces_its_predictions_and_says_what_it_is() -> None:
    model, record, split = load_pretrained(CPU)
    for name, (label, value) in EXPECTED.items():
        found = probabilities(model, EXAMPLES / name)
        assert record["classes"][found.argmax()] == label
        assert found.max().item() == pytest.approx(value, abs=0.005)
    assert len(record["classes"]) == 15
    assert [len(split[part]) for part in ("train", "val", "test")] == [6855, 1710, 1515]
    assert record["test"]["accuracy"] == pytest.approx(record["rounding"]["float_accuracy"], abs=0.003)
    card = (PRETRAINED.parent / "README.md").read_text(encoding="utf-8")
    assert f"**{record['test']['accuracy']:.1%}**" in card
    for name, row in record["test"]["per_class"].items():
        assert f"| {name} | {row['precision']:.1%} (" in card
    assert not re.search(r'"/\w', json.dumps(record))  # no path of a machine


def test_it_reproduces_its_predictions_of_held_out_photographs(har: Path) -> None:
    stored = read_packed(PRETRAINED)[1]["test_predictions"]  # in the order of the dataset's CSV
    model, _, split = load_pretrained(CPU)
    names = [sample.name for sample in read_dataset(har).train if sample.name in split["test"]]
    assert len(names) == len(stored)
    chosen = range(0, len(names), 101)
    found = [int(probabilities(model, har / names[index]).argmax()) for index in chosen]
    assert found == [stored[index] for index in chosen]


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    content = bytearray(PRETRAINED.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"net\.safetensors: damaged"):
        read_packed(path)
    path.write_bytes(content[:-1000])
    with pytest.raises(InputError, match=r"net\.safetensors: not a packed network"):
        read_packed(path)
    changed = PRETRAINED.read_bytes().replace(b'\\"drinking\\"', b'\\"thinking\\"', 1)
    path.write_bytes(changed)
    with pytest.raises(InputError, match=r"net\.safetensors: damaged"):
        read_packed(path)


def test_packing_rounds_to_the_nearest_level_and_keeps_small_tensors(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(64, 100, 3, 3, generator=generator)
    large[5] = 0
    state = {"large": large, "small": torch.randn(4, 3, 3, 3, generator=generator), "bias": torch.randn(7)}
    assert large.numel() >= SMALL
    write_packed(tmp_path / "x.safetensors", state, {"a": [1, "é"]})
    found, about = read_packed(tmp_path / "x.safetensors")
    assert about == {"a": [1, "é"]}
    assert found.keys() == state.keys()
    assert torch.equal(found["small"], state["small"])
    assert torch.equal(found["bias"], state["bias"])
    step = large.abs().amax((1, 2, 3)) / 127
    assert torch.all((found["large"] - large).abs() <= step[:, None, None, None] / 2 + 1e-7)
    assert torch.equal(found["large"][5], large[5])
    assert torch.equal(unpack(pack(found))["large"], found["large"])  # rounding again changes nothing
    assert pack(state)["large" + SCALE].shape == (64,)


def test_its_backbone_trains_where_no_other_weights_can_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "npm_config_registry"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens on the discard port
    named, found = load_weights("pretrained"), load_weights("auto")
    assert "taking those in this repository" in capsys.readouterr().out
    model, record, _ = load_pretrained(CPU)
    assert found.sha256 == named.sha256 == record["weights_sha256"]
    assert found.name == record["weights"]
    assert found.stride_on == model.stride_on == "conv1"
    assert torch.equal(found.state["layer4.2.conv3.weight"], model.base_model.layer4[2].conv3.weight)


def test_images_are_predicted_without_any_run(empty: Path, capsys: pytest.CaptureFixture) -> None:
    predict5.main(predict5.Args(images=(EXAMPLES,), device="cpu"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pretrained network (no finished run in results/): HAR, 15 classes, test accuracy 78.0%")
    assert re.search(r"drinking\.jpg +drinking 1\.00", "\n".join(lines))
    assert re.search(r"rabbit\.jpg +not sure: hugging 0\.25", "\n".join(lines))
    written = json.loads(Path("results/pretrained/images/predictions.json").read_text())["images"]
    assert [Path(row["filename"]).name for row in written] == list(EXPECTED)
    assert [row["sure"] for row in written] == [True, True, False]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4) for row in written)
    run = load_run(RunOptions(run="pretrained"), CPU)
    for row in written:
        prediction, _ = visualize_activations.predict(run, run.file_example(Path(row["filename"])), [])
        assert prediction.by_class == pytest.approx(row["probabilities"], abs=1e-4)  # of all scripts the same
    with pytest.raises(InputError, match="comes without its images"):
        predict5.main(predict5.Args())


def test_folders_named_after_classes_are_measured(empty: Path, capsys: pytest.CaptureFixture) -> None:
    for folder, name in (("drinking", "drinking.jpg"), ("drinking", "rabbit.jpg"), ("mine", "laughing.jpg")):
        (empty / "own" / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLES / name, empty / "own" / folder / name)
    (empty / "own" / "drinking" / "deep").mkdir()
    (empty / "own" / "drinking" / "rabbit.jpg").rename(empty / "own" / "drinking" / "deep" / "rabbit.jpg")
    predict5.main(
        predict5.Args(images=(Path("own"), empty / "own" / "drinking"), threshold=0.9, top_k=15, device="cpu")
    )
    output = capsys.readouterr().out
    assert "labelled images: 2 images" in output
    assert "accuracy        0.5000" in output
    assert re.search(r"laughing\.jpg +not sure: laughing 0\.89", output)
    metrics = json.loads(Path("results/pretrained/images/metrics.json").read_text())
    assert (metrics["n"], metrics["per_class"]["drinking"]["recall"]) == (2, 0.5)
    rows = json.loads(Path("results/pretrained/images/predictions.json").read_text())["images"]
    assert [row["true"] for row in rows] == ["drinking", "drinking", None]


def test_the_newest_finished_run_answers(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    for name, finished in (("old", True), ("new", True), ("interrupted", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best.pt").touch()
        if finished:
            (tmp_path / name / "loss.png").touch()
    for seconds, name in enumerate(("old", "new", "interrupted")):
        os.utime(tmp_path / name / "best.pt", (1e9 + seconds, 1e9 + seconds))
    assert checkpoint.newest(tmp_path) == tmp_path / "new"
    assert checkpoint.find_run(tmp_path, "interrupted") == tmp_path / "interrupted"


def test_a_network_of_drawings_warns_of_photographs(work: Path, capsys: pytest.CaptureFixture) -> None:
    drawing = Path("data/sample") / json.loads(Path("results/a/split.json").read_text())["test"][0]
    predict5.main(predict5.Args(images=(drawing,), run="a"))
    found = capsys.readouterr()
    assert "warning" not in found.err
    assert re.search(r"^run a: built-in sample, 15 classes, validation accuracy \d+\.\d%, epoch \d; random", found.out)
    predict5.main(predict5.Args(images=(EXAMPLES / "drinking.jpg",), run="a"))
    assert "warning: a network with an untrained backbone predicts; on photographs" in capsys.readouterr().err
    run = load_run(RunOptions(run="a"), CPU)
    example = run.file_example(EXAMPLES / "drinking.jpg")
    prediction, _ = visualize_activations.predict(run, example, [])
    assert prediction.summary.endswith("%) by a network with an untrained backbone")
    drawn = {**run.record, "weights": "real ones"}
    assert TrainedRun(Path(), run.model, drawn, {}, CPU, None, Path()).caution == "a network trained on drawings"


def test_export_packs_and_tests_a_run(sample: Path, empty: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(sample, "mine")
    (empty / "mine" / "dataset.json").unlink()  # somebody's dataset, and no drawings
    train.main(small(data=Path("mine"), run="r", epochs=1))
    export.main(export.Args(pretrained="r", out=Path("packed")))
    path = Path("packed") / PRETRAINED.name
    model, record, split = load_pretrained(CPU, path)
    own, _, own_split = checkpoint.load_model(Path("results/r"), CPU)
    assert split == own_split
    assert record["data"] is None
    assert "results" not in record["arguments"]
    assert model.temperature == own.temperature
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (model(image) - own(image)).abs().max() < 0.05 * own(image).abs().max() + 0.05
    names = list(split["test"])
    assert len(read_packed(path)[1]["test_predictions"]) == len(names) == record["test"]["n"]
    assert "# Pretrained network" in Path("packed/README.md").read_text(encoding="utf-8")
    assert f"of {len(names)} predictions differ" in capsys.readouterr().out
    with pytest.raises(InputError, match="--run pretrained: is the name of the network in this repository"):
        train.main(small(run="pretrained"))


def test_scripts_answer_in_an_empty_folder(empty: Path, script: Script) -> None:
    done = script(empty, "visualize_activations.py", "--seed", 1)
    assert done.returncode == 0, done.stderr
    assert list((empty / "activations").glob("grid_*.png"))
    assert done.stdout.startswith("pretrained network")
