"""Packs what a GPU machine without a network needs for benchmarks/gpu_check.sh, and unpacks it there.

    python -m benchmarks.carry --data DIR --out OUT           packs into OUT/1, OUT/2 …: folders of at most --limit MB
    python -m benchmarks.carry --data DIR OUT/1 OUT/2 …       unpacks there, also one folder after the other

Photographs are encoded anew as JPEG of quality 75, the ImageNet weights rounded to float16, and the wheels of packages
fetched that such machines lack; the code itself goes along as a checkout. Figures of a trip hold for these photographs
and weights.
"""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import ZipFile

import safetensors
import safetensors.torch
import torch

from backbones.imagenet_weights import NPM_FILE, BackboneWeights, load_weights
from dataset import find_root
from layouts.parts import TEST_CSV, TRAIN_CSV
from runtime.console import parse_arguments, run_script
from runtime.errors import InputError
from runtime.images import load_image

WHEELS = (
    "torchcodec",
    "captum",
    "cleanlab",
    "pytest",
    "pytest-xdist",
)
QUALITY = 75  # of the photographs
ARCHIVES = 50  # of photographs, at most


@dataclass
class Args:
    data: Path
    """Folder of the dataset, in Kaggle's layout: to pack, or to make."""
    out: Path | None = None
    """Pack into this folder, which is made."""
    limit: int = 60
    """Megabytes in one folder of OUT."""
    python: str = "3.12"
    """Python's version on the other machine."""
    folders: tuple[Path, ...] = field(default=(), metadata={"positional": "FOLDER"})
    """Unpack these folders of OUT."""


def main(args: Args) -> None:
    if bool(args.out) == bool(args.folders):
        raise InputError("give --out OUT to pack, or folders of OUT to unpack")
    pack(args) if args.out else unpack(args)


def pack(args: Args) -> None:
    root = find_root(args.data)
    if root is None or not (root / TRAIN_CSV).is_file():
        raise InputError(f"{args.data}: holds no {TRAIN_CSV}; give a dataset in Kaggle's layout")
    args.out.mkdir(parents=True, exist_ok=False)
    loose = args.out / "loose"
    loose.mkdir()
    weights = load_weights("npm")
    half = {key: value.half() if value.dim() > 1 else value for key, value in weights.state.items()}
    safetensors.torch.save_file(
        half, loose / "weights.safetensors", {"name": weights.name, "stride_on": weights.stride_on}
    )
    for name in (TRAIN_CSV, TEST_CSV):
        (loose / name).write_bytes((root / name).read_bytes())
    pack_photographs(root, loose)
    fetch_wheels(loose, args.python)
    distribute(loose, args.out, args.limit * 10**6)


def pack_photographs(root: Path, folder: Path) -> None:
    files = sorted(file for part in ("train", "test") for file in (root / part).iterdir())
    step = -(-len(files) // ARCHIVES)
    for start in range(0, len(files), step):
        some = files[start : start + step]
        with ThreadPoolExecutor() as pool, ZipFile(folder / f"photographs_{start:06d}.zip", "w") as archive:
            for file, content in zip(some, pool.map(encode, some), strict=True):
                archive.writestr(file.relative_to(root).as_posix(), content)


def encode(file: Path) -> bytes:
    buffer = io.BytesIO()
    load_image(file).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def fetch_wheels(folder: Path, python: str) -> None:
    """Downloads wheels for Linux on x86-64, without what they need in turn."""
    platforms = [f"--platform=manylinux{name}_x86_64" for name in ("_2_28", "_2_27", "_2_17", "2014")]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    target = ["--implementation=cp", f"--python-version={python}", *platforms, f"--dest={folder}"]
    subprocess.run([*pip, *target, *WHEELS], check=True)


def distribute(loose: Path, out: Path, limit: int) -> None:
    """Moves files, the largest first, into numbered folders of at most `limit` bytes."""
    rooms: list[int] = []
    for file in sorted(loose.iterdir(), key=lambda file: -file.stat().st_size):
        size = file.stat().st_size
        number = next((number for number, used in enumerate(rooms) if used + size <= limit), len(rooms))
        if number == len(rooms):
            rooms.append(0)
        rooms[number] += size
        folder = out / str(number + 1)
        folder.mkdir(exist_ok=True)
        file.rename(folder / file.name)
    loose.rmdir()


def unpack(args: Args) -> None:
    args.data.mkdir(parents=True, exist_ok=True)
    for folder in args.folders:
        for file in folder.glob("*.csv"):
            (args.data / file.name).write_bytes(file.read_bytes())
        for file in folder.glob("*.zip"):
            with ZipFile(file) as archive:
                archive.extractall(args.data)
        for file in folder.glob("*.safetensors"):
            unpack_weights(file)


def unpack_weights(file: Path) -> None:
    """Writes the weights to torch's cache, as `--weights npm` keeps them, with the digest of what they are now."""
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in safetensors.torch.load_file(file).items()
    }
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    metadata["name"] += ", rounded to float16"
    metadata["sha256"] = BackboneWeights(metadata["name"], state, metadata["stride_on"]).sha256
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / NPM_FILE).exists():
        raise InputError(f"{folder / NPM_FILE}: exists; unpack with another TORCH_HOME, or delete it")
    safetensors.torch.save_file(state, folder / NPM_FILE, metadata)


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
