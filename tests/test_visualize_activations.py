"""visualize_activations.py, run small: its pages and their numbers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Script, blobs, small
from pages import not_blank
from PIL import Image

import train
import visualize_activations as grids
from dataset import EvalTransform, normalise
from figures import comparison as comparison_figures
from figures import connections
from figures import example as example_figures
from figures import grid as grid_figure
from figures import layers as layer_figures
from figures import network as network_figure
from figures.example import Attribution
from figures.page import Page
from hooks import layer_shapes, record
from inspection.channels import most_active
from inspection.examples import Prediction, file_example
from inspection.layer_names import as_maps, leaf_layers
from inspection.layer_stats import histogram
from model import ActionNet
from runtime.errors import InputError
from runtime.images import load_image
from training import checkpoint
from training.recipe import IMAGE_SIZE


def test_grid_of_test_images(trained: Path, script: Script) -> None:
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
        assert [len(column["channels"]) for column in about["columns"]] == [3] * 13
        skipped = [column["skipped_convolutions"] for column in about["columns"]]
        assert skipped == [2, 0, 0, 7, 12, 18, 9, 0, 0, 0, 0, 0, 0]  # a column for each stage of ResNet
        tiles = np.load(path.with_suffix(".npz"))
        assert tiles["base_model"].shape == (3, 2, 2)
        assert tiles["kernels:conv1"].shape == (3, 3, 3)


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


def test_comparison_of_an_image_with_itself_and_another(work: Path) -> None:
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


def test_training_page_follows_from_the_snapshots(work: Path) -> None:
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
    channels, inputs = about["channels"]["kernels:conv2"], about["kernel_inputs"]["kernels:conv2"]
    assert inputs == weights[-1].flatten(2).norm(dim=2).argmax(dim=1)[channels].tolist()
    shown = torch.stack([weight[channels, inputs] for weight in weights])
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


def test_run_stopped_before_its_first_epoch_can_start_again(work: Path) -> None:
    (work / "results/stopped/snapshots").mkdir(parents=True)
    shutil.copy(snapshots_of("a")[0], work / "results/stopped/snapshots")
    train.main(small(data=Path("data/sample"), run="stopped", channels=64, epochs=1, snapshots=True))
    assert len(snapshots_of("stopped")) == 2
    for path in snapshots_of("stopped")[1:]:
        path.unlink()
    train.main(train.Args(run="stopped", resume=True))  # finished: takes no snapshot, and loses none
    assert len(snapshots_of("stopped")) == 1
    with pytest.raises(InputError, match=r"stopped: has no snapshots; train with: python train.py --snapshots"):
        grids.main(grids.Args(training=Path("results/stopped")))
    shutil.rmtree("results/stopped")  # other tests take the newest run of this folder


def test_dead_channels_on_test_images(work: Path) -> None:
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


def test_network_drawing_is_up_to_date(work: Path) -> None:
    """The committed results/network.png and .json are what the model gives today."""
    grids.main(grids.Args(network=True, results=Path("drawn")))
    fresh = json.loads(Path("drawn/network.json").read_text())
    model = ActionNet(15)
    shapes = layer_shapes(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE), network_figure.stage_layers(model))
    assert fresh["stages"] == network_figure.stages(model, shapes)
    names = [stage["name"] for stage in fresh["stages"]]
    assert names[0] == "base_model.conv1"
    assert len(set(names)) == len(names)
    assert fresh == json.loads((REPOSITORY / "results/network.json").read_text())
    old, new = (Image.open(folder / "network.png") for folder in (REPOSITORY / "results", Path("drawn")))
    assert old.size == new.size
    assert np.abs(np.asarray(old, float) - np.asarray(new, float)).mean() < 1


def test_labels_of_the_grid_are_readable_at_the_width_of_a_page(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 5.5 points where the page is 16 cm wide, and 10 pixels where it is 900."""
    pages, save = [], Page.save
    monkeypatch.setattr(Page, "save", lambda page, path: (pages.append(page), save(page, path)))
    grids.main(grids.Args(index=(1,), out=Path("readable")))
    (page,) = pages
    sizes = [text.get_fontsize() / page.width for axes in page.figure.axes for text in axes.texts]
    assert len(sizes) > 100
    assert min(sizes) * 16 / 2.54 > 5.5
    assert min(sizes) / 72 * 900 > 10


BANDS = [
    (1, [(0, 1)]),
    (5, [(0, 5)]),
    (6, [(0, 4), (3, 6)]),
    (13, [(0, 7), (6, 13)]),
    (16, [(0, 6), (5, 13), (12, 16)]),
]


@pytest.mark.parametrize(("total", "bands"), BANDS)
def test_bands_hold_every_column_and_repeat_one(total: int, bands: list[tuple[int, int]]) -> None:
    made, slots = grid_figure.make_bands(total, rows=3)
    assert [(band.first, band.last) for band in made] == bands
    right = grid_figure.LEFT + slots * grid_figure.SLOT
    for band in made:
        assert band.left(band.last - 1) + grid_figure.SLOT <= right + 1e-9
    assert made[-1].left(total) + grid_figure.WIDE * grid_figure.SLOT <= right + 1e-9


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_vector_formats(work: Path, form: str) -> None:
    grids.main(grids.Args(index=(1,), out=Path(form), format=form, dpi=60))
    (page,) = Path(form).glob(f"*.{form}")
    assert {path.suffix for path in Path(form).iterdir()} == {f".{form}", ".json", ".npz"}
    content = page.read_bytes()
    assert content.startswith(b"%PDF" if form == "pdf" else b"<?xml")
    images = content.count(b"/Subtype /Image" if form == "pdf" else b"<image")
    assert images >= 14 * (3 + 1)  # tiles and colour bars of 14 columns


