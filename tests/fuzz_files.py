"""Bad files, drawn at random: images, tables, class names and datasets, for test_fuzz.py and fuzz.py."""

import csv
import io
import os
import random
import string
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = {  # by suffix, Pillow's name and the mode of the image
    "png": ("PNG", "RGB"), "jpg": ("JPEG", "RGB"), "tif": ("TIFF", "RGB"), "gif": ("GIF", "P"), "webp": ("WEBP", "RGB"),
    "bmp": ("BMP", "RGB"), "ppm": ("PPM", "RGB"), "jp2": ("JPEG2000", "RGB"), "tga": ("TGA", "RGBA"),
    "ico": ("ICO", "RGBA"), "dds": ("DDS", "RGBA"), "pcx": ("PCX", "RGB"), "sgi": ("SGI", "RGB"), "im": ("IM", "RGB"),
}  # fmt: skip
WORDS = (
    "", " ", ".", "..", "...", "-", "--", "-x", "~", "*", "?", "%s", "%n%d", "{0}", "$a_b$", "$x_{", "\\frac", "a/b",
    "../up", "/nowhere/x", "C:\\x", "CON", "nul", "None", "null", "NA", "nan", "inf", "-inf", "1e999", "0", "-1", "1",
    "2", "9" * 30, "0x10", "1_0", "٣", "true", "a\nb", "a\tb", "a\rb", "\x1b[31mred", "\u202eabc", "\u2028", "\x7f",
    "é", "e\u0301", "日本語", "\U0001f3c3\u200d\u2640\ufe0f", "\ufeff", "'", '"', "`id`", "$(id)", "; ls", "&",
    "<b>x</b>", "</script>", "a" * 300, "x" * 5000, "\ud800", "auto", "cuda:99", "cpu", "meta", "random", "pretrained",
    "label", "filename", "train", "test", "a,b", "a;b", "run=1", "64",
)  # fmt: skip


def blob(seed: int, size: tuple[int, int] = (40, 32), mode: str = "RGB") -> Image.Image:
    """A smooth image, another one for each seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(suffix: str, seed: int = 0, size: tuple[int, int] = (40, 32)) -> bytes:
    """A good file of a format."""
    name, mode = FORMATS[suffix]
    file = io.BytesIO()
    blob(seed, size, mode).save(file, name)
    return file.getvalue()


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flips, overwrites, cuts, repeats or inserts bytes, up to four times; half of the time near the start."""
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        at = rng.randrange(min(len(data), rng.choice([64, 10**9])))
        length = rng.choice([1, 1, 2, 4, 16, 200])
        change = rng.randrange(6)
        piece = data[at : at + length]
        if change == 0:
            piece = bytes(byte ^ 1 << rng.randrange(8) for byte in piece)
        elif change == 1:
            piece = rng.choice([b"\xff", b"\0", b"\x7f", b"\x80"]) * length
        elif change == 2:
            data, piece = data[: at + length], b""
        elif change == 3:
            piece *= rng.choice([2, 50])
        elif change == 4:
            piece = rng.randbytes(length) + piece
        else:
            piece = b""
        data = data[:at] + piece + data[at + length :]
    return data


