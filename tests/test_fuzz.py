"""Bad input, drawn at random: readers work, or say in one line that names the file or the option what is wrong.

FUZZ=long pytest tests/test_fuzz.py draws a hundred times as many, other ones each time. tests/fuzz.py
gives whole scripts such input.
"""

import os
import random
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz_files import FORMATS, WORDS, blob, encoded, image_bytes, mutate, table
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from backbones.packed import read_packed, write_packed
from dataset import read_dataset
from layouts.csv_lists import read_csv
from runtime.arguments import parse
from runtime.errors import InputError
from runtime.files import read_known, read_text, write_text
from runtime.images import MAX_BYTES, check_size, load_image, to_pixels
from runtime.options import option_name
from runtime.tables import read_table
from runtime.text import printable
from splits.scan import scan_file
from tests.fuzz_runs import SCRIPTS, option_list, spoil_value
from training import checkpoint
from training.checks import check_history, check_record, check_split

CPU = torch.device("cpu")
shared = {"deadline": 20_000, "database": None, "suppress_health_check": list(HealthCheck)}  # the deadline in ms
settings.register_profile("ci", max_examples=60, derandomize=True, **shared)
settings.register_profile("long", max_examples=6000, **shared)
settings.load_profile(os.environ.get("FUZZ", "ci"))
seeds = st.integers(0, 2**32).map(random.Random)
words = st.sampled_from(WORDS) | st.text(max_size=12)


def fails_well(error: pytest.ExceptionInfo | Exception, *names: object) -> None:
    """The error's text is one line that names one of these things."""
    text = str(error)
    is_line(text)
    assert any(str(name) in text for name in names), text


