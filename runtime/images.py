"""Finds image files and decodes them to upright 8-bit RGB."""

import functools
import io
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from runtime.errors import InputError

try:
    from pillow_heif import register_heif_opener  # optional: the photographs of many telephones

    register_heif_opener()
except ImportError:
    pass

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
HEIF_FIX = "install Pillow's plugin (pip install pillow-heif) or convert to JPEG"
ICONS = (b"\0\0\1\0", b"icns")  # their inner images are decoded when the file is opened, whatever their size
UNDECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # formats that Pillow recognises but cannot decode alone
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # from where on Pillow refuses an image, before it decodes it
JPEG_START = b"\xff\xd8"
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential, progressive: markers of the image's size


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of all files that Pillow opens, in lower case."""
    formats = Image.registered_extensions()  # loads all plugins: 0.2 s
    opened = {"MPO", *Image.OPEN} - UNDECODED - {"ICO", "ICNS"}  # MPO: opened as JPEG
    return frozenset(suffix for suffix, name in formats.items() if name in opened)


def is_image_name(name: str) -> bool:
    """Whether a file's suffix, in any case, is that of an image."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


def image_files(folder: Path) -> list[Path]:
    """Image files in `folder` and below, sorted, without hidden files and folders."""
    return [folder / name for name in file_names(folder) if is_image_name(name)]


def file_names(folder: Path) -> list[str]:
    """Files in `folder` and below, relative to it, with "/", sorted; none if there is no such folder.

    Links to folders are followed, but not into a folder that they lie in. Hidden files and folders are left out.
    """
    if not os.path.isdir(folder):
        return []
    found, todo = [], [((), frozenset(map(str, Path(os.path.realpath(folder)).parents)))]
    while todo:
        inside, above = todo.pop()
        place = os.path.join(folder, *inside)
        real = os.path.realpath(place)
        if real in above:
            continue
        for entry in os.scandir(place):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                todo.append(((*inside, entry.name), above | {real}))
            elif entry.is_file() or entry.is_symlink():  # a broken link is an image that is missing
                found.append((*inside, entry.name))
    return ["/".join(parts) for parts in sorted(found)]


def decode_pixels(data: bytes, min_side: int = 0) -> np.ndarray:
    """Decodes the content of an image file to upright RGB, (h, w, 3) uint8, transparent parts over white.

    Plain JPEGs go through torchcodec, which is Pillow's decoder with Pillow's pixels, but leaves Python's lock free, so
    that threads decode on all cores.

    Args:
        min_side: a short side that is enough, in pixels; larger JPEGs are decoded at 1/2, 1/4 or 1/8. 0: full size.

    Raises: OSError (from Pillow) where the data is truncated or not an image.
    """
    size = plain_jpeg_size(data)
    if size and not 0 < 2 * min_side <= min(size):
        from torchcodec.decoders import decode_jpeg

        try:
            return decode_jpeg(data, mode="RGB").permute(1, 2, 0).numpy()
        except RuntimeError:
            pass  # damaged: Pillow says how
    with open_image(data) as file:
        if min_side:
            file.draft("RGB", (min_side, min_side))
        return np.asarray(to_rgb(ImageOps.exif_transpose(file)))


def open_image(data: bytes) -> Image.Image:
    """Opens the content of an image file without decoding it. Raises: OSError where it is not an image."""
    if data.startswith(ICONS):
        raise OSError("an icon, not a photograph")
    try:
        file = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        is_heif = data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS
        raise OSError(f"HEIC: {HEIF_FIX}" if is_heif else "not an image that Pillow opens") from None
    if file.format in UNDECODED:  # of an EPS, decoding would start Ghostscript
        raise OSError(f"{file.format}: a format that is not read; convert it to PNG or JPEG")
    return file


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a grey or YCbCr JPEG of 8 bits without EXIF, which may turn it; None for anything else.

    Reads the segments before the image data (ITU-T T.81, annex B).
    """
    position = 2
    while data[:2] == JPEG_START and data[position : position + 1] == b"\xff" and len(data) >= position + 10:
        kind, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        content = data[position + 4 : position + 2 + length]
        if kind in FRAMES:
            if len(content) < 6:
                return None
            bits, height, width, components = struct.unpack_from(">BHHB", content)
            is_plain = bits == 8 and components in (1, 3) and 0 < width * height <= MAX_PIXELS
            return (width, height) if is_plain else None
        if content.startswith((b"Exif", b"Adobe")) or kind == 0xDA:  # Adobe's may hold RGB; image data without a frame
            return None
        position += 2 + length
    return None


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = image.point(lambda value: value / 257).convert("L")  # Pillow would clip 0..65535 at 255
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def load_image(path: Path, min_side: int = 0) -> Image.Image:
    """Decodes an image file, see `decode_pixels`. Raises: OSError where it is missing, truncated or not an image."""
    return Image.fromarray(decode_pixels(path.read_bytes(), min_side))


def check_size(data: bytes, most: int) -> None:
    """Reads the size of an image from its header alone. Raises: InputError above `most` pixels; what Pillow raises."""
    limit = f"{most // 10**6} million"
    try:
        with open_image(data) as file:
            width, height = file.size
    except Image.DecompressionBombError as error:
        raise InputError(f"the image has far more than {limit} pixels; give a smaller one") from error
    if width * height > most:
        raise InputError(f"the image has {width} × {height} pixels, more than {limit}; give a smaller one")
