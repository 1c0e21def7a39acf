"""Feature maps of the frozen backbone, computed once per image and view: in a GPU's memory, or on disk.

On disk a store is a folder `data/cache/maps-<digest>/` for one combination of weights, view, transform, size and
arithmetic; its `recipe.json` spells them out. Rows are found by the SHA-256 of the image file, so that no features of
an edited image or of other weights can be read. Rows are appended: an interrupted build goes on where it stopped, and a
dataset that grew needs only its new images. Each row has a checksum, verified once in a run; damaged rows are computed
again.
"""

import hashlib
import math
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from dataset import EvalTransform, Sample, TrainTransform, Transform
from features.decode import ImageReader
from features.engines import Engine, split_on_oom
from features.spec import FeatureSpec
from runtime import distributed
from runtime.errors import InputError
from runtime.status import Progress

BATCH = 128  # images
MIN_CROP = 0.35  # of the area: a cached crop returns every epoch and should show the action each time
LINE = 65  # bytes of a line in rows.txt: a SHA-256 in hexadecimal digits
FULL_VIEW = 2  # the view of the full image, resized without keeping its aspect ratio


def view_transform(view: int, size: int, before_stage: bool = False) -> Transform:
    """Transform of a cached view: 0 is the centre crop of evaluation, 2 the full image, the others random crops.

    The backbone's output is mirrored when it is read, which costs nothing, so that a view stands for its mirror image
    too. Features from before a fine-tuned stage hold edges, whose mirror images live in other channels: there the full
    image and half of the crops are mirrored as images.
    """
    others = {0: EvalTransform(size), FULL_VIEW: EvalTransform(size, math.inf, mirrored=before_stage)}
    return others.get(view) or TrainTransform(size, MIN_CROP, flip=before_stage)


