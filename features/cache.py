"""The frozen backbone, run once for each view of a picture: feature maps on disk.

A store is a folder `data/cache/maps-<key>/` for one combination of weights, view, transform, size and precision, which
`recipe.json` spells out and the key digests. Inside it, rows are found by the SHA-256 of a picture's bytes, so that no
map of an edited picture or of other weights can be read. Rows are appended: an interrupted build goes on where it
stopped, and a dataset that grew needs only its new pictures.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset import EvalTransform, HarDataset, Sample, TrainTransform, Transform
from features.engines import Backbone, split_on_oom
from model import MAP_CHANNELS, STRIDE
from runtime import distributed
from runtime.errors import InputError

BATCH = 128  # pictures
SMALLEST_CROP = 0.35  # of the area: a cached crop comes back every epoch, and should show the action each time
WHOLE = 2  # the view
FORMAT = 3  # to be raised when the same recipe would give other numbers


def view_transform(view: int, size: int, early: bool = False) -> Transform:
    """View 0 is the one of evaluation, `WHOLE` the whole squeezed to a square, the others random crops, each another.

    Maps of the whole backbone are mirrored themselves, where it costs nothing: a view stands for its mirror image too.
    `early` ones hold edges, whose mirror images are other channels' matter, so that the whole and half of the crops
    are mirrored as pictures.
    """
    others = {0: EvalTransform(size), WHOLE: EvalTransform(size, math.inf, mirrored=early)}
    return others.get(view) or TrainTransform(size, SMALLEST_CROP, flip=early)


class FeatureStore:
    """Feature maps of one view on disk, bfloat16, channels last: a row is (h * w, C).

    Args:
        folder: the cache folder.
        network: digest of the weights, and where the frozen part ends (`backbone.frozen_id`).
        view: see `view_transform`.
        size: side of the square picture in pixels.
        precision: what the backbone computes in; of an int8 model, its digest too, and that of directions.
        maps: channels and side of the maps; without it, those of ResNet-50.
        early: whether they come from before the backbone's end (see `view_transform`).
    """

    def __init__(
        self,
        folder: Path,
        network: str,
        view: int,
        size: int,
        precision: str,
        maps: tuple[int, int] | None = None,
        early: bool = False,
    ) -> None:
        self.view, self.size, self.early = view, size, early
        channels, self.side = maps or (MAP_CHANNELS, size // STRIDE)
        self.transform = view_transform(view, size, early)
        recipe = {
            "format": FORMAT,
            "weights": network,
            "view": view,
            "size": size,
            "transform": repr(self.transform),
            "precision": precision,
        }
        text = json.dumps(recipe, indent=1)
        self.folder = folder / f"maps-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if distributed.rank() == 0:
            (self.folder / "recipe.json").write_text(text, encoding="utf-8")
        self.maps_file, self.rows_file = self.folder / "maps.bin", self.folder / "rows.txt"
        self.row_shape, self.map_shape = (self.side * self.side, channels), (channels, self.side, self.side)
        self.row_bytes = 2 * self.row_shape[0] * self.row_shape[1]
        self.held: Tensor | None = None
        self.device = torch.device("cpu")  # where `read` finds the rows
        self.rows: dict[str, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads which rows are there: those whose digest is written in full and whose map lies on disk."""
        lines = self.rows_file.read_text(encoding="ascii").split("\n")[:-1] if self.rows_file.exists() else []
        on_disk = self.maps_file.stat().st_size // self.row_bytes if self.maps_file.exists() else 0
        self.rows = {sha256: row for row, sha256 in enumerate(lines[:on_disk])}

    def append(self, digests: Sequence[str], rows: Tensor) -> None:
        """Writes rows (B, h * w, C), bfloat16, behind what is there; maps first, so that a listed row is whole."""
        rows = rows.contiguous().cpu()
        count = len(self.rows)
        for path, start, data in (
            (self.maps_file, count * self.row_bytes, rows.view(torch.int16).numpy()),
            (self.rows_file, count * 65, "".join(f"{digest}\n" for digest in digests).encode()),
        ):
            with path.open("r+b" if path.exists() else "wb") as file:
                file.truncate(start)  # drops what an interrupted build left half-written
                file.seek(start)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        self.rows |= {digest: count + index for index, digest in enumerate(digests)}

    def hold(self, digests: Sequence[str], device: torch.device) -> None:
        """Copies these rows to a device, where they are read from then on."""
        held = torch.empty(len(digests), *self.row_shape, dtype=torch.bfloat16, device=device)
        for start in range(0, len(digests), BATCH):
            held[start : start + BATCH] = self.read(digests[start : start + BATCH]).to(device)
        self.held, self.device = held, device
        self.rows = {digest: row for row, digest in enumerate(digests)}

    def read(self, digests: Sequence[str], places: Tensor | None = None) -> Tensor:
        """Returns rows (B, h * w, C), bfloat16; with places (B, p), only those positions of each, in that order.

        Mapped anew at each call: pages of a mapping that stays would count as this process's memory.
        """
        rows = np.array([self.rows[digest] for digest in digests], dtype=np.int64)
        wanted = rows if places is None else (rows[:, None], places.numpy())
        if self.held is not None:
            return self.held[wanted]
        shape = (len(self.rows), *self.row_shape)
        mapped = np.memmap(self.maps_file, dtype=np.int16, mode="r", shape=shape)
        return torch.from_numpy(mapped[wanted]).view(torch.bfloat16)  # a copy

    def build(
        self,
        make: Callable[[int, int], Backbone],
        samples: Sequence[Sample],
        digests: Sequence[str],
        device: torch.device,
        workers: int,
        label: str,
    ) -> int:
        """Computes the maps that are missing, with a progress bar named `label`. Returns how many were.

        Several processes share the pictures; the first one writes.

        Args:
            make: gives the backbone for so many pictures of so many pixels' side; not called where none is missing.

        Raises: InputError where the processes do not share the cache folder.
        """
        count = 0
        with FileLock(self.folder / "lock") if distributed.rank() == 0 else nullcontext():  # two runs build in turn
            self.refresh()
            missing = dict(zip(digests, samples, strict=True))
            todo = distributed.broadcast_object([digest for digest in missing if digest not in self.rows])
            if todo:
                count = len(todo)
                self.compute(make(count, self.size), todo, [missing[digest] for digest in todo], device, workers, label)
        distributed.barrier()
        self.refresh()
        if any(digest not in self.rows for digest in digests):
            raise InputError(f"{self.folder}: maps are missing; give --cache a folder that all processes see")
        return count

    def compute(
        self,
        backbone: Backbone,
        digests: Sequence[str],
        samples: Sequence[Sample],
        device: torch.device,
        workers: int,
        label: str,
    ) -> None:
        """Passes pictures through the backbone, a batch in each process at a time, and appends their maps."""
        step = BATCH * distributed.world_size()
        rounds = [range(start, min(start + step, len(samples))) for start in range(0, len(samples), step)]
        own = [list(rows)[distributed.shard(len(rows))] for rows in rounds]
        chance = isinstance(self.transform, TrainTransform)
        seeds = [int(digest[:12], 16) + self.view for digest in digests] if chance else None
        pictures = HarDataset(samples, [], self.transform, seeds)
        sampler = [rows for rows in own if rows]  # in the last round, none may be left for the last processes
        loader = iter(
            DataLoader(pictures, batch_sampler=sampler, num_workers=workers, pin_memory=device.type == "cuda")
        )
        with tqdm(total=len(samples), desc=label, unit=" images", disable=distributed.rank() > 0) as bar:
            for rows, mine in zip(rounds, own, strict=True):
                maps = (
                    split_on_oom(backbone, next(loader)[0]) if mine else torch.empty(0, *self.map_shape, device=device)
                )
                stored = maps.permute(0, 2, 3, 1).flatten(1, 2).to(torch.bfloat16)  # (B, h * w, C)
                stored = distributed.gather_to_main(stored)
                if distributed.rank() == 0:
                    self.append([digests[row] for row in rows], stored)
                bar.update(len(rows))


