"""sample/: the drawn sample is complete, repeatable and never overwrites other data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from dataset import read_dataset
from runtime.errors import InputError
from sample.build import UNLABELLED, Args, ensure_sample, main
from sample.scenes import SCENES, draw


def build(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `python -m sample.build` in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "sample.build", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")


def test_sample_is_complete_and_repeatable(sample: Path, tmp_path: Path) -> None:
    ensure_sample(tmp_path / "again", per_class=8)
    names = sorted(path.relative_to(sample) for path in sample.rglob("*") if path.is_file())
    assert len([name for name in names if name.parent.name == "train"]) == 15 * 8
    for name in names:
        assert (sample / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_sample_reads_as_a_dataset(sample: Path) -> None:
    data = read_dataset(sample)
    assert data.name == "built-in sample"
    assert data.classes == sorted(SCENES)
    assert [first.label for first in data.train[:15]] == list(SCENES)
    assert (len(data.test), data.test_is_labelled, any(data.left_out.values())) == (UNLABELLED, False, False)


def test_other_folders_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="photos: holds something else"):
        ensure_sample(tmp_path / "photos")


def test_seed_decides_the_image() -> None:
    image, same, other = (draw("cycling", seed) for seed in ((0, 1), (0, 1), (1, 1)))
    assert image.tobytes() == same.tobytes() != other.tobytes()


def test_build_writes_to_the_folder_given(tmp_path: Path) -> None:
    done = build(tmp_path, "--folder", "drawn", "--per-class", "1", "--seed", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "drawn: 15 training images, 30 unlabelled test images\n"
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]
    ensure_sample(tmp_path / "expected", seed=2, per_class=1)
    for name in ("train/Image_15.jpg", "Training_set.csv", "dataset.json"):
        assert (tmp_path / "drawn" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_help_draws_nothing(tmp_path: Path) -> None:
    done = build(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert "--per-class" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "value"), [("seed", -1), ("per_class", 0)])
def test_options_out_of_range_are_named(tmp_path: Path, option: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"--{option.replace('_', '-')} {value}: must be {value + 1} or more"):
        main(Args(tmp_path / "drawn", **{option: value}))
    assert not list(tmp_path.iterdir())
