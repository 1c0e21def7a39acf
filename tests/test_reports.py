"""report.html of trainings and tests: numbers, images, markup in names, nothing loaded."""

import base64
import io
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, read_csv, read_json, small, write_rows
from pages_html import Page
from PIL import Image

import predict5
import train
from dataset import EvalTransform, Sample
from evaluation.report import EvaluationReport
from reports import thumbnails as thumbnail_module
from reports.evaluation import FULLEST, LARGEST, PER_CELL, group_rows, make_cells, matrix
from reports.settings import settings, training_command
from reports.thumbnails import SIDE, thumbnails
from runtime.arguments import parse
from runtime.images import load_image
from training import checkpoint
from training.options import PLACES

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = ("<script>alert(1)</script>", "a\"b'&amp;{{ 7 * 7 }}")


@pytest.fixture(scope="module")
def tested(trained: Path) -> Path:
    return trained / "results/a/test"


@pytest.fixture(scope="module")
def page(tested: Path) -> Page:
    return Page(tested / "report.html")


def test_pages_load_nothing_and_are_well_formed(page: Page, tested: Path) -> None:
    page.check_self_contained()
    Page(tested.parent / "report.html").check_self_contained()


def test_numbers_of_a_test_are_those_of_its_metrics(page: Page, tested: Path) -> None:
    values = read_json(tested / "metrics.json")
    ends = values["intervals"]
    metrics = page.root.one(id="metrics")
    headline = {row.one("dt").text: row.numbers for row in metrics.one("dl").all("div")}
    assert headline == {
        "accuracy": [values["accuracy"], *ends["accuracy"]],
        "macro F1": [values["macro_f1"], *ends["macro_f1"]],
        "top-5 accuracy": [values["top5_accuracy"], *ends["top5_accuracy"]],
        "calibrated loss": [values["loss"], *ends["loss"]],
        "ECE": [values["calibration"]["ece"], values["calibration"]["ece_uncalibrated"]],
        "test images": [values["n"]],
    }
    for row, key in zip(metrics.one("tbody").all("tr"), ("precision", "recall", "f1"), strict=True):
        assert row.numbers == [values[key], *ends[key], values[f"macro_{key}"], *ends[f"macro_{key}"]]
    classes = {row.one("th").text: row for row in page.root.one(id="classes").one("tbody").all("tr")}
    assert classes.keys() == values["per_class"].keys()
    for name, row in values["per_class"].items():
        assert classes[name].numbers == [row[key] for key in ("f1", "precision", "recall", "n")]
        width = float(re.search(r"width:([\d.]+)%", classes[name].one("i").attributes["style"])[1])
        assert width == pytest.approx(100 * row["f1"], abs=0.051)
    calibration, coverage = page.root.one(id="calibration").all("table")
    assert calibration.numbers == [
        values["calibration"][key] for key in ("temperature", "ece_uncalibrated", "ece", "loss_uncalibrated")
    ] + [values["loss"]]
    assert coverage.numbers == [row[key] for row in values["coverage"] for key in ("coverage", "accuracy")]
    assert page.root.one(id="labels").numbers == [values["label_issues"]]


def test_numbers_of_a_training_are_those_of_its_epochs(tested: Path) -> None:
    page, run = Page(tested.parent / "report.html"), tested.parent
    record = read_json(run / "best.json")
    rows = page.root.one(id="metrics").one("tbody").all("tr")
    for row, part in zip(rows, ("train", "val"), strict=True):
        assert row.numbers == [record[part][key] for key in ("loss", "accuracy", "precision", "recall", "f1")]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shown = [row.numbers for row in page.root.one(id="curves").one("tbody").all("tr")]
    assert [row[2:5] for row in shown] == [
        [line["val"]["loss"], line["calibrated"], line["val"]["accuracy"]] for line in lines
    ]
    split, labels = read_json(run / "split.json"), read_csv(run.parents[1] / "data/sample/Training_set.csv")
    label = {f"train/{row['filename']}": row["label"] for row in labels}
    for row in page.root.one(id="data").one("tbody").all("tr"):
        name = row.one("th").text
        counts = [sum(label[file] == name for file in split[part]) for part in ("train", "val", "test")]
        assert row.numbers == counts
        assert sum(counts) == 40
    sizes = page.root.one(id="data").all("table")[1]
    files = [run.parents[1] / "data/sample" / name for part in ("train", "val", "test") for name in split[part]]
    assert sizes.numbers == [len(files)] == [600]
    widths, heights = zip(*(Image.open(file).size for file in files), strict=True)
    assert [[cell.text for cell in row.all("td")] for row in sizes.one("tbody").all("tr")] == [
        [f"{value:g}" for value in (min(side), np.median(side), max(side))] for side in (widths, heights)
    ]


