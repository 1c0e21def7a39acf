"""The index of training images: which of them excite a channel most, how many do at all, and which are alike."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dataset import EvalTransform, Sample, normalise
from explorer.look import Look
from features.decode import ImageReader
from hooks import active_images
from inspection.chain import INPUT, Chain
from runtime.device import pick_workers
from runtime.errors import InputError, first_line
from runtime.files import write_arrays
from runtime.images import load_image
from training.trained_run import TrainedRun

IMAGES = 1000  # training images in the index by default
TOP = 9  # images kept of a channel
NEAREST = 8
BATCH = 8
THUMBNAIL = 160  # pixels
PARTS = ("active", "top", "peak", "place")  # of `Index`, by column


@dataclass(frozen=True)
class Index:
    """What the network does with some training images.

    Attributes:
        names, labels: of the images.
        active: by column, in how many images a channel is above zero anywhere, (C,).
        top: by column, the images with the highest maxima of a channel, highest first, (C, TOP).
        peak: by column, these maxima (C, TOP).
        place: by column, where they lie, as positions in the flattened map over its length, 0..1, (C, TOP).
        features: pooled outputs of the last column, of length 1, (N, C).
    """

    names: list[str]
    labels: list[str]
    active: dict[str, np.ndarray]
    top: dict[str, np.ndarray]
    peak: dict[str, np.ndarray]
    place: dict[str, np.ndarray]
    features: np.ndarray


@dataclass
class Best:
    """The highest maxima of channels over batches: (C, n) each."""

    active: Tensor | int = 0
    peak: Tensor = field(default_factory=lambda: torch.empty(0))
    top: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    place: Tensor = field(default_factory=lambda: torch.empty(0))

    def add(self, maps: Tensor, first: int) -> None:
        """Takes in maps (B, C, h, w), the first of image number `first`."""
        peak, where = (values.T.cpu() for values in maps.flatten(2).max(2))  # (C, B)
        numbers = torch.arange(first, first + len(maps)).expand(len(peak), -1)
        joined = [(self.peak, peak), (self.top, numbers), (self.place, where / maps[0, 0].numel())]
        peaks, tops, places = (torch.cat([old, new], 1) if len(old) else new for old, new in joined)
        self.peak, order = peaks.topk(min(TOP, peaks.shape[1]), sorted=True)
        self.top, self.place = tops.gather(1, order), places.gather(1, order)
        self.active = self.active + active_images(maps)


def make_index(run: TrainedRun, chain: Chain, samples: Sequence[Sample]) -> Iterator[int | Index]:
    """Runs the network on images; yields how many are done after each batch, and in the end the index."""
    reader = ImageReader(run.device, pick_workers(run.device, None))
    rows = [range(start, min(start + BATCH, len(samples))) for start in range(0, len(samples), BATCH)]
    found = {column.name: Best() for column in chain.columns if column.name != INPUT}
    features, done = [], 0
    for images in reader.batches(samples, EvalTransform(run.image_size), rows):
        inputs = normalise(images.to(run.device)).contiguous(memory_format=torch.channels_last)
        outputs, _ = chain.outputs(inputs)
        for column, best in found.items():
            best.add(outputs[column], done)
        features.append(pooled(outputs[chain.columns[-1].name]))
        done += len(images)
        yield done
    parts = {name: {column: getattr(best, name).numpy() for column, best in found.items()} for name in PARTS}
    yield Index([s.name for s in samples], [s.label for s in samples], **parts, features=torch.cat(features).numpy())


def pooled(output: Tensor) -> Tensor:
    """Means over positions of outputs (B, C, h, w), as vectors of length 1: (B, C)."""
    return torch.nn.functional.normalize(output.mean((2, 3)), dim=1).float().cpu()


def save(index: Index, path: Path) -> None:
    arrays = {f"{part} {column}": values for part in PARTS for column, values in getattr(index, part).items()}
    lists = {"names": np.array(index.names), "labels": np.array(index.labels)}
    write_arrays(path, arrays | lists | {"features": index.features})


def load(path: Path) -> Index:
    with np.load(path) as file:
        parts = {part: {} for part in PARTS}
        for key in file:
            part, _, column = key.partition(" ")
            if column:
                parts[part][column] = file[key]
        return Index(file["names"].tolist(), file["labels"].tolist(), **parts, features=file["features"])


class IndexMaker:
    """The index of a run: read from the cache folder, or made on demand."""

    def __init__(self, run: TrainedRun, chain: Chain, images: int = IMAGES) -> None:
        self.run, self.chain, self.images = run, chain, images
        self.index: Index | None = None
        self.done, self.error, self.lock, self.thread = 0, "", Lock(), None
        key = hashlib.sha256(run.model.fc.weight.cpu().numpy().tobytes()).hexdigest()[:16]
        self.path = run.cache / f"explore-{key}.npz"
        self.has_dataset = True
        try:
            names = list(run.split.get("train", {}))
            run.samples("train", names[:1])  # the dataset may lie elsewhere, or have changed
        except InputError:
            self.has_dataset = False
            return
        try:
            index = load(self.path)
            self.samples, self.index = run.samples("train", index.names), index
        except (OSError, ValueError, KeyError, TypeError, BadZipFile):  # none, damaged, or of images that have changed
            pass

    def state(self) -> dict[str, Any]:
        """For the page: "ready", "making", "none" or, without the run's dataset, "impossible"; progress; a failure."""
        making = self.thread is not None and self.thread.is_alive()
        state = "ready" if self.index else "making" if making else "none" if self.has_dataset else "impossible"
        images = len(self.index.names) if self.index else min(self.images, len(self.run.split.get("train", {})))
        return {"state": state, "done": self.done, "images": images, "error": self.error}

    def start(self) -> None:
        """Begins to make the index in a thread, unless it is there or being made."""
        with self.lock:
            if self.index is None and not (self.thread and self.thread.is_alive()):
                self.done, self.error = 0, ""
                self.thread = Thread(target=self.make_quietly, daemon=True)
                self.thread.start()

    def make_quietly(self) -> None:
        try:
            for done in self.make():
                self.done = done
        except Exception as error:  # shown on the page: nobody reads a thread's traceback there
            self.error = first_line(error)

    def make(self) -> Iterator[int]:
        """Makes and saves the index; yields how many images are done. Raises: InputError without the run's dataset."""
        names = list(self.run.split["train"])
        chosen = np.random.default_rng(0).permutation(len(names))[: self.images]
        samples = self.run.samples("train", [names[number] for number in sorted(chosen)])
        for found in make_index(self.run, self.chain, samples):
            if isinstance(found, Index):
                save(found, self.path)
                self.samples, self.index = samples, found
            else:
                yield found

    def channel(self, column: str, channel: int) -> dict[str, Any] | None:
        """In how many images a channel is active, and the images that excite it most; None without an index."""
        if self.index is None:
            return None
        values = (self.index.top, self.index.peak, self.index.place)
        top = [
            {**self.about(int(number)), "peak": round(float(peak), 4), "place": round(float(place), 6)}
            for number, peak, place in zip(*(value[column][channel] for value in values), strict=True)
            if peak > 0
        ]
        return {"active": int(self.index.active[column][channel]), "images": len(self.index.names), "top": top}

    def about(self, number: int) -> dict[str, Any]:
        return {"image": number, "label": self.index.labels[number], "name": self.index.names[number]}

    def nearest(self, look: Look) -> dict[str, Any]:
        """The training images whose pooled features are most like a photograph's, by cosine distance."""
        if self.index is None:
            return {"images": []}
        likeness = self.index.features @ pooled(look.outputs[self.chain.columns[-1].name])[0].numpy()
        order = np.argsort(-likeness, kind="stable")[:NEAREST].tolist()
        return {"images": [{**self.about(n), "distance": round(1 - float(likeness[n]), 4)} for n in order]}

    def thumbnail(self, number: int) -> bytes:
        """The centre crop of an image of the index as a small JPEG. Raises: InputError where there is none."""
        if self.index is None or number >= len(self.samples):
            raise InputError(f"image {number}: not in the index")
        transform = EvalTransform(THUMBNAIL)
        try:
            pixels = transform(load_image(self.samples[number].path, transform.min_side))
        except OSError as error:
            raise InputError(f"{self.samples[number].path}: cannot be read ({first_line(error)})") from error
        file = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=85)
        return file.getvalue()
