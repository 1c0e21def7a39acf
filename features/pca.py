"""PCA projection of cached feature maps from 2,048 to `K` channels (uncentred, fitted on at least 256 training images).

It halves the time of an epoch and quarters the cache. The head learns kernels on K channels (`project_head`); since the
projection is linear, the same kernels on all channels (`full_state`) give the same logits.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from dataset import EvalTransform, HarDataset, Sample
from features.engines import Engine, split_on_oom
from layers.conv3x3 import accelerate
from model import ActionNet
from runtime.errors import InputError, first_line
from runtime.files import check_archive, write_atomically
from runtime.status import Progress

MIN_IMAGES = 256  # where the training set has as many
BATCH = 32


class Projection:
    """An orthonormal basis (C, K) in a file of the cache, shared by all runs on a dataset.

    Args:
        file: see `FeatureSpec.projection_file`.
        size: side of the square images in pixels.
        channels: K.
    """

    def __init__(self, file: Path, size: int, channels: int) -> None:
        self.file, self.size, self.channels = file, size, channels

    @property
    def name(self) -> str:
        """Identifies the basis in the keys of the feature cache; caches that exist hold this very text."""
        return f"{self.channels} directions {digest(self.load())}"

    def load(self) -> Tensor:
        """Returns the basis (C, K). Raises: InputError where the file is damaged."""
        try:
            check_archive(self.file)
            return torch.load(self.file, weights_only=True)
        except Exception as error:  # torch, pickle and zip each raise their own
            raise InputError(f"{self.file}: damaged ({first_line(error)}); delete it") from error

    def fit(self, make_engine: Callable[[int, int], Engine], samples: Sequence[Sample]) -> None:
        """Fits the basis on evenly spaced samples unless the file exists; labels are not used.

        Uncentred, so that the zero padding at a map's border stays zero; then rotated at random within its span, so
        that no channel holds most of the energy and dropout of channels affects all alike.

        Args:
            make_engine: returns the backbone for a number of images of a size.
        """
        with FileLock(self.file.with_suffix(".lock")):
            if self.file.exists():
                return
            some = samples[:: max(1, len(samples) // MIN_IMAGES)]
            moment = second_moment(make_engine(len(some), self.size), HarDataset(some, [], EvalTransform(self.size)))
            leading = torch.linalg.eigh(moment).eigenvectors[:, -self.channels :]
            noise = torch.randn(self.channels, self.channels, generator=torch.Generator().manual_seed(0))
            basis = leading @ torch.linalg.qr(noise).Q
            write_atomically(self.file, lambda partial: torch.save(basis, partial))


def second_moment(engine: Engine, images: HarDataset) -> Tensor:
    """Sum over images and positions of the outer product of the C feature channels, (C, C)."""
    moment = torch.zeros(())
    with Progress("PCA projection", len(images)) as progress:
        for start in range(0, len(images), BATCH):
            items = images.__getitems__(range(start, min(start + BATCH, len(images))))
            features = split_on_oom(engine, torch.stack([image for image, _ in items]))  # (B, C, h, h)
            rows = features.permute(0, 2, 3, 1).flatten(0, 2).float().cpu()  # (B * h * h, C)
            moment = moment + rows.T @ rows
            progress.update(len(items))
    return moment


def digest(basis: Tensor) -> str:
    return hashlib.sha256(basis.contiguous().numpy().tobytes()).hexdigest()


def find_projection(cache: Path, name: str, size: int) -> Projection | None:
    """Returns the projection of that name in the cache folder, perhaps of an older version, or None."""
    channels = int(name.split()[0])
    for file in sorted([*cache.glob("projection-*.pt"), *cache.glob("directions-*.pt")]):
        projection = Projection(file, size, channels)
        if projection.name == name:
            return projection
    return None


def projected(make_engine: Callable[[int, int], Engine], basis: Tensor) -> Callable[[int, int], Engine]:
    """Returns a factory of engines whose feature maps are projected onto `basis` (C, K)."""

    def make(count: int, size: int) -> Engine:
        engine = make_engine(count, size)

        def run(images: Tensor) -> Tensor:
            features = engine(images)  # (B, C, h, h)
            return (features.permute(0, 2, 3, 1).float() @ basis.to(features.device)).permute(0, 3, 1, 2)

        return run

    return make


def project_head(model: ActionNet, basis: Tensor) -> None:
    """Replaces `model.conv1` by one that takes feature maps projected onto `basis` (C, K).

    The head starts from the projection of its kernels.
    """
    full = model.conv1
    weight = torch.einsum("ochw,ck->okhw", full.weight, basis.to(full.weight.device))
    model.conv1 = nn.Conv2d(basis.shape[1], full.out_channels, kernel_size=3, padding=1)
    model.conv1.load_state_dict({"weight": weight, "bias": full.bias})
    model.conv1.to(weight.device, memory_format=torch.channels_last)
    accelerate(model)


def full_state(state: dict[str, Tensor], basis: Tensor | None) -> dict[str, Tensor]:
    """The state dict of a head trained on features projected onto `basis`, for all C channels; None: as it is."""
    if basis is None:
        return state
    weight = state["conv1.weight"]
    return state | {"conv1.weight": torch.einsum("okhw,ck->ochw", weight, basis.to(weight.device))}
