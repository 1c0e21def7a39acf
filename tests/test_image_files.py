"""runtime/images.py: which files of a folder are images."""

from pathlib import Path

from runtime.images import IMAGE_SUFFIXES, image_files

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
    files = [file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    shown = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    assert len(shown) == 9
    assert image_files(folder) == sorted(shown)
    assert image_files(folder / "nowhere") == []