def check_disk_space(stores: Sequence[FeatureStore], digests: Sequence[Sequence[str]]) -> None:
    """Raises: InputError where the disk has no place for the rows that are missing in the stores, `digests` of each."""
    need = sum(
        store.row_bytes * sum(digest not in store.rows for digest in set(wanted))
        for store, wanted in zip(stores, digests, strict=True)
    )
    folder = stores[0].folder.parent
    free = shutil.disk_usage(folder).free
    if need > free:
        raise InputError(
            f"{folder}: {need / 1e9:.1f} GB of feature maps are to be written and {free / 1e9:.1f} GB are "
            "free; give another disk with --cache, fewer --views or --channels, or --views 0 for no cache"
        )


def hold(stores: Sequence[FeatureStore], digests: Sequence[Sequence[str]], device: torch.device) -> None:
    """Copies the rows of all stores, `digests` of each, to a GPU, if half of its free memory holds them."""
    need = sum(store.row_bytes * len(wanted) for store, wanted in zip(stores, digests, strict=True))
    if device.type == "cuda" and need < torch.cuda.mem_get_info(device)[0] / 2:
        for store, wanted in zip(stores, digests, strict=True):
            store.hold(wanted, device)


def feature_batches(
    stores: Sequence[FeatureStore],
    digests: Sequence[str],
    targets: Sequence[int],
    batch_size: int,
    generator: torch.Generator | None = None,
    coarse: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields this process's part of each batch: (maps (B, C, h, w) channels last, targets (B,)).

    With a generator, in random order, each picture in one of the stores' views, half of the maps mirrored unless they
    are early ones, of larger maps a random window of the smallest store's side; without, in the given order from the
    first store. `coarse` > 0 averages whole maps down to that side.
    """
    labels = torch.tensor(targets)
    count, device = len(digests), stores[0].device
    side = coarse or (stores[0].side if generator is None else min(store.side for store in stores))
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    for batch in order.split(batch_size):
        own, size = distributed.shard(len(batch)), len(batch)
        views, mirrored = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.bool)
        corners = torch.zeros(size, 2)
        if generator is not None:  # drawn for the whole batch, so that they do not depend on the number of processes
            views = torch.randint(len(stores), (size,), generator=generator)
            mirrored = (torch.rand(size, generator=generator) < 0.5) & (not stores[0].early)
            corners = torch.rand(size, 2, generator=generator)
        chosen, views, mirrored, corners = batch[own], views[own], mirrored[own], corners[own]
        maps = torch.empty(len(chosen), side * side, stores[0].row_shape[1], dtype=dtype, device=device)
        for view, store in enumerate(stores):
            where = (views == view).nonzero().flatten()
            if len(where):
                names = [digests[index] for index in chosen[where].tolist()]
                if coarse:
                    part = averaged(store.read(names), side, mirrored[where])
                elif generator is None:
                    part = store.read(names)
                else:
                    part = store.read(names, windows(store.side, side, corners[where], mirrored[where]))
                maps[where.to(device)] = part.to(device, dtype)
        yield maps.unflatten(1, (side, side)).permute(0, 3, 1, 2), labels[chosen]


def windows(side: int, small: int, corners: Tensor, mirrored: Tensor) -> Tensor:
    """Which positions (B, small * small) of flattened maps make a window, mirrored where `mirrored` (B,) says so.

    Args:
        corners: (B, 2), where between 0 and 1 it lies, from above and from the left.
    """
    top, left = (corners * (side - small + 1)).long().clamp(max=side - small)[..., None].unbind(1)  # (B, 1) each
    columns = torch.where(mirrored[:, None], torch.arange(small).flip(0), torch.arange(small))  # (B, small)
    return (side * (top + torch.arange(small))[:, :, None] + (left + columns)[:, None, :]).flatten(1)


def averaged(rows: Tensor, coarse: int, mirrored: Tensor) -> Tensor:
    """Flattened maps (B, h * h, C) averaged down to (B, coarse * coarse, C), mirrored where `mirrored` (B,) says so."""
    side = math.isqrt(rows.shape[1])
    cells = nn.functional.adaptive_avg_pool2d(rows.unflatten(1, (side, side)).permute(0, 3, 1, 2), coarse)
    cells[mirrored] = cells[mirrored].flip(-1)
    return cells.permute(0, 2, 3, 1).flatten(1, 2)
