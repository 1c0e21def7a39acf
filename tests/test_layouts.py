"""layouts/: datasets as class folders, with or without parts; what is left out; what is ambiguous."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import blobs, small, write_rows

from dataset import Sample, find_root, read_dataset
from layouts.parts import describe_left_out
from runtime.errors import InputError
from training.run import prepare_run


def make_files(root: Path, *names: str) -> Path:
    """Empty files, of which lists of images are made without opening any; a name that ends with / is a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).mkdir() if name.endswith("/") else (root / name).touch()
    return root


def counts(samples: list[Sample]) -> dict[str | None, int]:
    return dict(Counter(sample.label for sample in samples))


def test_reads_class_folders_alone(tmp_path: Path) -> None:
    data = read_dataset(make_files(tmp_path, "run/1.jpg", "run/deep/er/2.PNG", "sit/1.jpg", "notes.txt", "labels.csv"))
    assert data.classes == ["run", "sit"]
    assert [(sample.name, sample.label) for sample in data.train] == [
        ("run/1.jpg", "run"), ("run/deep/er/2.PNG", "run"), ("sit/1.jpg", "sit"),
    ]  # fmt: skip
    assert all(sample.path.is_file() for sample in data.train)
    assert (data.val, data.test, data.sources) == ([], [], {"train": "class folders"})
    assert describe_left_out(data.left_out) == ""


def test_a_class_may_hold_folders_named_like_parts(tmp_path: Path) -> None:
    names = ["a/train/1.jpg", "a/2.jpg", "b/Train/1.jpg", "b/training/2.jpg", "c/1.jpg"]
    data = read_dataset(make_files(tmp_path, *names))
    assert counts(data.train) == {"a": 2, "b": 2, "c": 1}


def test_listed_files_that_are_missing_are_left_out_where_that_is_asked_for(kaggle: Path) -> None:
    for n in range(4, 18):
        (kaggle / "train" / f"Image_{n}.jpg").unlink()
    with pytest.raises(InputError, match=r"14 of 20 files do not exist: .* or leave them out with --skip-bad$"):
        read_dataset(kaggle)
    data = read_dataset(kaggle, skip_missing=True)
    assert [sample.name for sample in data.train] == [f"train/Image_{n}.jpg" for n in (0, 1, 2, 3, 18, 19)]
    assert describe_left_out(data.left_out).startswith("14 listed image(s) that do not exist (")
    for n in (0, 1, 2, 3, 18, 19):
        (kaggle / "train" / f"Image_{n}.jpg").unlink()
    with pytest.raises(InputError, match="20 of 20 files do not exist"):
        read_dataset(kaggle, skip_missing=True)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Train", "VALID", "Testing"), ("TRAINING", "Validation", "TEST")],
)
def test_reads_parts_in_any_case(tmp_path: Path, train: str, val: str, test: str) -> None:
    names = [f"{part}/{label}/{n}.jpg" for part in (train, val, test) for label in "ab" for n in range(2)]
    data = read_dataset(make_files(tmp_path, *names, f"{train}/train/1.jpg"))
    assert counts(data.train) == {"a": 2, "b": 2, "train": 1}
    assert (counts(data.val), counts(data.test)) == ({"a": 2, "b": 2}, {"a": 2, "b": 2})
    assert data.val[0] == Sample(f"{val}/a/0.jpg", tmp_path / val / "a" / "0.jpg", "a")
    assert data.sources == {"train": f"{train}/", "val": f"{val}/", "test": f"{test}/"}
    assert len(data.labelled) == 13
    assert not any(data.left_out.values())


