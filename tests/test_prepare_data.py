"""prepare_data.py: failing downloads, and the report of its check."""

import json
from pathlib import Path

import pytest
from conftest import blobs

import prepare_data
from runtime.errors import InputError


def test_failed_download_explains_the_manual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"download from Kaggle failed \(.*unzip it into") as caught:
        prepare_data.main(prepare_data.Args(out=tmp_path / "data"))
    assert "\n" not in str(caught.value)


def test_check_reports_duplicates_unreadable_and_unlisted_files(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train_folder = kaggle / "train"
    (train_folder / "Image_1.jpg").write_bytes((train_folder / "Image_0.jpg").read_bytes())  # has another label
    (kaggle / "test" / "Image_2.jpg").write_bytes((train_folder / "Image_6.jpg").read_bytes())
    (train_folder / "Image_5.jpg").write_bytes(b"broken")
    blobs(60).save(train_folder / "unlisted.jpg")
    prepare_data.main(prepare_data.Args(check=kaggle))
    report = json.loads(Path("results/data_check.json").read_text())
    assert {name: row["n"] for name, row in report["classes"].items()} == {"run": 10, "sit": 10}
    assert list(report["unreadable"]) == ["train/Image_5.jpg"]
    assert report["unlisted"] == ["train/unlisted.jpg"]
    exact = report["duplicates"]["exact"]
    assert (exact["groups"], exact["files"]) == (2, 4)
    assert exact["across_labels"] == [["train/Image_0.jpg (run)", "train/Image_1.jpg (sit)"]]
    assert exact["across_parts"] == [["train/Image_6.jpg (run)", "test/Image_2.jpg (unlabelled)"]]
    assert report["width"]["max"] == 40
    output = capsys.readouterr().out
    assert "run      10   40–40 (40)       32–32 (32)" in output
    assert "duplicates (identical files): 4 files in 2 groups, 1 of them with several labels, 1 in several" in output
    assert "unreadable files: 1 (train/Image_5.jpg)" in output
    assert "left out: 1 image(s) without a CSV row or outside class folders (train/unlisted.jpg)\n" in output
