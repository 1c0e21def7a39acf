"""dataset.py: dataset layouts, forms of CSV files, error messages, decoding of images, transforms."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs, write_rows
from PIL import Image
from torchvision.transforms import v2

from dataset import EvalTransform, HarDataset, TrainTransform, middle, normalise, read_dataset, tta_views
from runtime.errors import InputError
from runtime.images import load_image


def test_reads_kaggle_layout(kaggle: Path) -> None:
    blobs(50).save(kaggle / "train" / "extra.jpg")
    data = read_dataset(kaggle)
    assert data.classes == ["run", "sit"]
    assert len(data.train) == 20
    assert data.train[3].name == "train/Image_3.jpg"
    assert data.train[3].label == "sit"
    assert [sample.label for sample in data.test] == [None] * 3
    assert not data.test_is_labelled
    assert data.left_out["unlisted"] == ["train/extra.jpg"]


def test_reads_image_path_column_archive_folder_and_labelled_test_set(kaggle: Path) -> None:
    for name in ("Training_set.csv", "Testing_set.csv"):
        text = (kaggle / name).read_text()
        (kaggle / name).write_text("\ufeff" + text.replace("filename", "image_path"), encoding="utf-8")
    write_rows(kaggle / "Testing_set.csv", [("image_path", "label"), ("test/Image_0.jpg", "run")])
    (kaggle.parent / "above").mkdir()
    kaggle.rename(kaggle.parent / "above" / "Human Action Recognition")
    data = read_dataset(kaggle.parent / "above")
    assert data.test_is_labelled
    assert [(sample.name, sample.label) for sample in data.test] == [("test/Image_0.jpg", "run")]


def test_reads_class_folders(tmp_path: Path) -> None:
    for part, label, count in (("train", "a b", 3), ("train", "ünder", 2), ("test", "a b", 1)):
        (tmp_path / part / label).mkdir(parents=True)
        for n in range(count):
            blobs(n).save(tmp_path / part / label / f"{n}.PNG")
    data = read_dataset(tmp_path)
    assert data.classes == ["a b", "ünder"]
    assert [sample.label for sample in data.train] == ["a b"] * 3 + ["ünder"] * 2
    assert data.test_is_labelled
    assert len(data.test) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("name", "label"), ("Image_0.jpg", "run")], "no column filename or image_path or .* found name, label"),
        ([("filename", "kind"), ("Image_0.jpg", "run")], "no column label or class .* found filename, kind"),
        ([("filename", "label")], "has no rows"),
        (
            [("filename", "label"), ("Image_0.jpg", "run"), ("Image_1.jpg", " ")],
            "row 3: Image_1.jpg has an empty label",
        ),
        ([("filename", "label"), ("nothing.jpg", "run")], "1 of 1 files do not exist: .*nothing.jpg \\(row 2\\)"),
        ([("filename", "label"), ("../test/Image_0.jpg", "run")], "1 of 1 files do not exist"),
        ([("filename", "label"), ("/etc/passwd", "run")], "1 of 1 files do not exist: .*/etc/passwd"),
        ([("filename", "label"), ("..\\x.jpg", "run")], "1 of 1 files do not exist"),
        (
            [("filename", "label"), ("Image_0.jpg", "a"), ("./x/../Image_0.jpg", "b")],
            "row 3: ./x/../Image_0.jpg is already listed in row 2",
        ),
        ([("filename", "label"), ("test/Image_0.jpg", "run")], "1 of 1 files do not exist: .* \\(row 2\\)"),
        ([("filename", "label"), ("", "run")], "row 2: empty file name"),
        ([("filename", "label"), ("Image_0.jpg", "run"), (), ("Image_1.jpg", "")], "row 4: Image_1.jpg has an empty"),
        ([("filename", "label"), ("Image_0.jpg", "run", "x")], "cannot be read as CSV .*line 2"),
        ([("filename", "label", "Class"), ("Image_0.jpg", "run", "x")], "columns label, Class mean the same"),
        ([("image", "path", "label"), ("Image_0.jpg", "x", "run")], "columns image, path mean the same"),
        ([("filename", "label", "label"), ("Image_0.jpg", "x", "run")], "columns label, label mean the same"),
        ([], "first line is blank"),
        ([("filename", "label"), ("Image_0.jpg", "run"), ("Image_2.jpg", "run")], "only one class"),
    ],
)
def test_csv_errors_name_file_row_and_value(kaggle: Path, rows: list[tuple[str, ...]], message: str) -> None:
    write_rows(kaggle / "Training_set.csv", rows)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(kaggle)
    assert "\n" not in str(caught.value)


def test_missing_parts_are_named(tmp_path: Path, kaggle: Path) -> None:
    with pytest.raises(InputError, match=r"holds neither Training_set.csv nor a folder train/"):
        read_dataset(tmp_path)
    (kaggle / "Training_set.csv").unlink()
    with pytest.raises(InputError, match=r"Training_set.csv is missing"):
        read_dataset(kaggle)


def test_placeholder_test_labels_are_refused(kaggle: Path) -> None:
    write_rows(kaggle / "Testing_set.csv", [("filename", "label"), *((f"Image_{n}.jpg", "run") for n in range(3))])
    with pytest.raises(InputError, match=r"Testing_set.csv: every row has the label 'run'"):
        read_dataset(kaggle)


def header(names: str) -> Callable[[str], bytes]:
    return lambda text: text.replace("filename,label", names).encode()


def index_column(name: str) -> Callable[[str], bytes]:
    def add(text: str) -> bytes:
        first, *rows = text.splitlines()
        return "\n".join([f"{name},{first}", *(f"{n},{row}" for n, row in enumerate(rows))]).encode()

    return add


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(lambda text: text.replace(",", ";").encode(), id="semicolons"),
        pytest.param(lambda text: text.replace(",", "\t").encode(), id="tabs"),
        pytest.param(lambda text: text.encode("utf-8-sig"), id="UTF-8 with byte order mark"),
        pytest.param(lambda text: text.encode("utf-16"), id="UTF-16"),
        pytest.param(lambda text: text.replace(",", "\t").encode("utf-16"), id="UTF-16 with tabs"),
        pytest.param(lambda text: text.encode("cp1252"), id="Windows-1252"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(lambda text: text.replace("\n", "\n\n").encode(), id="blank lines"),
        pytest.param(lambda text: f"{text},\n,\n".encode(), id="blank rows"),
        pytest.param(lambda text: text.replace("\n", ",\n").encode(), id="trailing delimiter"),
        pytest.param(lambda text: text.replace(",", " , ").encode(), id="blanks around values"),
        pytest.param(
            lambda text: "".join(f'"{row}"\n'.replace(",", '","') for row in text.split()).encode(), id="quotes"
        ),
        *(
            pytest.param(header(f"{name},label"), id=name)
            for name in ("Filename", "image_path", "image", "FILE", "path")
        ),
        *(pytest.param(header(f"filename,{name}"), id=name) for name in (" Label ", "class", "Category", "action")),
        *(pytest.param(index_column(name), id=f"index column '{name}'") for name in ("", "index", "Unnamed: 0", "id")),
    ],
)
def test_reads_every_form_of_csv(kaggle: Path, save: Callable[[str], bytes]) -> None:
    path = kaggle / "Training_set.csv"
    text = path.read_text().replace("run", "läufer")
    path.write_text(text, encoding="utf-8")
    plain = read_dataset(kaggle)
    assert plain.classes == ["läufer", "sit"]
    path.write_bytes(save(text))
    assert read_dataset(kaggle) == plain


def test_csv_that_is_not_text_is_refused(kaggle: Path) -> None:
    for data in (b"PK\x03\x04\x00\x00", "filename,label\n".encode("utf-16-le"), b"\xff\xfea"):
        (kaggle / "Training_set.csv").write_bytes(data)
        with pytest.raises(InputError, match=r"Training_set.csv: is not a text file"):
            read_dataset(kaggle)


def test_names_with_commas_and_labels_that_look_like_missing_values(kaggle: Path) -> None:
    labels = ["NA", "null", "nan", "None", "007", "1e5", "true", "NA", "null", "nan"]
    names = [f'Image, "{n}".jpg' for n in range(10)]
    for n, name in enumerate(names):
        (kaggle / "train" / f"Image_{n}.jpg").rename(kaggle / "train" / name)
    write_rows(kaggle / "Training_set.csv", [("filename", "label"), *zip(names, labels, strict=True)])
    data = read_dataset(kaggle)
    assert [(sample.path.name, sample.label) for sample in data.train] == list(zip(names, labels, strict=True))
    assert data.classes == sorted(set(labels))


def test_one_column_of_names_with_other_delimiters(kaggle: Path) -> None:
    (kaggle / "test" / "Image_0.jpg").rename(kaggle / "test" / "a;b.jpg")
    (kaggle / "Testing_set.csv").write_text("filename\na;b.jpg\nImage_1.jpg\n")
    assert [sample.name for sample in read_dataset(kaggle).test] == ["test/a;b.jpg", "test/Image_1.jpg"]


def test_missing_files_are_counted_in_one_error(kaggle: Path) -> None:
    for n in range(4, 18):
        (kaggle / "train" / f"Image_{n}.jpg").unlink()
    with pytest.raises(
        InputError, match=r"Training_set.csv: 14 of 20 files do not exist: .*Image_4.jpg \(row 6\)"
    ) as caught:
        read_dataset(kaggle)
    assert "Image_8.jpg (row 10), …" in str(caught.value)
    assert "Image_9.jpg" not in str(caught.value)


def test_hidden_folders_and_unrelated_dataset_json_are_ignored(tmp_path: Path) -> None:
    for label in ("a", "b", ".ipynb_checkpoints"):
        (tmp_path / "train" / label).mkdir(parents=True)
        blobs(1).save(tmp_path / "train" / label / "1.jpg")
    (tmp_path / "dataset.json").write_text('{"labels": []}')
    data = read_dataset(tmp_path)
    assert data.classes == ["a", "b"]
    assert data.name == tmp_path.name


def test_test_label_missing_from_training_is_named(kaggle: Path) -> None:
    write_rows(kaggle / "Testing_set.csv", [("filename", "label"), ("Image_0.jpg", "fly")])
    with pytest.raises(InputError, match=r"test/Image_0.jpg has the label 'fly'"):
        read_dataset(kaggle)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 20), "blue")
    image.paste("red", (0, 0, 30, 10))  # the upper half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # to be displayed rotated by 90 degrees clockwise
    image.save(tmp_path / "rotated.jpg", exif=exif, quality=95)
    upright = np.asarray(load_image(tmp_path / "rotated.jpg")).astype(int)
    assert upright.shape == (30, 20, 3)
    assert upright[15, 17, 0] > 200 > 50 > upright[15, 2, 0]  # red is on the right now


def test_every_colour_mode_is_decoded_to_rgb(tmp_path: Path) -> None:
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
    assert (
        np.asarray(load_image(tmp_path / "clear.png")).min() == 255
    )  # transparent pixels become white, whatever their colour


def test_dataset_items_and_seeded_crops(kaggle: Path) -> None:
    data = read_dataset(kaggle)
    plain = HarDataset(data.train, data.classes, EvalTransform(64))
    image, target = plain[1]
    assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)
    assert target == 1
    torch.testing.assert_close(image, plain[1][0])
    seeded = HarDataset(data.train, data.classes, TrainTransform(64), seeds=list(range(20)))
    torch.testing.assert_close(seeded[4][0], seeded[4][0])
    unseeded = HarDataset(data.train, data.classes, TrainTransform(64))
    assert not torch.equal(unseeded[4][0], unseeded[4][0])


def test_normalise_maps_imagenet_mean_to_zero(tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (124, 116, 104)).save(tmp_path / "mean.png")
    values = normalise(EvalTransform(224)(load_image(tmp_path / "mean.png")))
    assert values.shape == (3, 224, 224)
    assert values.abs().max() < 0.02


def test_eval_transform_equals_torchvision_resize_and_centre_crop(tmp_path: Path) -> None:
    """Cropping and resizing in one step gives what resizing and then cropping gives."""
    wide = blobs(3, (301, 199))
    ours = EvalTransform(224)(wide).float()
    theirs = v2.Compose([v2.Resize(224), v2.CenterCrop(224), v2.PILToTensor()])(wide).float()
    assert (ours - theirs).abs().mean() < 1.5  # of 255; the two round the crop's corners differently


def test_tta_views_crop_and_flip_wide_and_tall_images() -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (150, 0, 300, 100))
    wide.paste("white", (0, 0, 300, 5))
    for transpose in (None, Image.Transpose.TRANSPOSE):  # the second has red above and white on the left
        image = wide.transpose(transpose) if transpose is not None else wide
        centre, smaller, wider, full = (view(image).float() for view in tta_views(64, 32))
        smaller, wider = smaller.flip(-1), wider.flip(-1)
        if transpose is not None:
            centre, smaller, wider, full = (view.mT for view in (centre, smaller, wider, full))
        assert [view.shape for view in (centre, smaller, wider, full)] == [(3, 64, 64)] * 3 + [(3, 32, 32)]
        for view, white in ((centre, 0.05), (smaller, 0), (wider, 0.05), (full, 0.05)):
            assert view[1].mean() / 255 == pytest.approx(white, abs=0.01)  # only white has green
            half = view.shape[2] // 2
            assert view[0, -1, : half - 1].min() == 255
            assert view[0, -1, half + 1 :].max() == 0


def test_centre_crop_box_by_reach() -> None:
    assert [middle(300, 100, reach) for reach in (1, 0.5, 2, math.inf)] == [
        (100, 0, 200, 100),
        (125, 25, 175, 75),
        (50, 0, 250, 100),
        (0, 0, 300, 100),
    ]


def test_large_jpegs_are_decoded_at_reduced_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn
    blobs(5, (3000, 2000)).save(tmp_path / "large.jpg", quality=95, exif=exif)
    transform = EvalTransform(320)
    full, small = load_image(tmp_path / "large.jpg"), load_image(tmp_path / "large.jpg", transform.min_side)
    assert full.size == (2000, 3000)  # upright
    assert small.size == (1000, 1500)
    assert (transform(full).float() - transform(small).float()).abs().mean() < 2
    crops = TrainTransform(64, 0.35, flip=False)
    assert crops.min_side >= 2 * 64 / (0.35 * 3 / 4) ** 0.5
