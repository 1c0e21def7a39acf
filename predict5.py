"""Tests the best checkpoint of a run, or predicts any pictures with it.

    python predict5.py                        the newest run's test set
    python predict5.py --run NAME --data DIR  another run; its dataset lies elsewhere now
    python predict5.py --tta                  the mean over several views of each picture
    python predict5.py PICTURE_OR_FOLDER …    a table of predictions; --csv FILE keeps it

Writes results/<run>/test/ (with --tta test_tta/): metrics.json (with intervals), per_class.csv, conf_matrix.png and
.csv, pred.png and .json (five pictures), mistakes.png and .json (the most confident ones), trust.png and .json
(calibration, coverage), confused.png, label_issues.csv and .png (labels to review), test_predictions.csv; for a
Testing_set.csv without labels also predictions.csv (filename, label, probability). --tta keeps its temperature in
results/<run>/tta.json.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from dataset import ActionData, EvalTransform, HarDataset, Sample, image_files, read_dataset, tta_views
from evaluation.calibration import fit_temperature
from evaluation.metrics import summarise
from evaluation.report import Test, answers
from features.cache import WHOLE
from features.engines import (
    Backbone,
    Int8Model,
    Precision,
    engine_factory,
    frozen_id,
    pick_engine_precision,
    split_on_oom,
)
from inspection.examples import find_split_images
from model import ActionNet
from runtime import distributed
from runtime.console import run_script
from runtime.device import pick_device, pick_precision, pick_workers
from runtime.errors import InputError
from runtime.files import write_csv, write_json
from splits.scan import check_images, group_duplicates
from training import checkpoint
from training.loop import predict, shown

TTA = "tta.json"
OPTIONAL = ("mistakes.png", "confused.png", "label_issues.png", "predictions.csv")  # not written by every test


@dataclass
class Args:
    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Pictures or folders to predict; without any, the run's test set."""
    run: str = ""
    """Name of the run. Without it: the newest."""
    data: Path | None = None
    """Where the run's dataset lies now. Without it: where it lay in training."""
    csv: Path | None = None
    """With pictures: also write the table here."""
    tta: bool = False
    """Test-time augmentation: the mean over several views, some mirrored; the first time, fits a temperature for it."""
    seed: int = 0
    """Chooses the five pictures of pred.png."""
    batch_size: int = 128
    skip_bad: bool = False
    """Leave unreadable pictures out instead of stopping."""
    device: str = "auto"
    precision: Precision = "auto"
    """int8: of the backbone, on a CPU; auto takes it there where the run was trained with it."""
    workers: int | None = None
    cache: Path = Path("data/cache")
    results: Path = Path("results")


