"""Reading datasets: layouts, clear errors, pictures of every kind."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture, write_rows
from PIL import Image
from torchvision.transforms import v2

from dataset import EvalTransform, HarDataset, TrainTransform, load_image, middle, normalise, read_dataset, tta_views
from runtime.errors import InputError


def test_kaggle_layout(kaggle: Path) -> None:
    picture(50).save(kaggle / "train" / "extra.jpg")
    data = read_dataset(kaggle)
    assert data.classes == ["run", "sit"]
    assert len(data.train) == 20
    assert data.train[3].name == "train/Image_3.jpg"
    assert data.train[3].label == "sit"
    assert [sample.label for sample in data.test] == [None] * 3
    assert not data.test_is_labelled
    assert data.unlisted == ["train/extra.jpg"]


def test_image_path_column_archive_folder_and_labelled_test(kaggle: Path) -> None:
    for name in ("Training_set.csv", "Testing_set.csv"):
        text = (kaggle / name).read_text()
        (kaggle / name).write_text("\ufeff" + text.replace("filename", "image_path"), encoding="utf-8")
    write_rows(kaggle / "Testing_set.csv", [("image_path", "label"), ("test/Image_0.jpg", "run")])
    (kaggle.parent / "above").mkdir()
    kaggle.rename(kaggle.parent / "above" / "Human Action Recognition")
    data = read_dataset(kaggle.parent / "above")
    assert data.test_is_labelled
    assert [(sample.name, sample.label) for sample in data.test] == [("test/Image_0.jpg", "run")]


def test_class_folders(tmp_path: Path) -> None:
    for part, label, count in (("train", "a b", 3), ("train", "ünder", 2), ("test", "a b", 1)):
        (tmp_path / part / label).mkdir(parents=True)
        for n in range(count):
            picture(n).save(tmp_path / part / label / f"{n}.PNG")
    data = read_dataset(tmp_path)
    assert data.classes == ["a b", "ünder"]
    assert [sample.label for sample in data.train] == ["a b"] * 3 + ["ünder"] * 2
    assert data.test_is_labelled
    assert len(data.test) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("name", "label"), ("Image_0.jpg", "run")], "first column must be filename or image_path"),
        ([("filename", "class"), ("Image_0.jpg", "run")], "no column 'label'"),
        ([("filename", "label")], "has no rows"),
        (
            [("filename", "label"), ("Image_0.jpg", "run"), ("Image_1.jpg", " ")],
            "row 3: Image_1.jpg has an empty label",
        ),
        ([("filename", "label"), ("nothing.jpg", "run")], "row 2: the file .*nothing.jpg does not exist"),
        ([("filename", "label"), ("../test/Image_0.jpg", "run")], "row 2: '../test/Image_0.jpg' leaves the folder"),
        ([("filename", "label"), ("/etc/passwd", "run")], "row 2: '/etc/passwd' leaves the folder"),
        ([("filename", "label"), ("..\\x.jpg", "run")], "leaves the folder"),
        ([("filename", "label"), ("Image_0.jpg", "a"), ("./x/../Image_0.jpg", "b")], "listed already in row 2"),
        ([("filename", "label"), ("test/Image_0.jpg", "run")], "row 2: the file .* does not exist"),
        ([("filename", "label"), ("Image_0.jpg", "run"), ("Image_2.jpg", "run")], "only one class"),
    ],
)
def test_bad_csv_is_named(kaggle: Path, rows: list[tuple[str, ...]], message: str) -> None:
    write_rows(kaggle / "Training_set.csv", rows)
    with pytest.raises(InputError, match=message):
        read_dataset(kaggle)


def test_missing_parts_are_named(tmp_path: Path, kaggle: Path) -> None:
    with pytest.raises(InputError, match=r"holds neither Training_set.csv nor a folder train/"):
        read_dataset(tmp_path)
    (kaggle / "Training_set.csv").unlink()
    with pytest.raises(InputError, match=r"Training_set.csv is missing"):
        read_dataset(kaggle)


def test_other_encodings_and_placeholder_labels_are_named(kaggle: Path) -> None:
    text = (kaggle / "Training_set.csv").read_text()
    write_rows(kaggle / "Testing_set.csv", [("filename", "label"), *((f"Image_{n}.jpg", "run") for n in range(3))])
    with pytest.raises(InputError, match=r"Testing_set.csv: every row has the label 'run'"):
        read_dataset(kaggle)
    (kaggle / "Training_set.csv").write_bytes(text.replace("run", "l\xe4ufer").encode("latin-1"))
    with pytest.raises(InputError, match=r"Training_set.csv: not a CSV file in UTF-8"):
        read_dataset(kaggle)


def test_hidden_folders_and_foreign_json_do_not_count(tmp_path: Path) -> None:
    for label in ("a", "b", ".ipynb_checkpoints"):
        (tmp_path / "train" / label).mkdir(parents=True)
        picture(1).save(tmp_path / "train" / label / "1.jpg")
    (tmp_path / "dataset.json").write_text('{"labels": []}')
    data = read_dataset(tmp_path)
    assert data.classes == ["a", "b"]
    assert data.name == tmp_path.name


def test_test_label_unknown_to_training(kaggle: Path) -> None:
    write_rows(kaggle / "Testing_set.csv", [("filename", "label"), ("Image_0.jpg", "fly")])
    with pytest.raises(InputError, match=r"test/Image_0.jpg has the label 'fly'"):
        read_dataset(kaggle)


def test_exif_orientation(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20), "blue")
    image.paste("red", (0, 0, 30, 10))  # red above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise when shown
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = np.asarray(load_image(tmp_path / "turned.jpg")).astype(int)
    assert upright.shape == (30, 20, 3)
    assert upright[15, 17, 0] > 200 > 50 > upright[15, 2, 0]  # red is on the right now


def test_colour_modes(tmp_path: Path) -> None:
    orange = (250, 130, 20)
    solid = Image.new("RGB", (8, 8), orange)
    solid.save(tmp_path / "rgb.png")
    solid.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    solid.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    for name in ("rgb.png", "palette.png", "cmyk.jpg"):
        assert np.abs(np.asarray(load_image(tmp_path / name)).astype(int) - orange).max() <= 4, name
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    Image.fromarray(np.full((8, 8), 77 * 257, dtype=np.uint16)).save(tmp_path / "grey16.png")
    for name in ("grey.png", "grey16.png"):
        assert np.abs(np.asarray(load_image(tmp_path / name)).astype(int) - 77).max() <= 1, name
    Image.new("RGBA", (8, 8), (*orange, 0)).save(tmp_path / "clear.png")
    assert np.asarray(load_image(tmp_path / "clear.png")).min() == 255  # transparent is white, not what lies beneath


def test_items_and_repeatable_crops(kaggle: Path) -> None:
    data = read_dataset(kaggle)
    plain = HarDataset(data.train, data.classes, EvalTransform(64))
    image, target = plain[1]
    assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)
    assert target == 1
    torch.testing.assert_close(image, plain[1][0])
    seeded = HarDataset(data.train, data.classes, TrainTransform(64), seeds=list(range(20)))
    torch.testing.assert_close(seeded[4][0], seeded[4][0])
    free = HarDataset(data.train, data.classes, TrainTransform(64))
    assert not torch.equal(free[4][0], free[4][0])


def test_normalisation_is_imagenets(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (124, 116, 104)).save(tmp_path / "mean.png")
    values = normalise(EvalTransform(224)(load_image(tmp_path / "mean.png")))
    assert values.shape == (3, 224, 224)
    assert values.abs().max() < 0.02


def test_eval_transform_is_torchvisions(tmp_path: Path) -> None:
    """One resize of the middle gives what resizing the whole and cutting out its middle gives."""
    wide = picture(3, (301, 199))
    ours = EvalTransform(224)(wide).float()
    theirs = v2.Compose([v2.Resize(224), v2.CenterCrop(224), v2.PILToTensor()])(wide).float()
    assert (ours - theirs).abs().mean() < 1.5  # of 255; the two round the middle differently


def test_views_of_a_picture() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (150, 0, 300, 100))
    wide.paste("white", (0, 0, 300, 5))
    for turn in (None, Image.Transpose.TRANSPOSE):  # red is above and white on the left in the second
        image = wide.transpose(turn) if turn is not None else wide
        usual, closer, wider, whole = (view(image).float() for view in tta_views(64, 32))
        closer, wider = closer.flip(-1), wider.flip(-1)
        if turn is not None:
            usual, closer, wider, whole = (view.mT for view in (usual, closer, wider, whole))
        assert [view.shape for view in (usual, closer, wider, whole)] == [(3, 64, 64)] * 3 + [(3, 32, 32)]
        for view, white in ((usual, 0.05), (closer, 0), (wider, 0.05), (whole, 0.05)):
            assert view[1].mean() / 255 == pytest.approx(white, abs=0.01)  # white alone has green
            half = view.shape[2] // 2
            assert view[0, -1, : half - 1].min() == 255
            assert view[0, -1, half + 1 :].max() == 0
    assert [middle(300, 100, reach) for reach in (1, 0.5, 2, math.inf)] == [
        (100, 0, 200, 100),
        (125, 25, 175, 75),
        (50, 0, 250, 100),
        (0, 0, 300, 100),
    ]


def test_large_jpegs_are_decoded_small(tmp_path: Path) -> None:
    picture(5, (3000, 2000)).save(tmp_path / "large.jpg", quality=95, exif=rotated())
    transform = EvalTransform(320)
    whole, small = load_image(tmp_path / "large.jpg"), load_image(tmp_path / "large.jpg", transform.least)
    assert whole.size == (2000, 3000)  # upright
    assert small.size == (1000, 1500)
    assert (transform(whole).float() - transform(small).float()).abs().mean() < 2
    crops = TrainTransform(64, 0.35, flip=False)
    assert crops.least >= 2 * 64 / (0.35 * 3 / 4) ** 0.5


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    return exif