def test_cells_open_the_images_that_the_confusion_matrix_counts(page: Page, tested: Path) -> None:
    counts = {row.pop("true \\ predicted"): row for row in read_csv(tested / "conf_matrix.csv")}
    classes, rows = list(counts), read_csv(tested / "test_predictions.csv")
    links = {link.attributes["href"][1:]: int(link.text) for link in page.root.one(kind="matrix").all("a")}
    cells = {cell.attributes["id"]: cell for cell in page.root.all(kind="cell")}
    assert links == {name: int(cell.numbers[0]) for name, cell in cells.items()}
    assert sum(links.values()) == len(rows)
    for i, true in enumerate(classes):
        for j, predicted in enumerate(classes):
            n = int(counts[true][predicted])
            assert links.get(f"c{i}-{j}", 0) == n
            if n:
                inside = {row["filename"] for row in rows if (row["true"], row["predicted"]) == (true, predicted)}
                shown = [image.attributes["title"] for image in cells[f"c{i}-{j}"].all(role="img")]
                assert set(shown) <= inside
                assert len(shown) == min(n, PER_CELL)


def test_thumbnails_are_the_crops_of_the_images_that_they_name(page: Page, tested: Path) -> None:
    style = page.root.one("style").text
    root = tested.parents[2] / "data/sample"
    for image in page.root.one(id="mistakes").all(role="img")[:5]:
        (kind,) = (kind for kind in image.attributes["class"].split() if kind != "i")
        data = re.search(rf"\.{kind}\{{background-image:url\(data:image/webp;base64,([^)]+)\)", style)[1]
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))), dtype=float)
        crop = EvalTransform(SIDE)(load_image(root / image.attributes["title"])).permute(1, 2, 0).double().numpy()
        assert shown.shape == crop.shape == (SIDE, SIDE, 3)
        assert np.abs(shown - crop).mean() < 8  # of 255; another image of the sample: 30 and more


def test_thumbnails_end_at_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        blobs(number).save(path)
    sizes = np.cumsum([len(uri) for uri in thumbnails(paths)])
    assert len(sizes) == 4
    monkeypatch.setattr(thumbnail_module, "BUDGET", int(sizes[1]))
    assert len(thumbnails(paths)) == 2


def test_most_confident_mistakes_and_suspected_label_errors_come_first(page: Page, tested: Path) -> None:
    wrong = [row for row in read_csv(tested / "test_predictions.csv") if row["true"] != row["predicted"]]
    confident = sorted((float(row["probability"]) for row in wrong), reverse=True)
    names = {row["filename"]: float(row["probability"]) for row in wrong}
    shown = [names[image.attributes["title"]] for image in page.root.one(id="mistakes").all(role="img")]
    assert shown == confident[: len(shown)]
    assert len(shown) == 20
    suspected = [row["filename"] for row in read_csv(tested / "label_issues.csv")][:20]
    assert [image.attributes["title"] for image in page.root.one(id="labels").all(role="img")] == suspected


def test_many_classes_take_a_figure_and_the_fullest_cells(tmp_path: Path) -> None:
    count = LARGEST + 1
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(20 * count) % count
    logits = torch.randn(len(targets), count, generator=generator)
    classes = [f"class {number}" for number in range(count)]
    samples = [Sample(f"{n}.png", tmp_path / f"{n}.png", classes[target]) for n, target in enumerate(targets.tolist())]
    report = EvaluationReport(tmp_path, "", samples, classes, logits, targets, 1.0)
    cells = make_cells(report, {key: rows[:PER_CELL] for key, rows in group_rows(report).items()})
    assert matrix(report, cells) is None
    wrong = report.counts - np.diag(np.diag(report.counts))
    assert [cell.n for cell in cells.values()] == np.sort(wrong, axis=None)[::-1][:FULLEST].tolist()


