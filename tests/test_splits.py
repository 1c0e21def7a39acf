"""splits/: scans of images, groups of duplicates, and splits that keep duplicates together."""

import shutil
from collections import Counter
from pathlib import Path

import imagehash
import numpy as np
import pytest
from conftest import blobs
from PIL import Image

from dataset import ActionData, Sample, read_dataset
from runtime.errors import InputError
from splits.scan import check_images, difference_hash, group_duplicates, scan_files
from splits.split import describe, split_data


def save_images(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{n}.png" for n in range(count)]
    for n, path in enumerate(paths):
        blobs(n, (90, 70)).save(path)
    return paths


def test_duplicates_share_a_group(tmp_path: Path) -> None:
    paths = save_images(tmp_path, 6)
    shutil.copy(paths[0], tmp_path / "same_bytes.png")
    blobs(1, (90, 70)).resize((60, 50)).save(tmp_path / "smaller.jpg", quality=60)
    scans = scan_files([*paths, tmp_path / "same_bytes.png", tmp_path / "smaller.jpg"], tmp_path / "scans.json")
    groups = group_duplicates(scans).tolist()
    assert groups[6] == groups[0]
    assert groups[7] == groups[1]
    assert len(set(groups)) == 6
    exact = group_duplicates(scans, max_distance=-1).tolist()
    assert exact[6] == exact[0]
    assert len(set(exact)) == 7


def test_no_scans_make_no_groups() -> None:
    assert group_duplicates([]).tolist() == []


def test_changed_files_are_scanned_again(tmp_path: Path) -> None:
    (path,) = save_images(tmp_path, 1)
    cache_file = tmp_path / "cache" / "scans.json"
    (first,) = scan_files([path], cache_file)
    assert (first.width, first.height) == (90, 70)
    blobs(9, (55, 44)).save(path)
    (second,) = scan_files([path], cache_file)
    assert (second.width, second.height) == (55, 44)
    assert second.sha256 != first.sha256


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save_images(tmp_path, 2)
    scans = scan_files(paths, tmp_path / "scans.json")
    monkeypatch.setattr("splits.scan.scan_file", None)  # calling it would raise
    assert scan_files(paths, tmp_path / "scans.json") == scans


def test_one_error_lists_all_unreadable_images(kaggle: Path, tmp_path: Path) -> None:
    (kaggle / "train" / "Image_3.jpg").write_bytes(b"not an image")
    complete = (kaggle / "train" / "Image_8.jpg").read_bytes()
    (kaggle / "train" / "Image_8.jpg").write_bytes(complete[: len(complete) // 2])
    samples = read_dataset(kaggle).train
    (kaggle / "train" / "Image_11.jpg").unlink()
    with pytest.raises(InputError, match=r"3 unreadable image.*--skip-bad") as caught:
        check_images(samples, tmp_path / "scans.json", skip_bad=False)
    assert "Image_3.jpg" in str(caught.value)
    assert "Image_8.jpg" in str(caught.value)
    readable = check_images(samples, tmp_path / "scans.json", skip_bad=True)
    assert set(readable) == {sample.name for sample in samples} - {f"train/Image_{n}.jpg" for n in (3, 8, 11)}


def fake_data(counts: dict[str, int], test: list[Sample] | None = None, val: list[Sample] | None = None) -> ActionData:
    train = [
        Sample(f"train/{name}{n}", Path(f"{name}{n}"), name) for name, count in counts.items() for n in range(count)
    ]
    sources = {"train": "train/", "val": "val/", "test": "test/"}
    return ActionData("fake", Path("nowhere"), sorted(counts), train, val or [], test or [], sources)


def test_split_is_stratified_and_repeatable_by_seed() -> None:
    data = fake_data({"a": 200, "b": 100})
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
    smaller_val = split_data(data, list(range(300)), seed=1, val_share=0.1)
    assert (smaller_val.test, len(smaller_val.val)) == (split.test, 25)  # 10 % of 170 and 85


def test_no_group_is_in_two_parts() -> None:
    data = fake_data({"a": 120, "b": 120})
    groups = np.random.default_rng(0).integers(0, 70, 240).tolist()  # some with both classes
    split = split_data(data, groups, seed=0)
    group_of = {s.name: group for s, group in zip(data.train, groups, strict=True)}
    train, val, test = ({group_of[s.name] for s in part} for part in (split.train, split.val, split.test))
    assert not train & val
    assert not train & test
    assert not val & test
    assert all((train, val, test))


def test_given_test_set_is_kept_and_its_duplicates_are_left_out() -> None:
    test = [Sample(f"test/{n}", Path(f"t{n}"), "a") for n in range(5)]
    data = fake_data({"a": 40, "b": 40}, test)
    groups = [*range(80), 100, 101, 102, 103, 7]  # test/4 is a duplicate of train/a7
    split = split_data(data, groups, seed=0)
    assert split.test == test
    assert [s.name for s in split.left_out] == ["train/a7"]
    assert len(split.train) + len(split.val) == 79
    about = describe(split, data)
    assert "16 val (held out of training images), 5 test (test/), 1 left out as duplicates of test images" in about
    assert "smallest class in training: a," in about


def test_given_validation_set_is_kept_and_no_duplicate_is_in_two_parts() -> None:
    val = [Sample(f"val/{n}", Path(f"v{n}"), "ab"[n % 2]) for n in range(6)]
    data = fake_data({"a": 40, "b": 40}, val=val)
    groups = [*range(80), 100, 101, 102, 103, 104, 50]  # val/5 is a duplicate of train/b10
    split = split_data(data, groups, seed=0)
    assert split.val == val
    assert [s.name for s in split.left_out] == ["train/b10"]
    assert (len(split.train), len(split.test)) == (67, 12)  # 15 % of 40 and 39
    assert not {s.name for s in split.train} & {s.name for s in split.test}
    text = "67 train (train/), 6 val (val/), 12 test (held out of training images), 1 left out as duplicates of val"
    assert text in describe(split, data)


def test_given_validation_and_test_sets_leave_training_as_it_is() -> None:
    val = [Sample(f"val/{n}", Path(f"v{n}"), "ab"[n % 2]) for n in range(4)]
    test = [Sample(f"test/{n}", Path(f"t{n}"), "a") for n in range(3)]
    data = fake_data({"a": 2, "b": 1}, test, val)  # too small to split, which nobody has to
    split = split_data(data, [0, 1, 2, 10, 11, 12, 13, 20, 21, 12], seed=0)  # val/2 is a duplicate of test/2
    assert (split.train, split.val, split.test) == (data.train, [val[0], val[1], val[3]], test)
    assert split.left_out == [val[2]]


def test_classes_without_test_images_are_named() -> None:
    test = [Sample(f"test/a/{n}", Path(f"t{n}"), "a") for n in range(3)]
    data = fake_data({"a": 9, "b": 9}, test)
    text = describe(split_data(data, range(21), seed=0), data)
    assert text.endswith("; no test images of 1 of 2 classes, of which its figures say nothing: b")


def test_copies_of_a_whole_class_in_a_given_part_are_named() -> None:
    test = [Sample(f"test/a/{n}", Path(f"t{n}"), "a") for n in range(3)]
    with pytest.raises(
        InputError, match=r"all images of 'a' \(3\) in train/ have duplicates in test/, or are in a group .*; remove"
    ):
        split_data(fake_data({"a": 3, "b": 9}, test), [*range(12), 0, 1, 2], seed=0)
    val = [Sample(f"val/a/{n}", Path(f"v{n}"), "a") for n in range(3)]
    with pytest.raises(
        InputError, match=r"all images of 'a' \(3\) in val/ have duplicates in test/, or are in a group .*; remove"
    ):
        split_data(fake_data({"a": 3, "b": 9}, test, val), [*range(12), 20, 21, 22, 20, 21, 22], seed=0)


def test_classes_that_are_too_small_are_named() -> None:
    with pytest.raises(InputError, match=r"2 of 3 classes are too small .*: 'b' \(2\), 'c' \(1\); add images"):
        split_data(fake_data({"a": 50, "b": 2, "c": 1}), list(range(53)), seed=0)
    with pytest.raises(InputError, match=r"images: 'b' \(9 in 1 group\); .* with --ignore-duplicates"):
        split_data(fake_data({"a": 50, "b": 9}), [*range(50), *[99] * 9], seed=0)
    many = {"a": 50} | {f"c{n:02d}": 1 for n in range(25)}
    with pytest.raises(InputError, match=r"25 of 26 classes .*'c19' \(1\) and 5 more; "):
        split_data(fake_data(many), list(range(75)), seed=0)


def test_split_of_real_photographs_has_no_duplicates_across_parts(har: Path, tmp_path: Path) -> None:
    data = read_dataset(har)
    data.train = data.train[::5]
    scans = scan_files([s.path for s in data.labelled], tmp_path / "scans.json")
    split = split_data(data, group_duplicates(scans), seed=0)
    by_name = {s.name: scan for s, scan in zip(data.labelled, scans, strict=True)}
    hashes = [
        np.array([by_name[s.name].dhash for s in part], np.uint64) for part in (split.train, split.val, split.test)
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.bitwise_count(hashes[first][:, None] ^ hashes[second][None]).min() > 4


def test_image_of_one_pixel_can_be_scanned(tmp_path: Path) -> None:
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    (scan,) = scan_files([tmp_path / "dot.png"], tmp_path / "scans.json")
    assert scan.error is None
    assert (scan.width, scan.height) == (1, 1)


def test_difference_hash_is_that_of_the_library_imagehash() -> None:
    for seed in range(20):
        image = blobs(seed, (20 + 7 * seed, 90 - 3 * seed))
        assert difference_hash(np.asarray(image)) == int(str(imagehash.dhash(image)), 16)