@dataclass
class Predictor:
    """A run's network, ready, and what its answers are called."""

    args: Args
    run: Path
    model: ActionNet
    record: dict[str, Any]
    split: dict[str, dict[str, str]]
    device: torch.device

    @property
    def title(self) -> str:
        views = " · mean over views" if self.args.tta else ""
        return f"{self.record['dataset']} · {self.record['weights']} · run {self.run.name}{views}"

    @property
    def views(self) -> list[EvalTransform]:
        """What --tta looks at; without it, the first alone counts."""
        size, seen = self.record["image_size"], self.record["recipe"]["views"] > WHOLE
        return tta_views(size, self.model.crop_size(size) if seen else 0)

    def __call__(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and class indices (N,) of pictures, -1 where unlabelled.

        With --tta the logarithms of mean probabilities over views.
        """
        views = self.views[: None if self.args.tta else 1]
        own = samples[distributed.shard(len(samples))]
        found = []
        for number, view in enumerate(views, 1):
            label = f"predict, view {number} of {len(views)}" if self.args.tta else "predict"
            backbone = self.pick_backbone(len(own) * len(views), view.size)
            logits, targets = self.predict(own, view, backbone, label)
            found.append(logits)
        if not self.args.tta:
            return found[0], targets
        return torch.stack(found).log_softmax(2).logsumexp(0) - math.log(len(found)), targets

    def predict(
        self, samples: Sequence[Sample], view: EvalTransform, backbone: Backbone, label: str
    ) -> tuple[Tensor, Tensor]:
        args, device, classes = self.args, self.device, self.record["classes"]
        options = {"num_workers": pick_workers(device, args.workers), "pin_memory": device.type == "cuda"}
        loader = DataLoader(HarDataset(samples, classes, view), args.batch_size, **options)

        def answer(images: Tensor) -> Tensor:
            return self.model.rest(backbone(images))

        with tqdm(total=len(samples), desc=label, unit=" images", disable=distributed.rank() > 0) as bar:
            dtype = pick_precision(device, args.precision)
            return predict(lambda images: split_on_oom(answer, images), shown(loader, bar), len(classes), device, dtype)

    @cached_property
    def temperature(self) -> float:
        """What turns these logits into probabilities; with --tta, fitted on the validation pictures once and kept."""
        if not self.args.tta:
            return self.model.temperature
        views = [repr(view) for view in self.views]
        path = self.run / TTA
        about = {"epoch": self.record["epoch"], "precision": self.args.precision, "views": views}
        known = distributed.broadcast_object(json.loads(path.read_text(encoding="utf-8")) if path.exists() else {})
        if not about.items() <= known.items():
            digests = self.split["val"]
            with distributed.main_process_first():
                samples = find_split_images(
                    self.dataset, digests, digests, self.record["classes"], self.args.cache, "validation"
                )
            logits, targets = self(samples)
            known = about | {"temperature": fit_temperature(logits, targets), "val": summarise(logits, targets)}
            if distributed.rank() == 0:
                write_json(path, known)
            print(f"validation accuracy over all views: {known['val']['accuracy']:.4f}")
        return known["temperature"]

    def probabilities(self, logits: Tensor) -> Tensor:
        return (logits / self.temperature).softmax(1)

    @cached_property
    def dataset(self) -> ActionData:
        return read_dataset(self.args.data or Path(self.record["data"]))

    def pick_backbone(self, count: int, size: int) -> Backbone:
        """In the precision asked for; "auto" is int8 where the run was trained on such maps and the model is there."""
        args, record = self.args, self.record
        network = frozen_id(record["weights_sha256"], self.model.unfreeze)
        int8 = Int8Model(args.cache, network, record["dataset"], record["image_size"])
        own = self.device.type == "cpu" and find_spec("openvino") and int8.exists()
        own = distributed.broadcast_object(own and record["precision"] == int8.name)
        wish = "int8" if own and args.precision == "auto" else args.precision
        precision = pick_engine_precision(self.device, wish, 0)
        make, _ = engine_factory(self.model.frozen, self.device, precision, int8, self.training_pictures)
        return make(count, size)

    def training_pictures(self) -> list[Sample]:
        return [sample for sample in self.dataset.train if sample.name in self.split["train"]]


def main(args: Args) -> None:
    for name, value, least in (
        ("seed", args.seed, 0),
        ("batch-size", args.batch_size, 1),
        ("workers", args.workers or 0, 0),
    ):
        if value < least:
            raise InputError(f"--{name} {value}: must be {least} or more")
    if args.csv and not args.images:
        raise InputError("--csv goes with pictures; the test set's tables lie in results/<run>/test/ anyway")
    device = pick_device(args.device)
    with distributed.process_group(device):
        run = checkpoint.find_run(args.results, args.run)
        predictor = Predictor(args, run, *checkpoint.load_model(run, device), device)
        if args.images:
            predict_images(predictor)
        else:
            test(predictor)


def predict_images(predictor: Predictor) -> None:
    """Prints a table of predictions for pictures and folders."""
    args = predictor.args
    samples = []
    for path in args.images:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        files = image_files(path) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: no pictures in it")
        samples += [Sample(str(file), file, None) for file in files]
    samples = list({sample.name: sample for sample in samples}.values())
    samples = readable(samples, args)
    logits, _ = predictor(samples)
    probabilities = predictor.probabilities(logits)
    if distributed.rank() > 0:
        return
    rows = answers(samples, probabilities, predictor.record["classes"])
    width = max(len(row["filename"]) for row in rows)
    for row in rows:
        print(f"{row['filename']:{width}s}  " + "  ".join(f"{name} {value:.2f}" for name, value in row["top"][:3]))
    if args.csv:
        keys = ("filename", "predicted", "probability")
        write_csv(args.csv, [("filename", "label", "probability"), *([row[key] for key in keys] for row in rows)])
        print(f"written: {args.csv}")
    print(f"{len(rows)} pictures, network: {predictor.title}")


def readable(samples: list[Sample], args: Args) -> list[Sample]:
    with distributed.main_process_first():
        good = check_images(samples, args.cache / "scans.json", args.skip_bad)
    if not good:
        raise InputError("none of the pictures can be read")
    return [sample for sample in samples if sample.name in good]


def test(predictor: Predictor) -> None:
    """Measures the test set of the run's own split, prints the figures and writes them with their pictures."""
    record, folder = predictor.record, predictor.run / ("test_tta" if predictor.args.tta else "test")
    data, temperature = predictor.dataset, predictor.temperature
    digests = predictor.split["test"]
    copied = None
    with distributed.main_process_first():
        samples = find_split_images(data, digests, digests, record["classes"], predictor.args.cache)
        if record["arguments"].get("ignore_copies"):
            copied = learned_copies(predictor, samples)
    logits, targets = predictor(samples)
    unlabelled, given = [], None
    if data.test and not data.test_is_labelled:
        unlabelled = readable(data.test, predictor.args)
        given = predictor(unlabelled)[0]
    if distributed.rank() > 0:
        return
    for stale in (folder / name for name in OPTIONAL):
        stale.unlink(missing_ok=True)
    tested = Test(folder, predictor.title, samples, record["classes"], logits, targets, temperature)
    about = {key: record[key] for key in ("dataset", "weights", "weights_sha256", "epoch", "seed")}
    if copied:
        about["copies"] = tested.by_copies(copied)
    about |= {"run": predictor.run.name, "arithmetic": predictor.args.precision}
    values = tested.write(about, predictor.args.seed)
    print_metrics(values)
    if given is not None:
        rows = answers(unlabelled, predictor.probabilities(given), record["classes"])
        table = [(Path(row["filename"]).name, row["predicted"], row["probability"]) for row in rows]
        write_csv(folder / "predictions.csv", [("filename", "label", "probability"), *table])
    print("written: " + "  ".join(str(path) for path in sorted(folder.glob("[!.]*"))))
    print(f"{predictor.title}: test accuracy {values['accuracy']:.4f} on {values['n']} pictures")


def learned_copies(predictor: Predictor, samples: Sequence[Sample]) -> list[bool]:
    """Whether the run was trained on a copy of each of these pictures."""
    digests, cache = predictor.split["train"], predictor.args.cache
    both = [
        *samples,
        *find_split_images(predictor.dataset, digests, digests, predictor.record["classes"], cache, "training"),
    ]
    scans = check_images(both, cache / "scans.json", skip_bad=False)
    groups = group_duplicates([scans[sample.name] for sample in both]).tolist()
    learned = set(groups[len(samples) :])
    return [group in learned for group in groups[: len(samples)]]


def print_metrics(values: dict[str, Any]) -> None:
    print(f"\ntest set: {values['n']} pictures; in brackets, 95 % intervals of other pictures (bootstrap)")
    for key in ("accuracy", "top5_accuracy", "loss", "precision", "recall", "f1"):
        low, high = values["intervals"][key]
        macro = f"   macro {values[f'macro_{key}']:.4f}" if f"macro_{key}" in values else ""
        print(f"  {key:14s} {values[key]:.4f} ({low:.4f} to {high:.4f}){macro}")
    said = values["calibration"]
    print(
        f"  calibration    {said['expected_error']:.4f} expected error with temperature {said['temperature']:.2f}, "
        f"{said['expected_error_uncalibrated']:.4f} without"
    )
    for row in values["coverage"][1:]:
        share = f"{row['coverage']:.0%} of the pictures"
        print(f"  from {row['threshold']:.0%} on    {row['accuracy']:.4f} accuracy of {share}")
    for kind, row in values.get("copies", {}).items():
        print(f"  {kind}: accuracy {row['accuracy']:.4f} of {row['n']} pictures")
    for pair in values["confused_pairs"][:3]:
        print(f"  {' / '.join(pair['classes'])}: {sum(pair['n'])} of {pair['of']} confused")
    print(f"  {values['label_issues']} labels to review")
    width = max(len(name) for name in values["per_class"])
    print(f"\n  {'class':{width}s}  precision  recall      F1     n")
    for name, row in values["per_class"].items():
        print(f"  {name:{width}s}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:6.3f}  {row['n']:4d}")
    print()


if __name__ == "__main__":
    run_script(main, Args, __doc__)