def test_settings_that_differ_are_told_and_the_command_repeats_them(tested: Path) -> None:
    record = checkpoint.read_record(tested.parent)
    rows = settings(record)
    changed = {row.option: row.value for row in rows if row.differs}
    assert changed == {
        "--weights": "random",
        "--image-size": "64",
        "--channels": "64",
        "--epochs": "4",
        "--snapshots": "on",
    }
    assert {row.option for row in rows if not row.differs} >= {"--lr", "--seed", "--recipe", "--unfreeze"}
    draw, command = training_command(record, "a")
    assert draw == "python -m sample.build"
    args, _ = parse(train.Args, shlex.split(command)[2:])
    assert (args.data, args.precision) == (Path("data/sample"), "fp32")
    recipe, epochs = args.resolve().resolve_recipe(record["split"]["train"])
    repeated = args.resolve().stored(recipe, epochs, "fp32")
    assert {key: value for key, value in repeated.items() if key not in PLACES} == {
        key: value for key, value in record["arguments"].items() if key not in PLACES
    }


@pytest.mark.parametrize(
    "options", [{}, {"views": 0}, {"recipe": "plain"}, {"recipe": "finetune"}, {"unfreeze": "layer4"}]
)
def test_settings_of_a_recipe_are_at_its_own_defaults(options: dict[str, str | int]) -> None:
    args = train.Args(**options).resolve()
    stored = args.stored(*args.resolve_recipe(6000, on_gpu=True), "bf16")
    record = {"arguments": stored, "split": {"train": 6000}, "device": "cuda", "precision": "bf16"}
    changed = {row.option: row.value for row in settings(record) if row.differs}
    assert changed == {f"--{key}": str(value) for key, value in options.items()}


def test_markup_in_names_is_text_and_no_report_writes_none(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [("filename", "label")]
    for number in range(20):
        name = f"\"><img src=x onerror='f()'>{number}.jpg"
        (kaggle / f"train/Image_{number}.jpg").rename(kaggle / "train" / name)
        rows.append((name, HOSTILE[number % 2]))
    write_rows(kaggle / "Training_set.csv", rows)
    train.main(small(data=kaggle, run="a", epochs=1, no_report=True))
    run = Path("results/a")
    assert not [*run.glob("report*"), *run.glob("network*")]
    predict5.main(predict5.Args(run="a", precision="fp32"))
    page = Page(run / "test/report.html")
    page.check_self_contained()
    assert {row.one("th").text for row in page.root.one(id="classes").one("tbody").all("tr")} == set(HOSTILE)
    titles = {image.attributes["title"] for image in page.root.all(role="img")}
    assert titles == set(read_json(run / "split.json")["test"])
    assert len(page.root.all("img")) == 3  # calibration, curves, network
    predict5.main(predict5.Args(run="a", precision="fp32", no_report=True))
    assert (run / "test/metrics.json").exists()
    assert not (run / "test/report.html").exists()


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt-get install chromium")
def test_a_browser_opens_a_cell_and_asks_nobody(tested: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        visit = browser.new_page(viewport={"width": 390, "height": 800})
        requests, errors = [], []
        visit.on("request", lambda request: requests.append(request.url.partition(":")[0]))
        visit.on("console", lambda message: errors.append(message.text))
        visit.goto(f"file://{tested}/report.html")
        assert visit.evaluate("document.documentElement.scrollWidth") == 390
        link = visit.locator(".matrix a").first
        tiles = visit.locator(f"{link.get_attribute('href')} .i")
        assert not tiles.first.is_visible()
        link.focus()
        visit.keyboard.press("Enter")
        tiles.first.wait_for(state="visible")
        assert tiles.count() == min(int(link.inner_text()), PER_CELL)
        assert "data:image/webp" in tiles.first.evaluate("tile => getComputedStyle(tile).backgroundImage")
        browser.close()
    assert set(requests) <= {"file", "data"}
    assert not errors
