"""The two scripts that look inside, run small: their numbers are right, their pages hold, and nothing is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Script, picture
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

import train
import visualize_activations as grids
import visualize_single_example as single
from dataset import EvalTransform, load_image, normalise
from figures import comparison as comparison_pages
from figures import connections
from figures import example as example_pages
from figures import grid as grid_page
from figures import layers as layer_pages
from figures import network as network_page
from figures.example import Attribution, Prediction
from figures.page import DPI, Page
from hooks import as_maps, leaf_layers, record
from inspection.examples import file_example
from inspection.layer_stats import histogram, kernel_tiles
from model import ActionNet
from runtime.errors import InputError
from runtime.files import write_folder
from training import checkpoint
from training.recipe import IMAGE_SIZE


@pytest.fixture
def work(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the trained run, as the current one, where every page that is saved is checked first."""
    monkeypatch.chdir(trained)
    save = Page.save

    def checked(sheet: Page, path: Path) -> None:
        save(sheet, path)
        check_page(sheet, path)

    monkeypatch.setattr(Page, "save", checked)
    return trained


def check_page(sheet: Page, path: Path) -> None:
    """Everything lies on the page; no words, no pictures and no diagrams with their labels overlap."""
    renderer = sheet.figure.canvas.get_renderer()
    high, wide = sheet.height * DPI, sheet.width * DPI
    things = {}
    for number, (top, left, pixels) in enumerate(sheet.pasted):
        things[f"picture {number}"] = Bbox([[left, high - top - len(pixels)], [left + pixels.shape[1], high - top]])
    for number, text in enumerate(sheet.axes.texts):
        if text.get_text():
            things[f"words {number}: {text.get_text()!r}"] = Text.get_window_extent(text, renderer)
    for number, axes in enumerate(sheet.figure.axes[1:]):
        things[f"diagram {number}"] = axes.get_tightbbox(renderer)
        inside = [Text.get_window_extent(text, renderer) for text in axes.texts]
        assert not any(overlap(one, other) for one, other in combinations(inside, 2)), (path.name, number)
    for name, box in things.items():
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < wide + 1 and box.y1 < high + 1, f"{path.name}: {name} is cut"
    for (one, box), (other, second) in combinations(things.items(), 2):
        assert not overlap(box, second), f"{path.name}: {one} lies over {other}"


def overlap(one: Bbox, other: Bbox, slack: float = 1.5) -> bool:
    """Whether two boxes share more than a seam of `slack` pixels."""
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    return wide > slack and min(one.y1, other.y1) - max(one.y0, other.y0) > slack


