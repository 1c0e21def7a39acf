"""The frozen backbone, run once for each view of a picture: feature maps on disk.

A store is a folder `data/cache/maps-<key>/` for one combination of weights, view, transform, size and precision, which
`recipe.json` spells out and the key digests. Inside it, rows are found by the SHA-256 of a picture's bytes, so that no
map of an edited picture or of other weights can be read. Rows are appended: an interrupted build goes on where it
stopped, and a dataset that grew needs only its new pictures.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

from dataset import HarDataset, Sample, eval_transform, train_transform
from device import autocast
from errors import InputError
from model import MAP_CHANNELS, STRIDE

BATCH = 32  # the backbone's throughput on a CPU is flat from here on, and 64 pictures need 1 GB
SMALLEST_CROP = 0.35  # of the area: a cached crop comes back every epoch, and should show the action each time
FORMAT = 1  # to be raised when the same recipe would give other numbers


class FeatureStore:
    """Feature maps of one view on disk, bfloat16, channels last: a row is (h * w, 2048).

    Args:
        folder: the cache folder.
        weights_sha256: digest of the backbone.
        view: 0 is the evaluation view, 1, 2, … are random crops, another for each number.
        size: side of the square picture in pixels.
        dtype: what the backbone computes in.
    """

    def __init__(self, folder: Path, weights_sha256: str, view: int, size: int, dtype: torch.dtype) -> None:
        self.view, self.side, self.dtype = view, size // STRIDE, dtype
        # Flips are left to the maps, where they cost nothing: a view stands for its mirror image too.
        self.transform: v2.Compose = train_transform(size, SMALLEST_CROP, flip=False) if view else eval_transform(size)
        recipe = {
            "format": FORMAT,
            "weights": weights_sha256,
            "view": view,
            "size": size,
            "transform": repr(self.transform),
            "precision": str(dtype),
        }
        text = json.dumps(recipe, indent=1)
        self.folder = folder / f"maps-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "recipe.json").write_text(text, encoding="utf-8")
        self.maps_file, self.rows_file = self.folder / "maps.bin", self.folder / "rows.txt"
        self.row_shape = (self.side * self.side, MAP_CHANNELS)
        self.map_shape = (MAP_CHANNELS, self.side, self.side)
        self.row_bytes = 2 * self.row_shape[0] * self.row_shape[1]
        self.rows: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads which rows are there: those whose digest is written in full and whose map lies on disk."""
        lines = self.rows_file.read_text(encoding="ascii").split("\n")[:-1] if self.rows_file.exists() else []
        on_disk = self.maps_file.stat().st_size // self.row_bytes if self.maps_file.exists() else 0
        self.rows = {sha256: row for row, sha256 in enumerate(lines[:on_disk])}

    def append(self, digests: Sequence[str], maps: Tensor) -> None:
        """Writes maps (B, 2048, h, w) behind what is there; maps first, so that a listed row is a whole row."""
        rows = maps.permute(0, 2, 3, 1).to(torch.bfloat16).contiguous().cpu()  # (B, h, w, 2048)
        count = len(self.rows)
        for path, start, data in (
            (self.maps_file, count * self.row_bytes, rows.view(torch.int16).numpy().tobytes()),
            (self.rows_file, count * 65, "".join(f"{digest}\n" for digest in digests).encode()),
        ):
            with path.open("r+b" if path.exists() else "wb") as file:
                file.truncate(start)  # drops what an interrupted build left half-written
                file.seek(start)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        self.rows |= {digest: count + index for index, digest in enumerate(digests)}

    def read(self, digests: Sequence[str]) -> Tensor:
        """Returns maps (B, 2048, h, w), bfloat16, channels last in memory.

        Mapped anew at each call: pages of a mapping that stays would count as this process's memory.
        """
        shape = (len(self.rows), *self.row_shape)
        mapped = np.memmap(self.maps_file, dtype=np.int16, mode="r", shape=shape)
        rows = torch.from_numpy(mapped[[self.rows[digest] for digest in digests]])  # a copy, (B, h * w, 2048)
        return rows.view(torch.bfloat16).unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)

    def build(
        self,
        backbone: nn.Module,
        samples: Sequence[Sample],
        digests: Sequence[str],
        device: torch.device,
        workers: int,
        label: str,
    ) -> int:
        """Computes the maps that are missing, with a progress bar named `label`. Returns how many were.

        Raises: InputError where the disk is too small.
        """
        with FileLock(self.folder / "lock"):  # two runs at once build one after the other
            self.refresh()
            todo = {digest: sample for digest, sample in zip(digests, samples, strict=True) if digest not in self.rows}
            if not todo:
                return 0
            self.check_disk(len(todo))
            seeds = [int(digest[:12], 16) + self.view for digest in todo]
            pictures = HarDataset(list(todo.values()), [], self.transform, seeds)
            loader = DataLoader(pictures, BATCH, num_workers=workers, pin_memory=device.type == "cuda")
            names = iter(todo)
            with tqdm(total=len(todo), desc=label, unit=" images") as bar:
                for images, _ in loader:
                    maps = self.compute(backbone, images.to(device, non_blocking=True))
                    self.append([next(names) for _ in images], maps)
                    bar.update(len(images))
        return len(todo)

    @torch.inference_mode()
    def compute(self, backbone: nn.Module, images: Tensor) -> Tensor:
        with autocast(images.device, self.dtype):
            return backbone(images.contiguous(memory_format=torch.channels_last))  # (B, 2048, h, w)

    def check_disk(self, count: int) -> None:
        need, free = count * self.row_bytes, shutil.disk_usage(self.folder).free
        if need > free:
            raise InputError(
                f"{self.folder}: {need / 1e9:.1f} GB of feature maps are to be written and {free / 1e9:.1f} GB are "
                "free; give another disk with --cache, or --views 1, or --views 0 for no cache"
            )


def map_batches(
    stores: Sequence[FeatureStore],
    digests: Sequence[str],
    targets: Sequence[int],
    batch_size: int,
    generator: torch.Generator | None = None,
    coarse: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (maps (B, 2048, h, w) float32 or bfloat16, targets (B,)).

    With a generator, in random order, each picture in one of the stores' views, half of them mirrored; without, in
    the given order from the first store. `coarse` > 0 averages the maps down to that side.
    """
    labels = torch.tensor(targets)
    count, dtype = len(digests), stores[0].dtype
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    for chosen in order.split(batch_size):
        views = torch.zeros(len(chosen), dtype=torch.long)
        if generator is not None:
            views = torch.randint(len(stores), (len(chosen),), generator=generator)
        maps = torch.empty(len(chosen), *stores[0].map_shape, dtype=torch.bfloat16)
        for view, store in enumerate(stores):
            where = (views == view).nonzero().flatten()
            if len(where):
                maps[where] = store.read([digests[index] for index in chosen[where].tolist()])
        if generator is not None:
            mirrored = (torch.rand(len(chosen), generator=generator) < 0.5).nonzero().flatten()
            maps[mirrored] = maps[mirrored].flip(-1)
        maps = maps.to(dtype).contiguous(memory_format=torch.channels_last)
        yield nn.functional.adaptive_avg_pool2d(maps, coarse) if coarse else maps, labels[chosen]