def test_reads_a_csv_of_validation_images(kaggle: Path) -> None:
    make_files(kaggle, "Valid/1.jpg", "Valid/2.jpg")
    write_rows(kaggle / "validation_set.csv", [("filename", "label"), ("1.jpg", "sit"), ("valid/2.jpg", "run")])
    data = read_dataset(kaggle)
    assert [(sample.name, sample.label) for sample in data.val] == [("Valid/1.jpg", "sit"), ("Valid/2.jpg", "run")]
    assert data.sources["val"] == "validation_set.csv"
    write_rows(kaggle / "validation_set.csv", [("filename",), ("1.jpg",)])
    with pytest.raises(InputError, match=r"validation_set.csv: no column label"):
        read_dataset(kaggle)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train/1.jpg", "bus/1.jpg", "car/1.jpg"],
            r"Training_set.csv is missing, and train/ holds images but no",
        ),
        (["train/", "bus/1.jpg"], r"Training_set.csv is missing, and train/ has no class folders with images"),
        (["test/a/1.jpg", "a/1.jpg", "b/1.jpg"], r"holds test/ but no train/ .*; move the class folders into train/"),
        (["val/1.jpg", "a/1.jpg", "b/1.jpg"], r"holds val/ but no train/"),
        (["Train/a/1.jpg", "train/b/1.jpg"], r"holds both Train and train; delete or rename one"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], r"holds both val and valid"),
        (["train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg"], r"val/c/1.jpg has the label 'c', which no training image"),
        (["train/a/1.jpg", "train/b/"], r"only one class \(a\)"),
        (["images/a/1.jpg", "images/b/1.jpg"], r"nor two class folders; only images/ has images \(.* give .*/images\)"),
        (["1.jpg", "2.jpg"], r"holds neither Training_set.csv nor a folder train/, nor two class folders \(see"),
    ],
)
def test_ambiguous_folders_are_refused_in_one_line(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(make_files(tmp_path, *names))
    assert "\n" not in str(caught.value)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        read_dataset(tmp_path / "nowhere")


PARTS = ("train/a/1.jpg", "train/b/1.jpg")


@pytest.mark.parametrize(
    ("names", "left_out"),
    [
        (["a/1.jpg", "b/1.jpg", "x.jpg", "y.txt"], "1 image(s) without a CSV row or outside class folders (x.jpg)"),
        (["a/1.jpg", "b/1.jpg", "b/Thumbs.db"], "1 file(s) that Pillow does not open (b/Thumbs.db)"),
        (["a/1.jpg", "b/1.jpg", "c/", "d/.hidden.jpg"], "2 folder(s) without images (c/, d/)"),
        (["a/1.jpg", "b/1.jpg", "own/train/a/1.jpg"], "1 folder(s) of images that are no part of the dataset (own/)"),
        ([*PARTS, "own/train/a/1.jpg", "cache/x.bin"], ""),
        ([*PARTS, "c/1.jpg"], "1 folder(s) of images that are no part of the dataset (c/)"),
        (
            [*PARTS, "train/c/", "train/x.jpg", "test/y.jpg", "z.jpg"],
            "3 image(s) without a CSV row or outside class folders (test/y.jpg, train/x.jpg, z.jpg); "
            "1 folder(s) without images (train/c/)",
        ),
    ],
)
def test_what_is_left_out_is_counted_and_named(tmp_path: Path, names: list[str], left_out: str) -> None:
    assert describe_left_out(read_dataset(make_files(tmp_path, *names)).left_out) == left_out


def test_csv_decides_where_there_are_class_folders_too(kaggle: Path) -> None:
    data = read_dataset(make_files(kaggle, "train/run/1.jpg", "run/1.jpg", "val/sit/1.jpg"))
    assert len(data.train) == 20
    assert [sample.name for sample in data.val] == ["val/sit/1.jpg"]  # which no CSV lists
    assert data.left_out["unlisted"] == ["train/run/1.jpg"]
    assert data.left_out["other_folders"] == ["run/"]


def test_heic_is_left_out_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suffixes = frozenset({".jpg"})  # as without Pillow's plugin
    monkeypatch.setattr("runtime.images.image_suffixes", lambda: suffixes)
    data = read_dataset(make_files(tmp_path, "a/1.jpg", "b/1.jpg", *(f"a/{n}.HEIC" for n in range(5)), "c/"))
    assert describe_left_out(data.left_out) == (
        "5 file(s) that Pillow does not open (a/0.HEIC, a/1.HEIC, a/2.HEIC, …; for HEIC, install Pillow's plugin "
        "(pip install pillow-heif) or convert to JPEG); 1 folder(s) without images (c/)"
    )


def test_linked_class_folders_are_read_and_loops_are_not(tmp_path: Path) -> None:
    root = make_files(tmp_path, "set/a/1.jpg", "set/b/1.jpg", "elsewhere/1.jpg", "elsewhere/2.jpg") / "set"
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "loop").symlink_to(root)
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "missing.jpg").symlink_to(root / "nowhere.jpg")
    data = read_dataset(root)
    assert [sample.name for sample in data.train if sample.label == "c"] == ["c/1.jpg", "c/2.jpg"]
    assert [sample.name for sample in data.train if sample.label == "a"] == ["a/1.jpg", "a/missing.jpg"]
    assert data.classes == ["a", "b", "c"]


def test_data_folder_without_a_dataset_is_none(tmp_path: Path) -> None:
    names = ("README.md", "sample/Training_set.csv", "sample/train/1.jpg", "cache/scans.json", "photos/1.jpg")
    assert find_root(make_files(tmp_path, *names)) is None
    assert find_root(make_files(tmp_path, "more/1.jpg")) == tmp_path


def test_training_takes_the_given_validation_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for part, label, numbers in (
        ("Train", "a", range(20)), ("Train", "b", range(20, 40)), ("Valid", "a", range(40, 44)),
        ("Valid", "b", [44, 45, 20]),
    ):  # fmt: skip
        folder = tmp_path / "mine" / part / label
        folder.mkdir(parents=True)
        for number in numbers:
            blobs(number).save(folder / f"{number}.jfif", "JPEG")
    make_files(tmp_path, "mine/Train/a/notes.txt", "mine/Train/none/")
    run = prepare_run(small(data=Path("mine"), workers=0), torch.device("cpu"), "started")
    names = run.split.names()
    assert sorted(names["val"]) == sorted(f"Valid/{label}" for label in (
        "a/40.jfif", "a/41.jfif", "a/42.jfif", "a/43.jfif", "b/20.jfif", "b/44.jfif", "b/45.jfif",
    ))  # fmt: skip
    assert names["left_out"] == ["Train/b/20.jfif"]
    assert [len(names[part]) for part in ("train", "test")] == [33, 6]
    assert list(run.digests["val"]) == names["val"]
    output = " ".join(capsys.readouterr().out.split())  # whose lines are broken to fit a console
    assert (
        "note: left out of mine: 1 file(s) that Pillow does not open (Train/a/notes.txt); 1 folder(s) without images"
        in output
    )
    assert (
        "mine: 2 classes; 33 train (Train/), 7 val (Valid/), 6 test (held out of training images), "
        "1 left out as duplicates of validation images; smallest class in training: b, 16 "
    ) in output


def test_photographs_to_try_are_no_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_files(tmp_path, "examples/1.jpg", "run/1.jpg", "sit/1.jpg")
    assert read_dataset(tmp_path).classes == ["examples", "run", "sit"]
    monkeypatch.setattr("layouts.parts.EXAMPLES", tmp_path / "examples")  # that of the repository
    assert read_dataset(tmp_path).classes == ["run", "sit"]
