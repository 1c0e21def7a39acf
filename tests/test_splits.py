"""Checking pictures, finding copies and splitting without a leak."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image

from dataset import ActionData, Sample, read_dataset
from runtime.errors import InputError
from splits.scan import check_images, group_duplicates, scan_files
from splits.split import split_data


def drawn(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{n}.png" for n in range(count)]
    for n, path in enumerate(paths):
        picture(n, (90, 70)).save(path)
    return paths


def test_copies_share_a_group(tmp_path: Path) -> None:
    paths = drawn(tmp_path, 6)
    shutil.copy(paths[0], tmp_path / "same_bytes.png")
    picture(1, (90, 70)).resize((60, 50)).save(tmp_path / "smaller.jpg", quality=60)
    scans = scan_files([*paths, tmp_path / "same_bytes.png", tmp_path / "smaller.jpg"], tmp_path / "scans.json")
    groups = group_duplicates(scans).tolist()
    assert groups[6] == groups[0]
    assert groups[7] == groups[1]
    assert len(set(groups)) == 6
    strict = group_duplicates(scans, near_bits=-1).tolist()
    assert strict[6] == strict[0]
    assert len(set(strict)) == 7


def test_scan_remembers_but_sees_changes(tmp_path: Path) -> None:
    (path,) = drawn(tmp_path, 1)
    memory = tmp_path / "memory" / "scans.json"
    (first,) = scan_files([path], memory)
    assert (first.width, first.height) == (90, 70)
    picture(9, (55, 44)).save(path)
    (second,) = scan_files([path], memory)
    assert (second.width, second.height) == (55, 44)
    assert second.sha256 != first.sha256


def test_unreadable_pictures_are_listed_at_once(kaggle: Path, tmp_path: Path) -> None:
    (kaggle / "train" / "Image_3.jpg").write_bytes(b"no picture")
    whole = (kaggle / "train" / "Image_8.jpg").read_bytes()
    (kaggle / "train" / "Image_8.jpg").write_bytes(whole[: len(whole) // 2])
    samples = read_dataset(kaggle).train
    (kaggle / "train" / "Image_11.jpg").unlink()
    with pytest.raises(InputError, match=r"3 unreadable picture.*--skip-bad") as caught:
        check_images(samples, tmp_path / "scans.json", skip_bad=False)
    assert "Image_3.jpg" in str(caught.value)
    assert "Image_8.jpg" in str(caught.value)
    good = check_images(samples, tmp_path / "scans.json", skip_bad=True)
    assert set(good) == {sample.name for sample in samples} - {f"train/Image_{n}.jpg" for n in (3, 8, 11)}


def made_up(counts: dict[str, int], test: list[Sample] | None = None) -> ActionData:
    train = [
        Sample(f"train/{name}{n}", Path(f"{name}{n}"), name) for name, count in counts.items() for n in range(count)
    ]
    return ActionData("made up", Path("nowhere"), sorted(counts), train, test or [])


def test_shares_strata_and_seed() -> None:
    data = made_up({"a": 200, "b": 100})
    split = split_data(data, list(range(300)), seed=1)
    assert [Counter(s.label for s in part) for part in (split.test, split.val, split.train)] == [
        {"a": 30, "b": 15},
        {"a": 34, "b": 17},
        {"a": 136, "b": 68},
    ]
    names = [{s.name for s in part} for part in (split.train, split.val, split.test)]
    assert len(set.union(*names)) == 300
    assert split_data(data, list(range(300)), seed=1).names() == split.names()
    assert split_data(data, list(range(300)), seed=2).names() != split.names()
    larger = split_data(data, list(range(300)), seed=1, val_share=0.1)
    assert (larger.test, len(larger.val)) == (split.test, 25)  # of 170 and 85


def test_no_group_on_two_sides() -> None:
    data = made_up({"a": 120, "b": 120})
    groups = np.random.default_rng(0).integers(0, 70, 240).tolist()  # some cross the classes
    split = split_data(data, groups, seed=0)
    number = {s.name: group for s, group in zip(data.train, groups, strict=True)}
    sides = [{number[s.name] for s in part} for part in (split.train, split.val, split.test)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert all(sides)


def test_given_test_set_is_kept_and_its_copies_left_out() -> None:
    test = [Sample(f"test/{n}", Path(f"t{n}"), "a") for n in range(5)]
    data = made_up({"a": 40, "b": 40}, test)
    groups = [*range(80), 100, 101, 102, 103, 7]  # test/4 is a copy of train/a7
    split = split_data(data, groups, seed=0)
    assert split.test == test
    assert [s.name for s in split.left_out] == ["train/a7"]
    assert len(split.train) + len(split.val) == 79


def test_class_too_small() -> None:
    with pytest.raises(InputError, match=r"class 'b' is too small"):
        split_data(made_up({"a": 50, "b": 2}), list(range(52)), seed=0)
    with pytest.raises(InputError, match=r"class 'b' is too small to split: 9 pictures in 1 groups of copies"):
        split_data(made_up({"a": 50, "b": 9}), [*range(50), *[99] * 9], seed=0)


def test_real_photographs_do_not_leak(har: Path, tmp_path: Path) -> None:
    data = read_dataset(har)
    data.train = data.train[::5]
    scans = scan_files([s.path for s in data.labelled], tmp_path / "scans.json")
    split = split_data(data, group_duplicates(scans), seed=0)
    by_name = {s.name: scan for s, scan in zip(data.labelled, scans, strict=True)}
    hashes = [
        np.array([by_name[s.name].dhash for s in part], np.uint64) for part in (split.train, split.val, split.test)
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.bitwise_count(hashes[one][:, None] ^ hashes[other][None]).min() > 4


def test_flat_pictures_do_not_crash(tmp_path: Path) -> None:
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    (scan,) = scan_files([tmp_path / "dot.png"], tmp_path / "scans.json")
    assert scan.error is None
    assert (scan.width, scan.height) == (1, 1)
