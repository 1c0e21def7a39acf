"""runtime/images.py: which files of a folder are images."""

from pathlib import Path

import pytest
from conftest import blobs

from runtime.images import file_names, image_files, image_suffixes, load_image

NAMES = (
    "a/1.jpg", "a-b/1.jpg", "a/b/c/2.PNG", "a.jpg", "B.jpeg", "b/10.jpg", "b/9.jpg", "b/x.tar.gif",
    ".hidden.jpg", ".git/1.jpg", "a/.x/1.jpg", "a/..jpg", "no_suffix", "x.txt", "jpg", "x.jpg.part",
)  # fmt: skip


def test_image_files_are_those_that_pathlib_finds(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "here"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "folder.jpg").mkdir()
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    (folder / "broken.jpg").symlink_to(folder / "nowhere")
    (folder / "linked").symlink_to(folder / "a")
    files = [*folder.rglob("*"), *(folder / "linked").rglob("*")]  # rglob follows no links
    images = {file for file in files if file.suffix.lower() in image_suffixes() and not file.is_dir()}
    shown = [file for file in images if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    assert len(shown) == 12  # also the broken link, an image that is missing
    assert image_files(folder) == sorted(shown)
    assert image_files(folder / "nowhere") == []


def test_links_to_folders_are_followed_without_loops(tmp_path: Path) -> None:
    for place in ("in/a", "out/b"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.jpg").touch()
    (tmp_path / "in" / "up").symlink_to(tmp_path)  # holds in/ again
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "there").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "back").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "twice").symlink_to(tmp_path / "out" / "b")
    assert file_names(tmp_path / "in") == ["a/1.jpg", "there/b/1.jpg", "twice/1.jpg"]


@pytest.mark.parametrize("suffix", ["jfif", "avif", "jp2", "ppm", "tga", "webp", "apng"])
def test_every_type_that_pillow_decodes_is_an_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"1.{suffix.upper()}"
    blobs(1).save(path, {"jfif": "JPEG", "apng": "PNG"}.get(suffix))
    assert image_files(tmp_path) == [path]
    assert load_image(path).size == blobs(1).size


def test_files_that_pillow_cannot_decode_alone_are_no_images() -> None:
    assert not {".h5", ".mpg", ".eps", ".pdf", ".xml", ".txt", ".csv", ""} & image_suffixes()


def test_heic_without_plugin_names_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "2.jpg").write_bytes(b"nothing")
    if ".heic" in image_suffixes():
        pytest.skip("pillow-heif is installed")
    with pytest.raises(OSError, match=r"HEIC: install .*pip install pillow-heif"):
        load_image(tmp_path / "1.jpg")
    with pytest.raises(OSError, match="not an image that Pillow opens"):
        load_image(tmp_path / "2.jpg")
