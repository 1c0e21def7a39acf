"""Identity of cached features: everything that decides their values, as names of files in the cache folder."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dataset import EvalTransform, Transform

CACHE_VERSION = 3  # raise it when the same settings would give other numbers


@dataclass(frozen=True)
class FeatureSpec:
    """What decides the frozen part's features besides the image.

    Attributes:
        weights: SHA-256 of the backbone (`BackboneWeights.sha256`).
        unfreeze: first trained stage, whose inputs are cached; "none": the backbone's output is cached.
        dataset: `dataset_digest` of the images that int8 calibration and the PCA projection may use.
        image_size: side of the square image in pixels.
    """

    weights: str
    unfreeze: str
    dataset: str
    image_size: int

    @property
    def frozen_part(self) -> str:
        return self.weights if self.unfreeze == "none" else f"{self.weights} up to {self.unfreeze}"

    def int8_folder(self, cache: Path) -> Path:
        """Folder of the int8 model that all runs on this dataset share."""
        return cache / f"int8-{self.digest('int8')}"

    def projection_file(self, cache: Path, channels: int) -> Path:
        """File of the PCA projection to `channels` that all runs on this dataset share."""
        return cache / f"projection-{self.digest(f'projection {channels}')}.pt"

    def digest(self, kind: str) -> str:
        text = f"{kind} {CACHE_VERSION} {self.frozen_part} {self.dataset} {self.image_size}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def store_text(self, view: int, size: int, transform: Transform, arithmetic: str) -> str:
        """JSON that identifies one view's feature maps; the name of their folder is its digest.

        The dataset is no part of it, since rows are found by the content of their image. Texts of caches that exist
        must not change: reword nothing here without raising CACHE_VERSION.

        Args:
            arithmetic: `arithmetic_name` of the engine and the projection.
        """
        fields = {
            "format": CACHE_VERSION,
            "weights": self.frozen_part,
            "view": view,
            "size": size,
            "transform": transform_text(transform),
            "precision": arithmetic,
        }
        return json.dumps(fields, indent=1)


def transform_text(transform: Transform) -> str:
    """A transform's kind and numbers as the cache and `tta.json` store them, whatever its class is called later."""
    if isinstance(transform, EvalTransform):
        return f"EvalTransform(size={transform.size}, reach={transform.reach}, mirrored={transform.mirrored})"
    return f"TrainTransform(size={transform.size}, smallest={transform.smallest}, flip={transform.flip})"


def arithmetic_name(engine: str, projection: str) -> str:
    """What feature maps were computed in: the engine's name, and the projection's where there is one."""
    return f"{engine}, {projection}" if projection else engine


def dataset_digest(split: Mapping[str, Mapping[str, str]]) -> str:
    """SHA-256 of the content of all labelled images, the same for every split of them.

    Args:
        split: by part, file names and the SHA-256 of the files.
    """
    digests: Iterable[str] = {sha256 for part in split.values() for sha256 in part.values()}
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()