def png(width: int, height: int, rows: int = 4, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header claims a size, with as many rows as are wanted, all black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = b"\0" * (1 + width * channels * bits // 8)
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def with_exif(rng: random.Random) -> bytes:
    """A JPEG with broken EXIF."""
    exif = b"Exif\0\0" + mutate(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0", rng)
    data = encoded("jpg")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def deep(rng: random.Random) -> bytes:
    """Greyscale of 32 bits, whole numbers or floats, NaN and infinite ones among them."""
    values = np.full((32, 40), rng.choice([1, -1, 70000]), np.int32)
    if rng.random() < 0.6:
        values = np.full((32, 40), rng.choice([0.5, 3e38, -1]), np.float32)
        values[3, 4] = rng.choice([np.nan, np.inf, -np.inf, 0])
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    return file.getvalue()


def image_bytes(rng: random.Random) -> tuple[str, bytes]:
    """Suffix and content of a file that is seldom a good image."""
    suffix = rng.choice(list(FORMATS))
    draws: list[Callable[[], tuple[str, bytes]]] = [
        lambda: (suffix, mutate(encoded(suffix), rng)),
        lambda: (suffix, mutate(encoded(suffix), rng)),
        lambda: (suffix, encoded(rng.choice(list(FORMATS)))),  # of another format
        lambda: (suffix, rng.randbytes(rng.choice([0, 1, 3, 100, 5000]))),
        lambda: ("png", png(rng.choice([0, 1, 40, 2**31 - 1, 60000]), rng.choice([0, 1, 32, 2**31 - 1, 60000]), 1)
                 if rng.random() < 0.5 else png(1, rng.choice([1, 20000]), 20000)),
        lambda: ("tif", deep(rng)),
        lambda: ("jpg", with_exif(rng)),
        lambda: ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        lambda: ("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n"),
        lambda: ("pgm", b"P5 40 32 65535\n" + bytes(100)),
        lambda: ("ppm", b"P3 40 32 255\n" + b"9" * 3000),
    ]  # fmt: skip
    return rng.choice(draws)()


def word(rng: random.Random) -> str:
    """Any text, seldom a good one; may hold surrogates and line breaks, no NUL."""
    if rng.random() < 0.15:
        return "".join(rng.choice(string.printable) for _ in range(rng.randrange(12)))
    return rng.choice(WORDS)


def file_name(rng: random.Random) -> str:
    """As `word`, short enough for a file and without slashes."""
    name = word(rng).replace("/", "_").encode(errors="replace")[:60].decode(errors="ignore")
    return name if name not in ("", ".", "..") else f"{name}_"


def table(rng: random.Random, names: list[str], labels: list[str]) -> bytes:
    """A CSV list of images, damaged in one or two ways."""
    header, rows = ["filename", "label"], [list(pair) for pair in zip(names, labels, strict=True)]
    for _ in range(rng.randint(1, 2)):
        change, row = rng.randrange(9), rng.choice(rows)
        if change == 0:
            header = [word(rng), word(rng), word(rng)][: rng.randrange(4)]
        elif change == 1:
            row[0] = word(rng)
        elif change == 2:
            odd = word(rng)
            rows = [[row[0], odd if n % 2 else row[1]] for n, row in enumerate(rows)]
        elif change == 3:
            row.append(word(rng))
        elif change == 4:
            row[1] = word(rng)
        elif change == 5:
            header = ["path", "image", "label"]
        elif change == 6:
            rows.append(list(row))
        elif change == 7:
            rows = rows[: rng.randrange(3)] or [["", ""]]
        rows = [[*row, "", ""][: max(2, len(row))] for row in rows]
    text = io.StringIO()
    form = {"delimiter": rng.choice(",;\t,,|"), "lineterminator": rng.choice(["\n", "\r\n", "\r"])}
    csv.writer(text, quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), **form).writerows([header, *rows])
    data = text.getvalue().encode(rng.choice(["utf-8", "utf-8-sig", "utf-16", "cp1252", "utf-32"]), "replace")
    return mutate(data, rng) if rng.random() < 0.3 else data


def class_folders(root: Path, classes: list[str], count: int = 10) -> None:
    for index, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            blob(index * count + n).save(root / name / f"{n}.png")


def csv_dataset(root: Path, rng: random.Random) -> None:
    names = [f"{n}.png" for n in range(20)]
    class_folders(root, ["train"], len(names))
    (root / "Training_set.csv").write_bytes(table(rng, names, [("run", "sit")[n % 2] for n in range(len(names))]))
    if rng.random() < 0.3:
        class_folders(root, ["test"], 4)
        (root / "Testing_set.csv").write_bytes(table(rng, names[:4], ["run", "sit"] * 2))


def named_dataset(root: Path, rng: random.Random) -> None:
    """Class folders, files and a dataset of odd names."""
    class_folders(root, [file_name(rng) for _ in range(3)])
    for folder in sorted(root.iterdir()):
        (folder / "0.png").rename(folder / f"{file_name(rng)}.png")
    (root / "dataset.json").write_text(
        rng.choice(['{"name": "\\ud800\\n$a_{"}', "[]", "{", '{"name": NaN}', '{"name": ""}'])
    )


def spoilt_dataset(root: Path, rng: random.Random) -> None:
    """Class folders, some of whose images are broken."""
    class_folders(root, ["run", "sit"], 12)
    for path in rng.sample(sorted(root.rglob("*.png")), rng.choice([1, 3, 20])):
        suffix, data = image_bytes(rng)
        path.unlink()
        path.with_suffix(f".{suffix}").write_bytes(data)


def twisted_dataset(root: Path, rng: random.Random) -> None:
    """Class folders, with something in a place that is another thing's."""
    class_folders(root / rng.choice(["", "train"]), ["run", "sit"], 12)
    some = rng.choice(sorted(root.rglob("*.png")))
    twists: list[Callable[[], object]] = [
        lambda: (root / "Training_set.csv").mkdir(),
        lambda: os.mkfifo(root / "Training_set.csv"),
        lambda: (root / "Training_set.csv").symlink_to("/dev/zero"),
        lambda: (root / "Training_set.csv").symlink_to("Training_set.csv"),
        lambda: (root / "Validation_set.csv").write_text("filename,label\n"),
        lambda: (root / "TRAIN").mkdir(exist_ok=True),
        lambda: (root / "test").write_text("x"),
        lambda: (root / "test").symlink_to(root),
        lambda: (some.parent / "loop").symlink_to(root),
        lambda: (root / "dataset.json").mkdir(),
        lambda: os.mkfifo(root / "dataset.json"),
        lambda: (some.unlink(), some.symlink_to(some)),
        lambda: (some.unlink(), some.mkdir()),
        lambda: (some.unlink(), some.symlink_to("/dev/zero")),
        lambda: (some.unlink(), os.mkfifo(some)),
        lambda: [path.unlink() for path in root.rglob("*.png") if "run" in path.parts],
        lambda: [path.write_bytes(some.read_bytes()) for path in root.rglob("*.png")],
        lambda: os.truncate(some, 2**40),
        lambda: some.chmod(0),
    ]
    rng.choice(twists)()


DATASETS = (csv_dataset, csv_dataset, named_dataset, spoilt_dataset, twisted_dataset)
