"""Finds image files and decodes them to upright 8-bit RGB."""

import functools
import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import RLock

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from runtime.errors import InputError, first_line

try:
    from pillow_heif import register_heif_opener  # optional: the photographs of many telephones

    register_heif_opener()
except ImportError:
    pass

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"}
DEEP_FIX = "convert it to 8 bits for each colour"
HEIF_FIX = "install Pillow's plugin (pip install pillow-heif) or convert to JPEG"
ICONS = (b"\0\0\1\0", b"icns")  # their inner images are decoded when the file is opened, whatever their size
# Formats that Pillow recognises but cannot decode alone; of FITS it ignores the scale of the values.
UNDECODED = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "WMF"}
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339  # tags of TIFF
MAX_BYTES = 2**30  # of a file, which is read whole
LARGE = 2**25  # pixels from which an image's hash may come from a JPEG's reduced size; whole, 200 million take 0.6 GB
STRIP = 2**22  # pixels that are converted at a time
TURN = RLock()
MAX_PIXELS = 2**28  # telephones take up to 200 million; larger images are refused before they are decoded
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from here on, and refuses twice as many
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of odd metadata, which is not read
RANGES = (255, 4095, 65535)  # largest values of 8, 12 and 16 bits
QUARTER_TURNED = 5  # from this EXIF orientation on, rows are columns
JPEG_START = b"\xff\xd8"
FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential, progressive: markers of the image's size


class TooManyPixelsError(OSError):
    """An image's header declares more than `MAX_PIXELS` pixels."""


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
    with decoding(), open_image(data) as file, turn(*file.size):
        if min_side:
            file.draft("RGB", (min_side, min_side))
        ImageOps.exif_transpose(file, in_place=True)  # else a copy, of large photographs too
        return to_pixels(file)


@contextmanager
def decoding() -> Iterator[None]:
    """Makes whatever else Pillow's decoders raise (SyntaxError, ValueError, struct.error, …) an OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(first_line(error)) from error


def open_image(data: bytes) -> Image.Image:
    """Opens the content of an image file without decoding it.

    Raises: OSError where it is not an image, or has more than `MAX_PIXELS`.
    """
    if not data:
        raise OSError("the file is empty")
    if data.startswith(ICONS):
        raise OSError("an icon, not a photograph")
    try:
        file = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        is_heif = data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS
        is_tiff = data.startswith(TIFF_STARTS)
        kind = f"HEIC: {HEIF_FIX}" if is_heif else f"a kind of TIFF that Pillow does not open; {DEEP_FIX}"
        raise OSError(kind if is_heif or is_tiff else "not an image that Pillow opens") from None
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"more than {MAX_PIXELS // 10**6} million pixels; give a smaller image") from error
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


def upright_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image, upright, from its header alone. Raises: as `open_image`."""
    plain = plain_jpeg_size(data)
    if plain:
        return plain
    with decoding(), open_image(data) as file:
        turned = file.getexif().get(ExifTags.Base.Orientation, 1) >= QUARTER_TURNED
        return file.size[::-1] if turned and file.format != "TIFF" else file.size  # Pillow turns that of a TIFF


def to_pixels(image: Image.Image) -> np.ndarray:
    """Decodes an opened image to 8-bit RGB, (h, w, 3). Raises: OSError where the range of its values is unknown.

    Converts some rows at a time: whole, a large image would be in memory four times.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "L" and tags.get(SAMPLE_FORMAT) == (2,):
        raise OSError(f"pixels are signed integers of 8 bits; {DEEP_FIX}")
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    top = grey_range(image, image.mode, image.format) if deep else 0
    transparent = image.has_transparency_data
    if image.size[0] * image.size[1] <= STRIP:
        return strip_pixels(image, top, tags.get(PHOTOMETRIC) == 0, transparent)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for row, strip in strips(image):
        pixels[row : row + strip.height] = strip_pixels(strip, top, tags.get(PHOTOMETRIC) == 0, transparent)
    return pixels


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Parts of an image, whole rows of about `STRIP` pixels, and the first row of each."""
    rows = max(1, STRIP // image.width)
    for row in range(0, image.height, rows):
        yield row, image.crop((0, row, image.width, min(row + rows, image.height)))


def strip_pixels(image: Image.Image, top: int, inverted: bool, transparent: bool) -> np.ndarray:
    """RGB pixels (h, w, 3) of a part of an image.

    Args:
        top: of greyscale values of more than 8 bits, the largest of their range; else 0.
        inverted: whether the 0 of such values is white.
        transparent: whether parts of the whole image are, which then lie over white.
    """
    if top:
        grey = np.rint(np.asarray(image).astype(np.float32) * (255 / top)).astype(np.uint8)
        return np.broadcast_to((255 - grey if inverted else grey)[..., None], (*grey.shape, 3)).copy()
    if transparent:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def grey_range(image: Image.Image, mode: str, form: str | None) -> int:
    """Finds the range of greyscale values of 16 or 32 bits, or floats; Pillow would clip them at 255.

    PNG, PGM and JPEG 2000 use all 16 bits. TIFF and the rest do not say which of their bits they use: the range is the
    smallest that holds all values, of floats also 0..1.

    Returns: its largest value; its smallest is 0.

    Raises: OSError naming the values that no range holds, or that would all but vanish in one.
    """
    ends = [(values.min(), values.max()) for values in (np.asarray(strip) for _, strip in strips(image))]
    low, high = float(np.min(ends)), float(np.max(ends))
    is_float = mode == "F"
    declared = form in ("PNG", "PPM", "JPEG2000") and not is_float
    ranges = RANGES[-1:] if declared else ((1,) * is_float + RANGES)
    top = next((top for top in ranges if high <= top), 0)
    if not (top and low >= 0) or (is_float and 0 < high < top / 16):
        raise OSError(f"pixel values from {low:g} to {high:g}, of unknown range; {DEEP_FIX}")
    return top


def read_file(path: Path) -> bytes:
    """The content of an image file. Raises: OSError where it is missing, no file (a device, a pipe) or too large."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError("is a folder" if path.is_dir() else "is not a file")
    if about.st_size > MAX_BYTES:
        raise OSError(f"the file has more than {MAX_BYTES // 10**6} million bytes; give a smaller image")
    return path.read_bytes()


def turn(width: int, height: int) -> AbstractContextManager:
    """A lock for the time in which a thread holds a large image's pixels; several would fill the memory."""
    return TURN if width * height > LARGE else nullcontext()


def load_image(path: Path, min_side: int = 0) -> Image.Image:
    """Decodes an image file, see `decode_pixels`. Raises: OSError where it is missing, truncated or not an image."""
    return Image.fromarray(decode_pixels(read_file(path), min_side))


def check_size(data: bytes, most: int) -> None:
    """Reads the size of an image from its header. Raises: InputError above `most` pixels; OSError as `open_image`."""
    limit = f"{most // 10**6} million"
    try:
        with decoding(), open_image(data) as file:
            width, height = file.size
    except TooManyPixelsError as error:
        raise InputError(f"the image has far more than {limit} pixels; give a smaller one") from error
    if width * height > most:
        raise InputError(f"the image has {width} × {height} pixels, more than {limit}; give a smaller one")