class FeatureStore:
    """Feature maps of one view: bfloat16, channels last, a row (h * w, C) per image.

    Args:
        cache: the cache folder.
        spec: weights, and where the frozen part ends.
        view: see `view_transform`.
        size: side of the square images in pixels.
        arithmetic: see `features.spec.arithmetic_name`.
        shape: channels C and side h of the feature maps.

    Attributes:
        before_stage: whether the features are inputs of a fine-tuned stage (see `view_transform`).
    """

    def __init__(
        self, cache: Path, spec: FeatureSpec, view: int, size: int, arithmetic: str, shape: tuple[int, int]
    ) -> None:
        self.view, self.size, self.before_stage = view, size, spec.unfreeze != "none"
        self.transform = view_transform(view, size, self.before_stage)
        text = spec.store_text(view, size, self.transform, arithmetic)
        self.folder = cache / f"maps-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.text = text
        self.maps_file, self.rows_file = self.folder / "maps.bin", self.folder / "rows.txt"
        self.sums_file = self.folder / "rows.crc32"  # 4 bytes a row; 0 where an older version wrote none
        channels, self.side = shape
        self.row_shape, self.map_shape = (self.side * self.side, channels), (channels, self.side, self.side)
        self.row_bytes = 2 * self.row_shape[0] * self.row_shape[1]
        self.pinned: Tensor | None = None
        self.device = torch.device("cpu")  # of the tensors that `read` returns
        self.rows: dict[str, int] = {}
        self.count = 0  # rows in the file, or pinned
        self.refresh()

    def refresh(self) -> None:
        """Reads which rows are complete: those whose digest is written in full and whose features lie on disk."""
        names = self.rows_file.read_bytes() if self.rows_file.exists() else b""
        on_disk = self.maps_file.stat().st_size // self.row_bytes if self.maps_file.exists() else 0
        self.count = min(len(names) // LINE, on_disk)
        digests = [names[row * LINE : row * LINE + LINE - 1].decode("latin-1") for row in range(self.count)]
        self.rows = {digest: row for row, digest in enumerate(digests)}  # of two rows of an image, the later one

    def damaged(self, digests: Sequence[str]) -> list[str]:
        """Those of these images whose rows on disk are not what was written."""
        sums = np.fromfile(self.sums_file, dtype="<u4") if self.sums_file.exists() else np.empty(0)
        listed = [digest for digest in digests if self.rows.get(digest, len(sums)) < len(sums)]
        known = [digest for digest in listed if sums[self.rows[digest]]]
        if not known:
            return []
        maps = self.map_file()

        def differs(digest: str) -> bool:
            return checksum(digest, maps[self.rows[digest]]) != sums[self.rows[digest]]

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib leaves Python's lock free
            return [digest for digest, bad in zip(known, pool.map(differs, known), strict=True) if bad]

    def map_file(self) -> np.memmap:
        """The rows on disk, as int16."""
        return np.memmap(self.maps_file, dtype=np.int16, mode="r", shape=(self.count, *self.row_shape))

    def append(self, digests: Sequence[str], rows: Tensor) -> None:
        """Appends rows (B, h * w, C), bfloat16, in memory or on disk."""
        count = self.count
        if self.pinned is not None:
            self.pinned[count : count + len(rows)] = rows
        else:
            self.write(digests, rows.contiguous().cpu(), count)
        self.rows |= {digest: count + index for index, digest in enumerate(digests)}
        self.count += len(rows)

    def write(self, digests: Sequence[str], rows: Tensor, count: int) -> None:
        """Writes rows behind the `count` that lie on disk; features first, so that a listed row is complete."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = rows.view(torch.int16).numpy()
        sums = np.array([checksum(*pair) for pair in zip(digests, values, strict=True)], dtype="<u4")
        for path, start, data in (
            (self.maps_file, count * self.row_bytes, values),
            (self.sums_file, count * sums.itemsize, sums),
            (self.rows_file, count * LINE, "".join(f"{digest}\n" for digest in digests).encode()),
        ):
            with path.open("r+b" if path.exists() else "wb") as file:
                file.truncate(start)  # drops what an interrupted build left half-written
                file.seek(start)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def pin(self, digests: Sequence[str], device: torch.device) -> None:
        """Copies these rows into the device's memory, from where they are read from then on."""
        pinned = torch.empty(len(digests), *self.row_shape, dtype=torch.bfloat16, device=device)
        for start in range(0, len(digests), BATCH):
            pinned[start : start + BATCH] = self.read(digests[start : start + BATCH]).to(device)
        self.pinned, self.device = pinned, device
        self.rows = {digest: row for row, digest in enumerate(digests)}

    def read(self, digests: Sequence[str], positions: Tensor | None = None) -> Tensor:
        """Returns rows (B, h * w, C), bfloat16; with positions (B, p), only those of each row, in that order.

        Maps the file anew at each call: pages of a lasting mapping would count as this process's memory.
        """
        rows = np.array([self.rows[digest] for digest in digests], dtype=np.int64)
        wanted = rows if positions is None else (rows[:, None], positions.numpy())
        if self.pinned is not None:
            return self.pinned[wanted]
        return torch.from_numpy(self.map_file()[wanted]).view(torch.bfloat16)  # a copy

    def build(
        self,
        make_engine: Callable[[int, int], Engine],
        samples: Sequence[Sample],
        digests: Sequence[str],
        reader: ImageReader,
        label: str,
        in_memory: bool = False,
    ) -> int:
        """Computes missing features, shows progress as `label`; returns the number of images.

        Several processes share the images; the main process writes.

        Args:
            make_engine: returns the backbone for a number of images of a size; not called where nothing is missing.
            in_memory: keep all features in the memory of the reader's device and nothing on disk.

        Raises: InputError where the processes do not share the cache folder.
        """
        by_digest = dict(zip(digests, samples, strict=True))
        if in_memory:
            self.device, self.rows, self.count = reader.device, {}, 0
            self.pinned = torch.empty(len(by_digest), *self.row_shape, dtype=torch.bfloat16, device=self.device)
            self.compute(make_engine(len(by_digest), self.size), by_digest, reader, label)
            return len(by_digest)
        count = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "lock") if distributed.is_main() else nullcontext():  # two runs build in turn
            if distributed.is_main():
                (self.folder / "recipe.json").write_text(self.text, encoding="utf-8")
            self.refresh()
            if distributed.is_main() and (damaged := self.damaged(list(by_digest))):
                print(f"note: {self.folder}: {len(damaged)} of its feature maps are damaged; computes these again")
                self.rows = {digest: row for digest, row in self.rows.items() if digest not in set(damaged)}
            todo = distributed.broadcast_object([digest for digest in by_digest if digest not in self.rows])
            if todo:
                count = len(todo)
                engine = make_engine(count, self.size)
                self.compute(engine, {digest: by_digest[digest] for digest in todo}, reader, label)
        distributed.barrier()
        self.refresh()
        if any(digest not in self.rows for digest in digests):
            raise InputError(f"{self.folder}: features are missing; give --cache a folder that all processes share")
        return count

    def compute(self, engine: Engine, todo: Mapping[str, Sample], reader: ImageReader, label: str) -> None:
        """Passes images, by digest, through the backbone, a batch per process at a time, and appends their features."""
        digests, samples = list(todo), list(todo.values())
        step = BATCH * distributed.world_size()
        rounds = [range(start, min(start + step, len(samples))) for start in range(0, len(samples), step)]
        own = [list(rows)[distributed.shard(len(rows))] for rows in rounds]
        is_random = isinstance(self.transform, TrainTransform)
        seeds = [int(digest[:12], 16) + self.view for digest in digests] if is_random else None
        sampler = [rows for rows in own if rows]  # the last round may leave none for the last processes
        images = iter(reader.batches(samples, self.transform, sampler, seeds))
        with Progress(label, len(samples)) as progress:
            for rows, mine in zip(rounds, own, strict=True):
                empty = torch.empty(0, *self.map_shape, device=reader.device)
                features = split_on_oom(engine, next(images)) if mine else empty
                stored = features.permute(0, 2, 3, 1).flatten(1, 2).to(torch.bfloat16)  # (B, h * w, C)
                stored = distributed.gather_to_main(stored)
                if distributed.is_main():
                    self.append([digests[row] for row in rows], stored)
                progress.update(len(rows))


def checksum(digest: str, row: np.ndarray) -> int:
    """CRC-32 of an image's digest and its features."""
    return zlib.crc32(np.ascontiguousarray(row), zlib.crc32(digest.encode()))


def check_disk_space(stores: Sequence[FeatureStore], digests: Sequence[Sequence[str]]) -> None:
    """Raises InputError where the disk cannot hold the rows missing in the stores, `digests` of each."""
    need = sum(
        store.row_bytes * sum(digest not in store.rows for digest in set(wanted))
        for store, wanted in zip(stores, digests, strict=True)
    )
    folder = stores[0].folder.parent
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise InputError(
            f"{folder}: feature maps need {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; give another disk with "
            "--cache, fewer --views or --channels, or --views 0 for no cache"
        )


def fits_gpu(count: int, device: torch.device) -> bool:
    """Whether half of the free memory of a GPU holds so many bytes; False for another device."""
    return device.type == "cuda" and count < torch.cuda.mem_get_info(device)[0] / 2