def is_line(text: str) -> None:
    assert len(text.splitlines()) == 1
    assert text == printable(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder whose CSV list is drawn, and beside it nothing that may be written."""
    root = tmp_path_factory.mktemp("fuzz")
    (root / "train").mkdir()
    for n in range(12):
        (root / "train" / f"{n}.png").touch()
    return root


@given(seeds)
def test_tables(folder: Path, rng: random.Random) -> None:
    check_list(folder, table(rng, [f"{n}.png" for n in range(12)], ["run", "sit"] * 6), rng.random() < 0.5)


@given(
    st.lists(st.lists(words, max_size=4), max_size=5), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n", "\r"])
)
@example([["filename", "label"], ["0.png", "a\nb"]], ",", "\n")
def test_tables_of_any_words(folder: Path, rows: list[list[str]], delimiter: str, end: str) -> None:
    text = end.join(delimiter.join(row) for row in rows)
    check_list(folder, text.encode(errors="surrogatepass"), True)
    check_list(folder, f"filename,label{end}{text}".encode(errors="replace"), False)


@given(st.binary(max_size=80))
def test_tables_of_any_bytes(folder: Path, data: bytes) -> None:
    check_list(folder, data, False)


def check_list(folder: Path, data: bytes, skip: bool) -> None:
    path = folder / "Training_set.csv"
    path.write_bytes(data)
    before = sorted(folder.rglob("*"))
    for read in (
        lambda: read_table(path),
        lambda: read_csv(path, folder / "train", False, skip),
        lambda: read_csv(path, folder / "train", True, skip),
        lambda: read_dataset(folder, skip),
    ):
        try:
            read()
        except InputError as error:
            fails_well(error, path, folder)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("script", SCRIPTS)
@given(seeds)
def test_arguments(script: str, rng: random.Random) -> None:
    module = import_module(script)
    check = getattr(module, "check", None) or getattr(module.Args, "check", None)
    given_words = option_list(module.Args, rng)
    try:
        args, _ = parse(module.Args, given_words)
        if callable(check):
            check(args)
    except (InputError, OSError) as error:  # OSError: a name that is too long
        options = [option_name(field.name) for field in fields(module.Args)]
        fails_well(error, *options, *filter(None, map(printable, given_words)), "empty", "images", "two runs", "IMAGE")


@given(st.sampled_from([*FORMATS]), seeds)
def test_images_with_damaged_bytes(folder: Path, suffix: str, rng: random.Random) -> None:
    check_image(folder / "image", mutate(encoded(suffix, rng.randrange(9)), rng))


@given(seeds)
def test_images_of_all_kinds(folder: Path, rng: random.Random) -> None:
    check_image(folder / "image", image_bytes(rng)[1])


def check_image(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    scan = scan_file(path)
    is_line(scan.error or "good")
    assert (scan.error is None) == (scan.width > 0 < scan.height)
    for least in (0, 8):
        try:
            assert load_image(path, least).mode == "RGB"
        except OSError as error:
            assert least or scan.error, error
    try:
        check_size(data, 10**6)
    except (InputError, OSError) as error:
        is_line(str(error))


@pytest.fixture(scope="module")
def content() -> dict:
    """What best.pt holds, but for the network."""
    numbers = {"loss": 1.0, "accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    record = {
        "dataset": "x", "data": "x", "classes": ["run", "sit"], "weights": "x", "weights_sha256": "x", "image_size": 64,
        "preprocessing": checkpoint.preprocessing(64), "split": {"train": 2, "val": 2, "test": 2}, "seed": 0,
        "recipe": {}, "arguments": {"recipe": "default", "seed": 0, "lr": None}, "device": "cpu", "precision": "fp32",
        "versions": {}, "epoch": 1, "val": numbers, "seconds": {}, "temperature": 1.0,
    }  # fmt: skip
    row = {"epoch": 1, "train": numbers, "val": numbers, "lr": 1, "calibrated": 1, "temperature": 1, "seconds": 1}
    split = {part: {"a.png": "0"} for part in ("train", "val", "test")}
    return {"model": {"fc.weight": torch.zeros(2, 256)}, "record": record, "split": split, "history": [row]}


@given(seeds)
def test_checkpoints_with_damaged_bytes(folder: Path, content: dict, rng: random.Random) -> None:
    path = folder / "best.pt"
    torch.save(content, path)
    path.write_bytes(mutate(path.read_bytes(), rng))
    with pytest.raises(InputError) as caught:  # where bytes between the members changed, tensors are missing
        checkpoint.load_model(folder, CPU)
    fails_well(caught.value, path)


@given(seeds)
def test_checkpoints_with_wrong_values(folder: Path, content: dict, rng: random.Random) -> None:
    torch.save(spoil_value(content, rng), folder / "best.pt")
    with pytest.raises(InputError) as caught:
        checkpoint.load_model(folder, CPU)
    fails_well(caught.value, folder / "best.pt")


@given(seeds)
def test_packed_networks_with_damaged_bytes(folder: Path, rng: random.Random) -> None:
    path = folder / "packed.safetensors"
    write_packed(path, {"a": torch.ones(3, 4)}, {"record": {}})
    path.write_bytes(mutate(path.read_bytes(), rng))
    try:
        read_packed(path)
    except InputError as error:
        fails_well(error, path)


def test_good_values_pass(content: dict) -> None:
    check_record(content["record"])
    check_split(content["split"])
    check_history(content["history"])
    for wrong in ({"epoch": None}, {"lr": "x"}, {"val": {}}, {"epoch": 2}):
        with pytest.raises(ValueError, match="row 1 is missing or wrong"):
            check_history([content["history"][0] | wrong])


def test_what_would_break_a_line_is_escaped() -> None:
    assert str(InputError("a\nb\x1b[31m\u202e", "  c\nd")) == "a\\nb\\x1b[31m\\u202e\n  c\\nd"


def test_devices_pipes_and_folders_are_never_replaced(tmp_path: Path) -> None:
    """Root may replace /dev/null, as `--json /dev/null` once did."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "folder", Path()):
        before = path.stat()
        with pytest.raises(InputError, match=r": is (no file|a folder); give the name of a file$"):
            write_text(path, "x")
        assert path.stat() == before
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "x"


def test_what_would_be_read_for_ever_is_refused(tmp_path: Path) -> None:
    pipe, huge = tmp_path / "pipe.png", tmp_path / "huge.png"
    os.mkfifo(pipe)
    huge.touch()
    os.truncate(huge, MAX_BYTES + 1)
    assert scan_file(pipe).error == "is not a file"
    assert scan_file(tmp_path).error == "is a folder"
    assert scan_file(huge).error == "the file has more than 1073 million bytes; give a smaller image"
    with pytest.raises(InputError, match=r"pipe.png: no such file or folder$"):
        import_module("predict5").check(import_module("predict5").Args(images=(pipe,)))
    with pytest.raises(InputError, match=r"pipe.png: is not a file"):
        read_table(pipe)
    with pytest.raises(OSError, match=r"is no file: .*pipe.png"):
        read_text(pipe)
    with pytest.raises(InputError, match=r"pipe.png: not a readable checkpoint \(.*is no file"):
        checkpoint.read_checkpoint(pipe, CPU)


@pytest.mark.parametrize("script", ["train", "predict5"])
@pytest.mark.parametrize("words", [["--seed", "9" * 30], ["--batch-size", "9" * 30], ["--workers", "9" * 30]])
def test_numbers_that_no_library_takes_are_refused(script: str, words: list[str]) -> None:
    module = import_module(script)
    args, _ = parse(module.Args, words)
    with pytest.raises(InputError, match=rf"^{words[0]} 9+: must be \d to 2147483647$"):
        (module.Args.check if script == "train" else module.check)(args)


def test_large_images_are_converted_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    transparent = blob(1, mode="RGBA")
    transparent.putalpha(blob(2, mode="L"))
    inverted = Image.fromarray(np.arange(40 * 32, dtype=np.uint16).reshape(32, 40) * 51)
    for image in (blob(3), transparent, transparent.quantize(), inverted, blob(4, mode="CMYK")):
        whole = to_pixels(image)
        monkeypatch.setattr("runtime.images.STRIP", 5 * 40)
        assert (to_pixels(image) == whole).all()
        monkeypatch.undo()


@pytest.mark.parametrize("content", [b"", b"[", b"[1]", b"null", b"\xff", b'"x"', b"[" * 100_000, b'{"a": '])
def test_a_damaged_note_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "note.json").write_bytes(content)
    assert read_known(tmp_path / "note.json") == {}
