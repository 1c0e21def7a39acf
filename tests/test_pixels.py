"""runtime/images.py: pixels of every depth, byte order and colour mode become the same 8-bit RGB, or are refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs
from PIL import ExifTags, Image

from dataset import EvalTransform, Sample
from features.decode import DecodedImages
from runtime.errors import InputError
from runtime.images import LARGE, MAX_PIXELS, decode_pixels, upright_size
from splits.scan import scan_file

RAMP = np.tile(np.linspace(0, 1, 40), (30, 1))  # black on the left, white on the right


def tiff(values: np.ndarray, sample_format: int = 1, photometric: int = 1) -> bytes:
    """A greyscale TIFF of these values (h, w), in their byte order. Sample formats: 1 unsigned, 2 signed, 3 float."""
    order = ">" if values.dtype.byteorder == ">" else "<"
    bits = 8 * values.dtype.itemsize
    tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: values.shape[0], 279: values.nbytes, 339: sample_format}
    long = {256, 257, 273, 278, 279}
    entries = [
        struct.pack(f"{order}HHII", tag, 4, 1, value) if tag in long
        else struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        for tag, value in tags.items()
    ]  # fmt: skip
    start = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, 8 + values.nbytes)
    return start + values.tobytes() + struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


GREY = Image.fromarray(np.rint(RAMP * 255).astype(np.uint8))
SIXTEEN = Image.fromarray(np.rint(RAMP * 65535).astype(np.uint16))
FILES = {
    f"TIFF {dtype} to {top}": tiff((RAMP * top).astype(dtype), form)
    for dtype, top, form in (
        ("<u2", 65535, 1), (">u2", 65535, 1), ("<u2", 4095, 1), (">u2", 4095, 1), ("<u2", 255, 1),
        ("<i4", 65535, 2), (">i4", 255, 2), ("<f4", 1, 3), (">f4", 1, 3), ("<f4", 255, 3), (">f4", 65535, 3),
    )
} | {
    "TIFF 16 bits, 0 is white": tiff(65535 - (RAMP * 65535).astype("<u2"), photometric=0),
    "PGM 16 bits": b"P5 40 30 65535\n" + (RAMP * 65535).astype(">u2").tobytes(),
    "PGM 10 bits": b"P5 40 30 1023\n" + (RAMP * 1023).astype(">u2").tobytes(),
    "PFM": b"Pf\n40 30\n-1.0\n" + RAMP.astype("<f4").tobytes(),
    "JPEG 2000, 16 bits": saved(SIXTEEN, "JPEG2000"),
    "PNG, 16 bits": saved(SIXTEEN, "PNG"),
    "PNG with alpha": saved(GREY.convert("LA"), "PNG"),
    "TIFF with alpha": saved(GREY.convert("LA"), "TIFF"),
    "YCbCr": saved(GREY.convert("RGB").convert("YCbCr"), "TIFF"),
    "CMYK": saved(GREY.convert("RGB").convert("CMYK"), "TIFF"),
    "palette": saved(GREY.convert("P"), "GIF"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_pixels_of_every_depth_are_scaled_to_8_bits(name: str) -> None:
    pixels = decode_pixels(FILES[name]).astype(int)
    assert pixels.shape == (30, 40, 3)
    assert np.abs(pixels - np.asarray(GREY)[..., None]).max() <= 2


def test_a_dark_png_of_16_bits_stays_dark() -> None:
    assert decode_pixels(saved(Image.new("I;16", (4, 4), 257 * 10), "PNG")).max() == 10


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            tiff((RAMP * 2**31 - 1).astype("<i4"), 2),
            r"from -1 to 2\.14748e\+09, of unknown range; convert it to 8 bits",
        ),
        (tiff((2 * RAMP - 1).astype("<f4"), 3), "values from -1 to 1, of unknown range"),
        (tiff(np.where(RAMP > 0.9, np.nan, RAMP).astype(">f4"), 3), "values from nan to nan"),
        (tiff((1.2 * RAMP).astype("<f4"), 3), r"values from 0 to 1\.2, of unknown range"),
        (tiff(RAMP.astype("<f8"), 3), "a kind of TIFF that Pillow does not open; convert it to 8 bits"),
        (tiff((RAMP * 127).astype("i1"), 2), "signed integers of 8 bits"),
        (b"", "the file is empty"),
    ],
)
def test_pixels_of_unknown_range_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(OSError, match=message):
        decode_pixels(data)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG", "TIFF", "AVIF"])
def test_every_format_is_turned_upright(form: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be displayed rotated by 90 degrees clockwise
    data = saved(GREY.convert("RGB"), form, exif=exif)
    pixels = decode_pixels(data)
    assert pixels.shape == (40, 30, 3)
    assert pixels[0].max() < 10 < 245 < pixels[-1].min()
    assert upright_size(data) == (30, 40)


def test_thin_images_and_broken_ones_are_the_same_to_every_reader(tmp_path: Path) -> None:
    """The scan, the data loader's decoder and that beside a GPU accept and refuse the same files."""
    whole = saved(blobs(1), "JPEG")
    good = {f"{w}x{h}.{form}": saved(Image.new("RGB", (w, h), "red"), form)
            for w, h in ((1, 1), (1, 10_000), (10_000, 1)) for form in ("PNG", "JPEG")}  # fmt: skip
    bad = {"empty.jpg": b"", "cut.jpg": whole[: len(whole) // 2], "cut.png": saved(blobs(1), "PNG")[:-60]}
    bad["float.tif"] = tiff((2 * RAMP - 1).astype("<f4"), 3)
    for name, data in (good | bad | FILES).items():
        (tmp_path / "file").write_bytes(data)
        scan = scan_file(tmp_path / "file")
        assert (scan.error is not None) == (name in bad), (name, scan.error)
        reader = DecodedImages(torch.device("cpu"), 1, room=0)
        batches = reader.batches([Sample(name, tmp_path / "file", None)], EvalTransform(16), [[0]], None)
        if name in bad:
            with pytest.raises(InputError, match=r"file: cannot be read \(.+\)"):
                next(batches)
        else:
            assert next(batches).shape == (1, 3, 16, 16)


def test_images_with_too_many_pixels_are_refused_by_their_header() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    gif = (
        b"GIF89a"
        + struct.pack("<HHBBB", 30_000, 30_000, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 30_000, 30_000, 0)
    )
    for data in (png, gif + b"\x02\x00;"):
        with pytest.raises(OSError, match="more than 268 million pixels; give a smaller image"):
            decode_pixels(data)


def test_large_photographs_of_telephones_are_scanned_at_reduced_size(tmp_path: Path) -> None:
    assert MAX_PIXELS > 200e6
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    large = blobs(3, (7200, 4800))
    assert large.width * large.height > LARGE
    large.save(tmp_path / "1.jpg", exif=exif)
    scan = scan_file(tmp_path / "1.jpg")
    assert (scan.width, scan.height, scan.error) == (4800, 7200, None)
    large.reduce(8).save(tmp_path / "2.jpg", exif=exif)
    assert (scan.dhash ^ scan_file(tmp_path / "2.jpg").dhash).bit_count() <= 2
