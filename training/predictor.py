"""Predicts many images with a trained run: its engine, test-time augmentation and temperature."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from dataset import EvalTransform, Sample, tta_views
from evaluation.calibration import fit_temperature
from evaluation.metrics import summarise
from features.cache import FULL_VIEW
from features.decode import ImageReader
from features.engines import Engine, Int8Model, Precision, choose_precision, engine_factory, find_int8, split_on_oom
from features.spec import FeatureSpec, dataset_digest, transform_text
from runtime import distributed
from runtime.device import pick_workers
from runtime.files import read_known, write_json
from runtime.options import PrecisionName
from training.checks import fits
from training.loop import predict, with_progress
from training.trained_run import TrainedRun

TTA_FILE = "tta.json"  # in the run's folder: the temperature of the mean over views


@dataclass(frozen=True)
class Predictor:
    """Logits and calibrated probabilities of images, over all processes.

    Attributes:
        tta: whether to take the mean over several views of each image.
        precision: as the option --precision.
        workers: processes that decode images; None: see `pick_workers`.
    """

    run: TrainedRun
    tta: bool = False
    precision: PrecisionName = "auto"
    batch_size: int = 128
    workers: int | None = None

    @property
    def title(self) -> str:
        return f"{self.run.title}{' · mean over views' if self.tta else ''}"

    @property
    def views(self) -> list[EvalTransform]:
        """Views of an image; without TTA the centre crop alone."""
        size, seen = self.run.image_size, self.run.record["recipe"]["views"] > FULL_VIEW
        views = tta_views(size, self.run.model.crop_size(size) if seen else 0)
        return views if self.tta else views[:1]

    def __call__(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Returns logits (N, K) and class indices (N,), -1 where unlabelled.

        With TTA, instead of logits the logarithms of mean probabilities over views.
        """
        views = self.views
        own = samples[distributed.shard(len(samples))]
        found = []
        for number, view in enumerate(views, 1):
            label = f"predict, view {number} of {len(views)}" if self.tta else "predict"
            logits, targets = self.predict_view(own, view, self.engine(len(own) * len(views), view.size), label)
            found.append(logits)
        if not self.tta:
            return found[0], targets
        return torch.stack(found).log_softmax(2).logsumexp(0) - math.log(len(found)), targets

    def predict_view(
        self, samples: Sequence[Sample], view: EvalTransform, engine: Engine, label: str
    ) -> tuple[Tensor, Tensor]:
        classes = self.run.classes
        targets = torch.tensor([classes.index(sample.label) if sample.label in classes else -1 for sample in samples])
        starts = range(0, len(samples), self.batch_size)
        rows = [range(start, min(start + self.batch_size, len(samples))) for start in starts]
        batches = zip(self.reader.batches(samples, view, rows), (targets[list(row)] for row in rows), strict=True)
        return self.forward(engine, with_progress(batches, label, len(samples), leave=True))

    def forward(self, engine: Engine, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and targets (N,) of batches of images (B, 3, S, S) uint8 and targets (B,)."""
        model, device = self.run.model, self.run.device

        def head(images: Tensor) -> Tensor:
            return split_on_oom(lambda part: model.from_features(engine(part)), images)

        return predict(head, batches, len(self.run.classes), device, self.arithmetic.head)

    @cached_property
    def reader(self) -> ImageReader:
        """Reads images; on a GPU each is decoded once for all views."""
        return ImageReader(self.run.device, pick_workers(self.run.device, self.workers))

    @cached_property
    def int8(self) -> Int8Model | None:
        """The int8 backbone whose features the run was trained on; None where it was none, or is not here."""
        possible = self.run.device.type == "cpu" and find_spec("openvino")
        return find_int8(self.run.cache, self.run.record["precision"]) if possible else None

    @cached_property
    def arithmetic(self) -> Precision:
        """What the option --precision stands for; "auto" takes int8 where the run was trained on such features."""
        available = distributed.broadcast_object(self.int8 is not None)
        return choose_precision(self.run.device, "int8" if available and self.precision == "auto" else self.precision)

    def engine(self, count: int, size: int) -> Engine:
        run = self.run
        spec = FeatureSpec(run.record["weights_sha256"], run.model.unfreeze, dataset_digest(run.split), run.image_size)
        make_engine, _ = engine_factory(
            run.model.frozen,
            run.device,
            self.arithmetic.backbone,
            self.int8 or Int8Model(spec.int8_folder(run.cache)),
            lambda: [sample for sample in run.dataset.train if sample.name in run.split["train"]],
            run.image_size,
        )
        return make_engine(count, size)

    @cached_property
    def temperature(self) -> float:
        """Turns these logits into calibrated probabilities; with TTA fitted on validation images, once per run."""
        if not self.tta:
            return self.run.model.temperature
        path = self.run.folder / TTA_FILE
        about: dict[str, Any] = {
            "epoch": self.run.record["epoch"],
            "views": [transform_text(view) for view in self.views],
        }
        known = distributed.broadcast_object(read_known(path))
        good = fits(known.get("temperature"), float) and 0 < known["temperature"] < math.inf
        if not (good and about.items() <= known.items()):
            with distributed.main_process_first():
                samples = self.run.samples("val")
            logits, targets = self(samples)
            known = about | {"temperature": fit_temperature(logits, targets), "val": summarise(logits, targets)}
            if distributed.is_main():
                write_json(path, known)
            print(f"validation accuracy, mean over views: {known['val']['accuracy']:.4f}")
        return known["temperature"]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, K) to calibrated probabilities (N, K)."""
        return (logits / self.temperature).softmax(1)