def not_blank(path: Path) -> None:
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5, path


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_one_picture_leaves_its_story(trained: Path, script: Script) -> None:
    done = script(trained, "visualize_single_example.py", "--index", 5)
    assert done.returncode == 0, done.stderr
    folder = next((trained / "activations").glob("train_*"))
    about = manifest_of(folder)
    split = json.loads((trained / "results/a/split.json").read_text())
    epoch = json.loads((trained / "results/a/best.json").read_text())["epoch"]
    assert about["image"] == split["test"][5]
    assert sum(about["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert about["predicted"] == max(about["probabilities"], key=about["probabilities"].get)
    assert {path.name for path in folder.glob("*.png")} == set(about["files"])
    for name, numbers in about["files"].items():
        assert (folder / numbers).is_file(), numbers
        not_blank(folder / name)
    for layer in (
        "base_model_conv1",
        "base_model_layer1_block1_conv1",
        "base_model_layer1_block1_relu2",
        "conv1",
        "fc",
    ):
        assert f"activation_epoch{epoch}_batch5_layer_{layer}.png" in about["files"]
    for name in ("originalimage_5", "probabilities_5", "kernels_base_model_conv1", "kernels_conv2", "histograms",
                 "gradients", "cam", "overview"):  # fmt: skip
        assert f"{name}.png" in about["files"]
    assert about["image"] in done.stdout
    assert "--index 5" in done.stdout


def test_the_numbers_are_those_of_the_network(work: Path) -> None:
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
    assert np.array_equal(np.load(folder / "kernels_conv2.npy"), kernel_tiles(model.conv2).numpy())
    probabilities = dict(zip(record_of_run["classes"], model.probabilities(logits[0]).tolist(), strict=True))
    assert about["probabilities"] == pytest.approx(probabilities, abs=1e-5)
    stats = json.loads((folder / "histograms.json").read_text())
    assert sum(stats["relu2"]["counts"]) == stats["relu2"]["n"] == acts["relu2"].numel()
    gradients = json.loads((folder / "gradients.json").read_text())
    slopes = logits[0].softmax(0)  # of cross-entropy, which knows no temperature
    slopes[record_of_run["classes"].index("running")] -= 1
    assert (gradients["fc"]["min"], gradients["fc"]["max"]) == pytest.approx(
        (slopes.min().item(), slopes.max().item()), rel=1e-3
    )
    assert np.load(folder / "cam.npy").shape == (len(about["cam"]), 2, 64, 64)


def test_every_layer_can_be_shown(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are recorded; one in seven is drawn here, from every kind of layer."""
    names = single.leaf_layers(ActionNet(15))
    assert len(names) == 134  # ReLUs that are called three times stand once
    monkeypatch.setattr(single, "leaf_layers", lambda model: names[::7] + names[-10:])
    single.main(single.Args(index=0, all_layers=True, tiles=8, attribution="integrated-gradients", out=Path("all")))
    folder = next(Path("all").iterdir())
    about = manifest_of(folder)
    drawn = {path.name for path in folder.glob("activation_*.png")}
    assert len(drawn) == len(about["layers"]) > len(set(names[::7] + names[-10:]))
    assert {f"kernels_{single.friendly(name)}.png" for name in about["layers"] if "conv" in name} <= set(about["files"])
    assert about["cam"][0]["methods"][-1] == "integrated gradients"


def test_an_interrupted_look_leaves_the_old_folder(work: Path) -> None:
    """A second process is stopped while it draws; what an earlier one left is whole, and nothing else is there."""
    out = work / "cut"
    single.main(single.Args(index=3, out=out, layers=("fc",), attribution="none"))
    (folder,) = out.iterdir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = [sys.executable, str(REPOSITORY / "visualize_single_example.py"), "--index", "3", "--out", str(out)]
    with subprocess.Popen([*command, "--all-layers"], stderr=subprocess.PIPE) as process:
        while process.poll() is None and not list(out.glob(".*/activation_*.png")):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert b"stopped" in process.communicate()[1]
    assert process.returncode == 130
    assert list(out.iterdir()) == [folder]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_of_something_else_is_not_replaced(work: Path) -> None:
    Path("one").mkdir(exist_ok=True)
    Path("two").mkdir(exist_ok=True)
    picture(1, (80, 64)).save("one/mine.png")
    picture(2, (80, 64)).save("two/mine.png")
    quick = {"layers": ("fc",), "attribution": "none", "out": Path("kept")}
    single.main(single.Args(image=Path("one/mine.png"), **quick))
    single.main(single.Args(image=Path("one/mine.png"), **quick))  # the same picture again
    with pytest.raises(InputError, match=r"kept/mine: holds another picture of that name; .*--out"):
        single.main(single.Args(image=Path("two/mine.png"), **quick))
    Path("kept/mine/notes.txt").write_text("what I saw")
    with pytest.raises(InputError, match=r"kept/mine: holds a file that is not ours \(notes.txt\)"):
        single.main(single.Args(image=Path("one/mine.png"), **quick))
    assert Path("kept/mine/notes.txt").read_text() == "what I saw"


def test_a_folder_is_swapped_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of the two steps fails; then a process dies between them, and the next one finds what it left."""
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
        ({"index": 90}, r"--index 90: the test set has 90 pictures, 0 to 89"),
        ({"index": 1, "seed": 2}, r"--index and --seed both choose"),
        ({"image": Path("nowhere.jpg")}, r"--image nowhere.jpg: no such file"),
        ({"true_class": "running"}, r"--true-class goes with --image"),
        ({"index": 1, "layers": ("conv9",)}, r"layer conv9: the model has none of that name; alike: conv"),
        ({"index": 1, "layers": ("relu2",), "channels": (256,)}, r"--channels 256: .* have 256 channels at the most"),
        ({"index": 1, "tiles": 0}, r"--tiles 0: must be 1 or more"),
        ({"index": 1, "run": "none"}, r"--run none: .*runs that have: "),
    ],
)
def test_single_example_names_what_is_wrong(work: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        single.main(single.Args(out=Path("wrong"), **options))
    assert not Path("wrong").exists()


def test_grid_of_pictures(trained: Path, script: Script) -> None:
    done = script(trained, "visualize_activations.py", "--index", 5, 8)
    assert done.returncode == 0, done.stderr
    split = json.loads((trained / "results/a/split.json").read_text())
    pages = re.findall(r"written: (\S+)", done.stdout)
    assert len(pages) == 2
    for index, page in zip((5, 8), pages, strict=True):
        path = trained / page
        not_blank(path)
        about = json.loads(path.with_suffix(".json").read_text())
        assert about["image"] == split["test"][index]
        assert [len(column["channels"]) for column in about["columns"]] == [5] * 10
        tiles = np.load(path.with_suffix(".npz"))
        assert tiles["base_model"].shape == (5, 2, 2)
        assert tiles["kernels:conv1"].shape == (5, 3, 3)


def test_grid_columns_can_be_chosen(work: Path) -> None:
    columns = (
        "kernels:base_model.conv1",
        "base_model_conv1",
        "base_model.relu",
        "base_model_layer2_block1_relu1",
        "conv1",
    )
    grids.main(grids.Args(index=(1,), columns=columns, rows=2, out=Path("chosen")))
    about = json.loads(next(Path("chosen").glob("*.json")).read_text())
    assert [row["link"] for row in about["columns"]] == ["fan", "one to one", "one to one", "fan", "fan"]
    assert about["logit_contributions"] is None


def test_two_pictures_compared(work: Path) -> None:
    same, other = sorted(Path("data/sample/test").glob("*.jpg"))[:2]
    shutil.copy(same, "twin.jpg")
    for right, alike in ((Path("twin.jpg"), True), (other, False)):
        grids.main(grids.Args(compare=(same, right), out=Path("pairs")))
        layers = json.loads(Path(f"pairs/compare_{same.stem}_{right.stem}.json").read_text())["layers"]
        assert all((row["similarity"] > 0.9999) == alike for row in layers.values()), layers
        maps = np.load(f"pairs/compare_{same.stem}_{right.stem}.npz")
        assert all(np.array_equal(*maps[layer]) == alike for layer in layers)
        assert maps["relu2"].shape == (2, 10, 2, 2)
        assert all(not set(row["most_active"]) & set(row["most_different"]) for row in layers.values())


def test_training_from_its_snapshots(work: Path) -> None:
    grids.main(grids.Args(training=Path("results/a"), index=(2,), out=Path("way")))
    about = json.loads(next(Path("way").glob("training_a_*.json")).read_text())
    assert about["epochs"] == [0, 1, 2, 3, 4]
    for values in about["distances"].values():
        assert values[0] == 0
        assert all(value > 0 for value in values[1:])
    model, record_of_run, _ = checkpoint.load_model(Path("results/a"), torch.device("cpu"))
    split = json.loads(Path("results/a/split.json").read_text())
    image = normalise(EvalTransform(64)(load_image(Path("data/sample") / split["test"][2])))[None]
    with torch.inference_mode():
        expected = dict(zip(record_of_run["classes"], model.probabilities(model(image)[0]).tolist(), strict=True))
    assert about["probabilities"][record_of_run["epoch"]] == pytest.approx(expected, abs=5e-3)  # float16
    tiles = np.load(next(Path("way").glob("training_a_*.npz")))
    weights = [torch.load(path, weights_only=True)["conv2.weight"].float() for path in snapshots_of("a")]
    shown = torch.stack([weight.norm(dim=1)[about["channels"]["kernels:conv2"]] for weight in weights])
    assert np.allclose(tiles["kernels:conv2"], shown.numpy(), rtol=1e-4)
    expected_way = [((weight - weights[0]).norm() / weights[0].norm()).item() for weight in weights]
    assert about["distances"]["conv2"] == pytest.approx(expected_way, rel=1e-4)
    with pytest.raises(InputError, match=r"results/none has no best.pt"):
        grids.main(grids.Args(training=Path("results/none")))
    with pytest.raises(InputError, match=r"base_model.conv1: is frozen and does not change"):
        grids.main(grids.Args(training=Path("results/a"), columns=("base_model.conv1",)))
    with pytest.raises(InputError, match=r"base_model: is frozen and does not change"):
        grids.main(grids.Args(training=Path("results/a"), columns=("base_model",)))


def snapshots_of(run: str) -> list[Path]:
    return sorted(Path("results", run, "snapshots").glob("*.pt"))


def test_a_run_stopped_before_its_first_epoch_can_begin_again(work: Path) -> None:
    small = {"weights": "random", "image_size": 64, "precision": "fp32", "epochs": 1, "snapshots": True}
    (work / "results/stopped/snapshots").mkdir(parents=True)
    shutil.copy(snapshots_of("a")[0], work / "results/stopped/snapshots")
    train.main(train.Args(data=Path("data/sample"), run="stopped", **small))
    assert len(snapshots_of("stopped")) == 2
    for path in snapshots_of("stopped")[1:]:
        path.unlink()
    train.main(train.Args(run="stopped", resume=True))  # finished: takes no snapshot, and loses none
    assert len(snapshots_of("stopped")) == 1
    with pytest.raises(InputError, match=r"stopped: has no snapshots; train with: python train.py --snapshots"):
        grids.main(grids.Args(training=Path("results/stopped")))


def test_dead_units_of_the_test_set(work: Path) -> None:
    grids.main(grids.Args(dead_units=20, run="a", out=Path("dead")))
    found = json.loads(Path("dead/dead_units_a.json").read_text())
    assert found["images"] == 20
    assert len(found["layers"]) == 51
    for layer, row in found["layers"].items():
        assert len(row["fires_in"]) == row["channels"], layer
        assert row["dead"] == [channel for channel, count in enumerate(row["fires_in"]) if count == 0], layer
    model, _, split = checkpoint.load_model(Path("results/a"), torch.device("cpu"))
    names = list(split["test"])
    chosen = [names[index] for index in np.random.default_rng(0).permutation(len(names))[:20]]
    images = torch.stack([file_example(Path("data/sample") / name, 64).input for name in chosen])
    with torch.inference_mode():
        fires = model.base_model[:3](images) > 0
    assert found["layers"]["base_model.relu"]["fires_in"] == fires.flatten(2).any(2).sum(0).tolist()
    with pytest.raises(InputError, match=r"--dead-units 91: the test set has 90"):
        grids.main(grids.Args(dead_units=91))


def test_network_picture_is_up_to_date(work: Path) -> None:
    """What lies in results/ of the repository is what the model says today."""
    grids.main(grids.Args(network=True, results=Path("drawn")))
    fresh = json.loads(Path("drawn/network.json").read_text())
    assert fresh["stages"] == network_page.stages(ActionNet(15), IMAGE_SIZE)
    assert fresh == json.loads((REPOSITORY / "results/network.json").read_text())
    old, new = (Image.open(folder / "network.png") for folder in (REPOSITORY / "results", Path("drawn")))
    assert old.size == new.size
    assert np.abs(np.asarray(old, float) - np.asarray(new, float)).mean() < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": True, "dead_units": 3}, r"--dead-units and --network draw different pages"),
        ({"index": (1,), "seed": 1}, r"--index and --seed both choose what to draw"),
        ({"images": (Path("a.jpg"),), "network": True}, r"pictures have no meaning with --network; leave them out"),
        ({"columns": ("relu1",), "dead_units": 3}, r"--columns has no meaning with --dead-units; leave it out"),
        ({"rows": 11}, r"--rows 11: must be 1 to 10"),
        ({"images": (Path("nowhere.jpg"),)}, r"nowhere.jpg: no such file"),
        (
            {"index": (1,), "columns": ("base_model.layer1.0.relu",)},
            r"called 3 times in a forward pass; say which: .*#1",
        ),
        ({"index": (1,), "columns": ("kernels:relu1",)}, r"kernels:relu1: ReLU has no kernels"),
        ({"index": (1,), "columns": ("fc",)}, r"layer fc: puts out single values"),
        ({"index": (1, 1)}, r"two of the pictures have one name"),
    ],
)
def test_activations_names_what_is_wrong(work: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        grids.main(grids.Args(out=Path("wrong"), **options))
    assert not Path("wrong").exists()


@pytest.mark.parametrize(
    ("classes", "size", "true_rank", "rows", "columns"),
    [
        (2, (40, 400), 0, 1, ("kernels:conv1",)),
        (15, (400, 300), 14, 5, grids.GRID),
        (40, (400, 40), 39, 10, ("kernels:conv1", "conv1", "relu1")),
        (200, (300, 400), None, 2, ("base_model.relu", "base_model", "relu2")),
    ],
)
def test_pages_hold_whatever_is_on_them(
    work: Path, classes: int, size: tuple[int, int], true_rank: int | None, rows: int, columns: tuple[str, ...]
) -> None:
    """Long names, many classes, narrow and wide pictures: all is on the page, also the true class; nothing overlaps."""
    torch.manual_seed(5)
    names = [f"class number {number} with a name that is $long$ and goes on" for number in range(classes)]
    folder = Path("a folder with a long name of its own") / "and another one below it, long too"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "a picture whose name goes on $_{ and on and on.png"
    picture(3, size).save(file)
    model = ActionNet(classes).eval()
    example = file_example(file, 64)
    with torch.inference_mode(), record(model, [*leaf_layers(model), "base_model"]) as recorded:
        probabilities = model(example.input[None])[0].softmax(0).numpy()
    true = None if true_rank is None else names[np.argsort(-probabilities, kind="stable")[true_rank]]
    example = file_example(file, 64, true)
    answer, acts = Prediction(example, names, probabilities), as_maps(recorded)
    detail = (
        "A dataset with quite a long name · run 2026-11-22_20-17-54, epoch 14 · Keras ResNet-50 ImageNet (npm resnet)"
    )
    shown = {layer: acts[layer] for layer in ("base_model.conv1", "base_model", "conv1", "relu1", "relu2")}
    ways = [Attribution(names[k], "predicted and true", 0.5, dict.fromkeys("abc", np.eye(64))) for k in (0, 1)]
    stats = {kind: {layer: histogram(maps) for layer, maps in shown.items()} for kind in ("activations", "gradients")}
    example_pages.original(Path("p/original.png"), answer, detail)
    example_pages.probabilities(Path("p/probabilities.png"), answer, detail)
    example_pages.attributions(Path("p/cam.png"), answer, ways, detail)
    example_pages.overview(Path("p/overview.png"), answer, model, shown, ways, stats, detail)
    about = f"{example.label} · {answer.words} · {detail}"
    layer_pages.vector(Path("p/fc.png"), "fc", about, acts["fc"][:, 0, 0].numpy(), names)
    layer_pages.histograms(Path("p/histograms.png"), "Values", about, stats["gradients"], "gradients")
    chosen = connections.make_columns(model, columns, acts, rows)
    grid_page.grid(Path("p/grid.png"), answer, model, chosen, acts, detail)
    comparison_pages.compare(Path("p/compare.png"), [answer, answer], [shown, shown], model, detail)
    chosen = [column for column in chosen if not column.layer.startswith("base_model")]
    tiles = {column.spec: connections.shown_values(column, column.maps).numpy() for column in chosen}
    way = {column.layer: [0.0, 1.0] for column in chosen if column.is_kernels}
    comparison_pages.training(Path("p/way.png"), [answer] * 2, chosen, [tiles] * 2, way, [0, 1], detail)
    if true is not None:
        for most in (1, 9, 13):
            assert names.index(true) in example_pages.shown_classes(answer, most)
