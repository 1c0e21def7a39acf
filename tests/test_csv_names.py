"""Image names in CSV lists as other machines and tools write them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import blobs, write_rows

from dataset import read_dataset
from runtime.errors import InputError


def rename(kaggle: Path, change: Callable[[str], str]) -> None:
    lines = [line.split(",") for line in (kaggle / "Training_set.csv").read_text().splitlines()]
    write_rows(kaggle / "Training_set.csv", [tuple(lines[0]), *((change(name), label) for name, label in lines[1:])])


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"./{name}",
        lambda name: f"train/{name}",
        lambda name: f"Train\\{name}",
        lambda name: f"/home/someone/HAR/train/{name}",
        lambda name: f"C:\\Users\\some one\\set\\train\\{name}",
        lambda name: f"../input/human-action-recognition/{name}",
        lambda name: f"gs://bucket/{name}",
        lambda name: f"training/{name}",
        lambda name: f"HAR/Training/{name}",
        lambda name: f"C:\\Users\\test\\har\\train\\{name}",
        lambda name: name.removesuffix(".jpg"),
        lambda name: f"/data/train/{name.removesuffix('.jpg')}",
    ],
)
def test_names_with_other_prefixes_or_without_suffix_are_found(kaggle: Path, change: Callable[[str], str]) -> None:
    plain = read_dataset(kaggle)
    rename(kaggle, change)
    assert read_dataset(kaggle) == plain


def test_the_longest_end_of_a_path_counts(kaggle: Path) -> None:
    (kaggle / "train/a").mkdir()
    blobs(77).save(kaggle / "train/a/Image_0.jpg")
    rows = [("filename", "label"), ("/x/a/Image_0.jpg", "run"), ("Image_0.jpg", "sit")]
    write_rows(kaggle / "Training_set.csv", rows)
    assert [sample.name for sample in read_dataset(kaggle).train] == ["train/a/Image_0.jpg", "train/Image_0.jpg"]


@pytest.mark.parametrize(
    "prefix", ["test/", "../test/", "/home/someone/HAR/test/", "C:\\set\\Validation\\", "/train/x/test/", "walking/"]
)
def test_another_parts_image_of_the_same_name_is_not_taken(kaggle: Path, prefix: str) -> None:
    rename(kaggle, lambda name: f"{prefix}{name}")
    with pytest.raises(InputError, match=r"20 of 20 files do not exist"):
        read_dataset(kaggle)


def test_a_name_that_several_images_share_is_missing(kaggle: Path) -> None:
    blobs(5).save(kaggle / "train/Image_3.png")
    rename(kaggle, lambda name: name.removesuffix(".jpg"))
    with pytest.raises(InputError, match=r"1 of 20 files do not exist: .*Image_3 \(row 5\)"):
        read_dataset(kaggle)
