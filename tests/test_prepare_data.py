"""prepare_data.py: the download that fails, and what its check of a dataset finds."""

import json
from pathlib import Path

import pytest
from conftest import picture

import prepare_data
from runtime.errors import InputError


def test_prepare_data_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"download from Kaggle failed \(.*unzip it into") as caught:
        prepare_data.main(prepare_data.Args(out=tmp_path / "data"))
    assert "\n" not in str(caught.value)


def test_prepare_data_finds_what_is_wrong(kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_folder = kaggle / "train"
    (train_folder / "Image_1.jpg").write_bytes((train_folder / "Image_0.jpg").read_bytes())  # sit is run now
    (kaggle / "test" / "Image_2.jpg").write_bytes((train_folder / "Image_6.jpg").read_bytes())
    (train_folder / "Image_5.jpg").write_bytes(b"broken")
    picture(60).save(train_folder / "unlisted.jpg")
    prepare_data.main(prepare_data.Args(check=kaggle))
    found = json.loads(Path("results/data_check.json").read_text())
    assert {name: row["n"] for name, row in found["classes"].items()} == {"run": 10, "sit": 10}
    assert list(found["unreadable"]) == ["train/Image_5.jpg"]
    assert found["unlisted"] == ["train/unlisted.jpg"]
    exact = found["duplicates"]["exact"]
    assert (exact["groups"], exact["files"]) == (2, 4)
    assert exact["across_labels"] == [["train/Image_0.jpg (run)", "train/Image_1.jpg (sit)"]]
    assert exact["across_train_and_test"] == [["train/Image_6.jpg (run)", "test/Image_2.jpg (unlabelled)"]]
    assert found["width"]["max"] == 40
