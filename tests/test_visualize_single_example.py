"""visualize_single_example.py, run small: its numbers are the network's, its folder is complete or stays as it was."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Script, blobs
from pages import not_blank
from processes import RunningScript

import visualize_single_example as single
from dataset import EvalTransform, normalise
from hooks import record
from inspection import attribution
from inspection.layer_names import friendly
from model import ActionNet
from runtime.errors import InputError
from runtime.files import write_folder
from runtime.images import load_image
from training import checkpoint


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_folder_of_a_test_image_is_complete(trained: Path, script: Script) -> None:
    done = script(trained, "visualize_single_example.py", "--index", 5)
    assert done.returncode == 0, done.stderr
    folder = next((trained / "activations").glob("test_5_*"))
    about = manifest_of(folder)
    split = json.loads((trained / "results/a/split.json").read_text())
    epoch = json.loads((trained / "results/a/best.json").read_text())["epoch"]
    assert about["image"] == split["test"][5]
    assert folder.name == f"test_5_{Path(about['image']).stem}"
    assert sum(about["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert about["predicted"] == max(about["probabilities"], key=about["probabilities"].get)
    assert {path.name for path in folder.glob("*.png")} == set(about["files"])
    for name, numbers in about["files"].items():
        assert (folder / numbers).is_file(), numbers
        not_blank(folder / name)
    of_layers = f"epoch{epoch}_batch5"
    for layer in (
        "base_model_conv1", "base_model_layer1_block1_conv1", "base_model_layer1_block1_relu2", "conv1", "fc",
    ):  # fmt: skip
        assert f"activation_{of_layers}_layer_{layer}.png" in about["files"]
    for name in (
        "originalimage_5", "probabilities_5", f"kernels_{of_layers}_layer_base_model_conv1",
        f"kernels_{of_layers}_layer_conv2", f"histograms_{of_layers}", "gradients", "cam", "overview",
    ):  # fmt: skip
        assert f"{name}.png" in about["files"]
    assert "\ntest image 5 (--index 5): true " in f"\n{done.stdout}"
    assert about["image"] not in done.stdout  # train/Image_….jpg, which would read as an image of the training
    model, _, _ = checkpoint.load_model(trained / "results/a", torch.device("cpu"))
    logits = np.load(folder / f"activation_{of_layers}_layer_fc.npy")  # of the image, not of one that occlusion covered
    probabilities = model.probabilities(torch.from_numpy(logits)).tolist()
    assert list(about["probabilities"].values()) == pytest.approx(probabilities, abs=1e-5)


def test_numbers_equal_a_forward_pass_by_hand(work: Path) -> None:
    file = next((work / "data/sample/test").glob("*.jpg"))
    layers = ("base_model.layer1.0.bn1", "base_model_layer1_block1_relu1", "conv2", "relu2", "fc")
    args = single.Args(image=file, true_class="running", layers=layers, channels=(9, 2, 200), attribution="none")
    single.main(args)
    folder = Path("activations") / file.stem
    about = manifest_of(folder)
    model, record_of_run, _ = checkpoint.load_model(Path("results/a"), torch.device("cpu"))
    images = normalise(EvalTransform(64)(load_image(file)))[None]
    with torch.inference_mode(), record(model, layers) as acts:
        logits = model(images)
    best = f"activation_epoch{record_of_run['epoch']}_batch{file.stem}_layer"
    for layer, name in (
        ("base_model.layer1.0.bn1", "base_model_layer1_block1_bn1"),
        ("base_model.layer1.0.relu#1", "base_model_layer1_block1_relu1"),
        ("conv2", "conv2"),
        ("relu2", "relu2"),
    ):
        stored = np.load(folder / f"{best}_{name}.npy")
        assert np.allclose(stored, acts[layer][0].numpy(), atol=1e-5), layer
        there = [channel for channel in (9, 2, 200) if channel < len(stored)]
        assert about["layers"][layer] == {"shape": list(stored.shape), "channels": there}
    assert np.allclose(np.load(folder / f"{best}_fc.npy"), logits[0].numpy(), atol=1e-5)
    kernels = np.load(folder / f"{best.replace('activation', 'kernels')}_conv2.npz")
    weight = model.conv2.weight.detach()
    assert np.array_equal(kernels["inputs"], weight.flatten(2).norm(dim=2).argsort(descending=True)[:, :8])
    assert np.array_equal(kernels["slices"][7, 2], weight[7, kernels["inputs"][7, 2]])
    probabilities = dict(zip(record_of_run["classes"], model.probabilities(logits[0]).tolist(), strict=True))
    assert about["probabilities"] == pytest.approx(probabilities, abs=1e-5)
    stats = json.loads(next(folder.glob("histograms_*.json")).read_text())
    assert sum(stats["relu2"]["counts"]) == stats["relu2"]["n"] == acts["relu2"].numel()
    gradients = json.loads((folder / "gradients.json").read_text())
    slopes = logits[0].softmax(0)  # of cross-entropy, which knows no temperature
    slopes[record_of_run["classes"].index("running")] -= 1
    assert (gradients["fc"]["min"], gradients["fc"]["max"]) == pytest.approx(
        (slopes.min().item(), slopes.max().item()), rel=1e-3
    )
    cam = np.load(folder / "cam.npy")
    assert cam.shape == (len(about["cam"]), 2, 64, 64)
    expected = attribution.grad_cam(model, "relu2", images[0], int(logits.argmax()))
    assert np.allclose(cam[0, 1], expected.numpy(), atol=1e-6)


def test_all_layers_can_be_plotted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One in thirteen is plotted here, and the head's."""
    names = single.leaf_layers(ActionNet(15))
    assert len(names) == 134  # a ReLU that is called three times counts once
    monkeypatch.setattr(single, "leaf_layers", lambda model: names[::13] + names[-10:])
    single.main(single.Args(index=0, all_layers=True, tiles=8, attribution="integrated-gradients", out=Path("all")))
    folder = next(Path("all").iterdir())
    about = manifest_of(folder)
    drawn = {path.name for path in folder.glob("activation_*.png")}
    assert len(drawn) == len(about["layers"]) > len(set(names[::13] + names[-10:]))
    kernels = {name.rpartition("_layer_")[2] for name in about["files"] if name.startswith("kernels_")}
    assert kernels >= {f"{friendly(name)}.png" for name in about["layers"] if "conv" in name}
    assert about["cam"][0]["methods"][-1] == "integrated gradients"