def test_resolution_of_a_page(work: Path) -> None:
    for dpi in (60, 120):
        grids.main(grids.Args(index=(1,), out=Path(str(dpi)), dpi=dpi))
    small, large = (Image.open(next(Path(dpi).glob("*.png"))) for dpi in ("60", "120"))
    assert large.width == pytest.approx(2 * small.width, abs=1)
    assert small.info["dpi"] == pytest.approx((60, 60), abs=0.1)
    pages = [page.convert("L").resize((200, 200), Image.Resampling.BOX) for page in (small, large)]
    assert np.corrcoef(*(np.asarray(page, float).ravel() for page in pages))[0, 1] > 0.97  # the same page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": True, "dead_units": 3}, r"--dead-units and --network draw different pages"),
        ({"index": (1,), "seed": 1}, r"--index and --seed both choose what to draw"),
        ({"images": (Path("a.jpg"),), "network": True}, r"images have no meaning with --network; leave them out"),
        ({"columns": ("relu1",), "dead_units": 3}, r"--columns has no meaning with --dead-units; leave it out"),
        ({"rows": 11}, r"--rows 11: must be 1 to 10"),
        ({"dpi": 601}, r"--dpi 601: must be 30 to 600"),
        ({"images": (Path("nowhere.jpg"),)}, r"nowhere.jpg: no such file"),
        (
            {"index": (1,), "columns": ("base_model.layer1.0.relu",)},
            r"called 3 times in a forward pass; give one of .*#1",
        ),
        ({"index": (1,), "columns": ("kernels:relu1",)}, r"kernels:relu1: ReLU has no kernels"),
        ({"index": (1,), "columns": ("fc",)}, r"layer fc: outputs single values, not maps"),
        ({"index": (1, 1)}, r"two of the images have one name"),
    ],
)
def test_wrong_input_is_named(work: Path, options: dict, message: str) -> None:
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
def test_nothing_overlaps_with_long_names_many_classes_or_odd_images(
    work: Path, classes: int, size: tuple[int, int], true_rank: int | None, rows: int, columns: tuple[str, ...]
) -> None:
    """Everything is on the page, also the true class."""
    torch.manual_seed(5)
    names = [f"class number {number} with a name that is $long$ and goes on" for number in range(classes)]
    folder = Path("a folder with a long name of its own") / "and another one below it, long too"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "an image whose name goes on $_{ and on and on.png"
    blobs(3, size).save(file)
    model = ActionNet(classes).eval()
    example = file_example(file, 64)
    stages = [f"base_model.layer{number}" for number in (1, 2, 3)]
    with torch.inference_mode(), record(model, [*leaf_layers(model), *stages, "base_model"]) as recorded:
        probabilities = model(example.input[None])[0].softmax(0).numpy()
    true = None if true_rank is None else names[np.argsort(-probabilities, kind="stable")[true_rank]]
    example = file_example(file, 64, true)
    prediction, acts = Prediction(example, names, probabilities), as_maps(recorded)
    detail = (
        "A dataset with quite a long name · run 2026-11-22_20-17-54, epoch 14 · Keras ResNet-50 ImageNet (npm resnet)"
    )
    shown = {layer: acts[layer] for layer in ("base_model.conv1", "base_model", "conv1", "relu1", "relu2")}
    ways = [Attribution(names[k], "predicted and true", 0.5, dict.fromkeys("abc", np.eye(64))) for k in (0, 1)]
    stats = {kind: {layer: histogram(maps) for layer, maps in shown.items()} for kind in ("activations", "gradients")}
    example_figures.original(Path("p/original.png"), prediction, detail)
    example_figures.probabilities(Path("p/probabilities.png"), prediction, detail)
    example_figures.attributions(Path("p/cam.png"), prediction, ways, detail)
    channels = {layer: most_active(model, layer, acts, example_figures.STRIP) for layer in shown}
    example_figures.overview(Path("p/overview.png"), prediction, model, shown, channels, ways, stats, detail)
    about = f"{example.label} · {prediction.summary} · {detail}"
    layer_figures.vector(Path("p/fc.png"), "fc", about, acts["fc"][:, 0, 0].numpy(), names)
    layer_figures.histograms(Path("p/histograms.png"), "Values", about, stats["gradients"], "gradients")
    chosen = connections.make_columns(model, columns, acts, rows)
    grid_figure.grid(Path("p/grid.png"), prediction, model, chosen, acts, detail)
    comparison_figures.compare(Path("p/compare.png"), [prediction] * 2, list(shown), [acts, acts], model, detail)
    chosen = [column for column in chosen if not column.layer.startswith("base_model")]
    tiles = {column.spec: connections.shown_values(column, column.maps).numpy() for column in chosen}
    way = {column.layer: [0.0, 1.0] for column in chosen if column.is_kernels}
    comparison_figures.training(Path("p/way.png"), [prediction] * 2, chosen, [tiles] * 2, way, [0, 1], detail)
    if true is not None:
        for most in (1, 9, 13):
            assert names.index(true) in example_figures.shown_classes(prediction, most)
