"""What tests share: real weights where they can be had, small datasets, and scripts as real processes."""

import csv
import json
import os
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a core for each of the two processes that test, and for what they start

import numpy as np
import pytest
from pages import check_page
from PIL import Image
from processes import REPOSITORY as REPOSITORY
from processes import run_script

import train
from backbones.imagenet_weights import BackboneWeights, WeightsUnavailable, load_weights, random_weights
from figures.page import Page
from sample.build import ensure_sample

SMALL = ("--weights", "random", "--image-size", "64", "--precision", "fp32")
NARROW = (*SMALL, "--channels", "64")  # a small share of all, as the default takes for many images
Script = Callable[..., subprocess.CompletedProcess]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared training come first: then one of the two processes alone makes it."""
    items.sort(key=lambda item: "trained" not in item.fixturenames)


@pytest.fixture(autouse=True)
def fresh_proxies() -> None:
    """urllib keeps the proxies of its first call; a test that sets some must not set them for the others."""
    urllib.request.install_opener(None)


@pytest.fixture(scope="session")
def imagenet() -> BackboneWeights:
    try:
        return load_weights()
    except WeightsUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def untrained() -> BackboneWeights:
    return random_weights()


@pytest.fixture(scope="session", autouse=True)
def random_weights_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Trainings in the process of the tests draw and digest their random weights once."""

    def load(name: str) -> BackboneWeights:
        if name != "random":
            return load_weights(name)
        weights = request.getfixturevalue("untrained")
        return replace(weights, state={key: value.clone() for key, value in weights.state.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.run.load_weights", load)
        yield


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in sample, eight images per class."""
    folder = tmp_path_factory.mktemp("sample") / "sample"
    ensure_sample(folder, per_class=8)
    return folder


@pytest.fixture(scope="session")
def har() -> Path:
    """The real photographs, from the environment variable HAR_DATA."""
    if not os.environ.get("HAR_DATA"):
        pytest.skip("HAR_DATA does not name a folder with the real photographs")
    return Path(os.environ["HAR_DATA"])


def blobs(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """An image of smooth blobs, another one for each seed; their perceptual hashes differ."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    """A dataset in Kaggle's layout: 2 classes of 10 images and 3 unlabelled ones."""
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    (root / "test").mkdir()
    rows = [(f"Image_{n}.jpg", ("run", "sit")[n % 2]) for n in range(20)]
    for n, (name, _) in enumerate(rows):
        blobs(n).save(root / "train" / name)
    for n in range(3):
        blobs(100 + n).save(root / "test" / f"Image_{n}.jpg")
    write_rows(root / "Training_set.csv", [("filename", "label"), *rows])
    write_rows(root / "Testing_set.csv", [("filename",), *((f"Image_{n}.jpg",) for n in range(3))])
    return root


def write_rows(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="session")
def script() -> Script:
    """Runs a script of the repository as a process, in a folder; returns it with its output as text."""
    return run_script


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, script: Script) -> Path:
    """A folder where `train.py` ran without any dataset, then `predict5.py`."""
    folder = tmp_path_factory.mktemp("work")
    for name, arguments in (("train.py", (*NARROW, "--epochs", 4, "--run", "a", "--snapshots")), ("predict5.py", ())):
        done = script(folder, name, *arguments)
        assert done.returncode == 0, done.stderr
        (folder / f"{name}.out").write_text(done.stdout, encoding="utf-8")
        (folder / f"{name}.err").write_text(done.stderr, encoding="utf-8")
    return folder


def small(**options: object) -> train.Args:
    """Arguments of a training that takes seconds."""
    usual = {"weights": "random", "image_size": 64, "precision": "fp32", "epochs": 2, "no_report": True}
    return train.Args(**usual | options)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file by column."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def work(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the trained run, as the current one, where every page that is saved is checked first."""
    monkeypatch.chdir(trained)
    save = Page.save

    def checked(page: Page, path: Path) -> None:
        save(page, path)
        check_page(page, path)

    monkeypatch.setattr(Page, "save", checked)
    return trained