def test_folder_of_another_format_takes_the_place_of_the_first(work: Path) -> None:
    quick = {"index": 4, "layers": ("conv2", "relu2"), "attribution": "none", "out": Path("formats")}
    for form, other in (("png", "pdf"), ("pdf", "png")):
        single.main(single.Args(format=form, dpi=60, **quick))
        (folder,) = Path("formats").iterdir()
        files = manifest_of(folder)["files"]
        assert {path.name for path in folder.glob(f"*.{form}")} == set(files)
        assert {"overview", "cam", "gradients", "originalimage_4"} <= {Path(name).stem for name in files}
        assert all((folder / numbers).is_file() for numbers in files.values())
        assert not list(folder.glob(f"*.{other}"))


def test_interrupted_process_leaves_the_old_folder(work: Path) -> None:
    """A second process is stopped while it plots; the earlier folder stays complete, and nothing is left beside it."""
    out = work / "cut"
    single.main(single.Args(index=3, out=out, layers=("fc",), attribution="none"))
    (folder,) = out.iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    running = RunningScript(work, "visualize_single_example.py", "--index", 3, "--out", out, "--all-layers")
    while running.process.is_alive() and not list(out.glob(".*/activation_*.png")):
        time.sleep(0.05)
    running.process.terminate()
    done = running.finish()
    assert "stopped" in done.stderr
    assert done.returncode == 130
    assert list(out.iterdir()) == [folder]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_folder_with_other_files_is_not_replaced(work: Path) -> None:
    Path("one").mkdir(exist_ok=True)
    Path("two").mkdir(exist_ok=True)
    blobs(1, (80, 64)).save("one/mine.png")
    blobs(2, (80, 64)).save("two/mine.png")
    quick = {"layers": ("fc",), "attribution": "none", "out": Path("kept")}
    single.main(single.Args(image=Path("one/mine.png"), **quick))
    single.main(single.Args(image=Path("one/mine.png"), **quick))  # the same image again
    with pytest.raises(InputError, match=r"kept/mine: holds another image of that name; .*--out"):
        single.main(single.Args(image=Path("two/mine.png"), **quick))
    Path("kept/mine/notes.txt").write_text("observations")
    with pytest.raises(InputError, match=r"kept/mine: holds a file that is not ours \(notes.txt\)"):
        single.main(single.Args(image=Path("one/mine.png"), **quick))
    assert Path("kept/mine/notes.txt").read_text() == "observations"


def test_folder_is_replaced_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of the two renames fails; then a process dies between them, and the next one recovers."""
    folder = tmp_path / "it"
    with write_folder(folder) as partial:
        (partial / "a").write_text("first")
    steps = iter((os.replace, None, os.replace))

    def failing(source: Path, target: Path) -> None:
        step = next(steps)
        if step is None:
            raise OSError("no space")
        step(source, target)

    monkeypatch.setattr("runtime.files.os.replace", failing)
    with pytest.raises(OSError, match="no space"), write_folder(folder) as partial:
        (partial / "a").write_text("second")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert (folder / "a").read_text() == "first"
    folder.rename(tmp_path / ".it.0123abcd.old")
    with pytest.raises(ZeroDivisionError), write_folder(folder):
        raise ZeroDivisionError
    assert (folder / "a").read_text() == "first"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": 90}, r"--index 90: the test set has 90 images, 0 to 89"),
        ({"index": 1, "seed": 2}, r"--index and --seed both choose"),
        ({"image": Path("nowhere.jpg")}, r"nowhere.jpg: no such file"),
        ({"file": Path("nowhere.jpg")}, r"nowhere.jpg: no such file"),
        ({"file": Path("x.jpg"), "index": 1}, r"IMAGE and --index both choose the image"),
        ({"true_class": "running"}, r"--true-class goes with IMAGE"),
        ({"index": 1, "layers": ("conv9",)}, r"layer conv9: the model has no layer of that name; similar: conv"),
        ({"index": 1, "layers": ("relu2",), "channels": (256,)}, r"--channels 256: .* have at most 256 channels"),
        ({"index": 1, "layers": ("base_model.layer1.0.relu#4",)}, r"relu#4: called only 3 times"),
        ({"index": 1, "tiles": 0}, r"--tiles 0: must be 1 or more"),
        ({"index": 1, "run": "none"}, r"--run none: .*runs that have one: "),
    ],
)
def test_wrong_input_is_named(work: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        single.main(single.Args(out=Path("wrong"), **options))
    assert not Path("wrong").exists()
