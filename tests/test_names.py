"""Names of files and classes are data: any that the file system allows are printed, drawn, written and read again."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs, read_csv, read_json
from processes import RunningScript

import predict5
from evaluation.predictions import class_lines
from figures import curves, fonts
from figures.page import Page
from runtime import console
from runtime.arguments import parse
from runtime.files import write_json
from runtime.text import printable, shorten

NOT_UTF8 = os.fsdecode(b"z\xff.jpg")
NAMES = (
    "-minus.jpg",
    "a\nb.jpg",
    "q\"'<i>&$_{,.jpg",
    "x" * 251 + ".jpg",
    "e\u0301.jpg",
    "\u00e9.jpg",
    "走路 يمشي 🏃.jpg",
)
NAMES = (*NAMES, NOT_UTF8) if sys.platform == "linux" else NAMES


def test_unprintable_characters_are_shown_as_escapes() -> None:
    assert printable("a\nb\u202e\udcff走🏃\u200d") == "a\\nb\\u202e\\udcff走🏃\u200d"
    assert shorten("a\n" * 30, 7) == "a\\n…a\\n"


def test_names_that_are_not_utf8_are_read_again(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {NOT_UTF8: "走\\udcff"})
    assert read_json(tmp_path / "a.json") == {NOT_UTF8: "走\\udcff"}


def test_files_after_two_minuses_may_begin_with_one() -> None:
    args, _ = parse(predict5.Args, ["--tta", "a.jpg", "--", "-minus.jpg", "--tta"])
    assert args.tta
    assert sorted(args.images) == [Path("--tta"), Path("-minus.jpg"), Path("a.jpg")]


def test_next_command_takes_files_that_begin_with_a_minus(capsys: pytest.CaptureFixture[str]) -> None:
    console.suggest("predict5.py", "--run", "a", Path("-minus.jpg"))
    words = shlex.split(capsys.readouterr().out)
    assert parse(predict5.Args, words[3:])[0] == predict5.Args(run="a", images=(Path("-minus.jpg"),))


def test_images_of_any_name_are_predicted_where_the_console_has_ascii_alone(trained: Path) -> None:
    folder = trained / "any\nname"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        blobs(number).save(folder / "file.jpg")
        (folder / "file.jpg").rename(folder / name)
    try:
        options = ("--run", "a", "--", *NAMES)
        variables = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "MPLBACKEND": "agg"}
        done = RunningScript(folder, "predict5.py", "--results", trained / "results", *options, **variables).finish()
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) <= 3  # of which one names the characters without a font
        assert (trained / "results/a/images/predictions.png").is_file()
        rows = read_json(trained / "results/a/images/predictions.json")["images"]
        found = {row["filename"] for row in rows}
        assert found == set(NAMES)
        written = {row["filename"] for row in read_csv(trained / "results/a/images/predictions.csv")}
        assert {name for name in NAMES if name != NOT_UTF8} <= written
    finally:
        shutil.rmtree(folder)


def test_a_class_takes_one_line_of_the_table() -> None:
    row = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "n": 3}
    lines = class_lines({"a\nb": row, "x" * 200: row, "none": row | {"n": 0}})
    assert [len(line) for line in lines] == [75, 75, 75]  # 40 of a class
    assert lines[1].startswith("  a\\nb ")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_characters_get_an_installed_font_or_are_named_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    fonts.reported.clear()
    assert (fonts.family_of("é"), fonts.family_of("\U0010fffd")) == ("", None)
    other = next(filter(fonts.family_of, map(chr, range(0x2000, 0x2C00))))
    for name in ("1.png", "2.png"):
        page = Page(2, 1)
        page.text(0.1, 0.1, f"a\U0010fffd$b_{{ {other}")
        page.save(tmp_path / name)
    assert page.axes.texts[0].get_family() == [fonts.OWN, fonts.family_of(other)]
    assert capsys.readouterr().err.count("\U0010fffd") == 1


@pytest.mark.filterwarnings("ignore:Glyph")
def test_long_classes_and_those_of_any_script_are_drawn(tmp_path: Path) -> None:
    classes = ["a_$x_{y^\\", "x" * 200, "<b>&\n\udcff", "走路"]
    curves.confusion(np.eye(4, dtype=int), classes, "$x_{", tmp_path / "matrix.png")
    with curves.load_image(tmp_path / "matrix.png") as image:
        assert max(image.size) < 1300
