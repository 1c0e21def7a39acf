"""Tests the best checkpoint of a run, or predicts any pictures with it.

    python predict5.py                        the newest run's test set
    python predict5.py --run NAME --data DIR  another run; its dataset lies elsewhere now
    python predict5.py PICTURE_OR_FOLDER …    a table of predictions; --csv FILE keeps it

Writes results/<run>/test/: metrics.json, per_class.csv, conf_matrix.png and .csv, pred.png and .json (five pictures),
mistakes.png and .json (the most confident ones), test_predictions.csv; for a Testing_set.csv without labels also
predictions.csv (filename, label, probability).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import checkpoint
import figures
import parallel
from backbone import Backbone, Int8Model, Precision, backbone_maker, halving, pick_backbone_precision
from console import run_script
from dataset import EvalTransform, HarDataset, Sample, image_files, read_dataset
from device import pick_device, pick_precision, pick_workers
from errors import InputError
from examples import check_test_set
from files import write_csv, write_json
from metrics import TOP, confusion_matrix, report
from model import ActionNet
from scan import check_pictures
from training import predict, shown

PANELS, MISTAKES = 5, 10


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
        return f"{self.record['dataset']} · {self.record['weights']} · run {self.run.name}"

    def __call__(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and class indices (N,) of pictures, -1 where unlabelled."""
        args, device = self.args, self.device
        own = samples[parallel.part(len(samples))]
        pictures = HarDataset(own, self.record["classes"], EvalTransform(self.record["image_size"]))
        options = {"num_workers": pick_workers(device, args.workers), "pin_memory": device.type == "cuda"}
        loader = DataLoader(pictures, args.batch_size, **options)
        backbone = self.pick_backbone(len(own))
        with tqdm(total=len(own), desc="predict", unit=" images", disable=parallel.rank() > 0) as bar:
            return predict(
                lambda images: self.model.head(halving(backbone, images)),
                shown(loader, bar), len(self.record["classes"]), device, pick_precision(device, args.precision),
            )  # fmt: skip

    def pick_backbone(self, count: int) -> Backbone:
        """In the precision asked for; "auto" is int8 where the run was trained on such maps and the model is there."""
        args, record = self.args, self.record
        int8 = Int8Model(args.cache, record["weights_sha256"], record["dataset"], record["image_size"])
        own = self.device.type == "cpu" and find_spec("openvino") and int8.exists()
        own = parallel.agreed(own and record["precision"] == int8.name)
        wish = "int8" if own and args.precision == "auto" else args.precision
        precision = pick_backbone_precision(self.device, wish, 0)
        return backbone_maker(self.model.base_model, self.device, precision, int8, self.training_pictures)[0](count)

    def training_pictures(self) -> list[Sample]:
        data = read_dataset(self.args.data or Path(self.record["data"]))
        return [sample for sample in data.train if sample.name in self.split["train"]]


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
    with parallel.connected(device):
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
    if parallel.rank() > 0:
        return
    rows = describe(samples, logits, predictor.record["classes"])
    width = max(len(row["filename"]) for row in rows)
    for row in rows:
        print(f"{row['filename']:{width}s}  " + "  ".join(f"{name} {value:.2f}" for name, value in row["top"][:3]))
    if args.csv:
        keys = ("filename", "predicted", "probability")
        write_csv(args.csv, [("filename", "label", "probability"), *([row[key] for key in keys] for row in rows)])
        print(f"written: {args.csv}")
    print(f"{len(rows)} pictures, network: {predictor.title}")


def readable(samples: list[Sample], args: Args) -> list[Sample]:
    with parallel.first_alone():
        good = check_pictures(samples, args.cache / "scans.json", args.skip_bad)
    if not good:
        raise InputError("none of the pictures can be read")
    return [sample for sample in samples if sample.name in good]


def describe(samples: Sequence[Sample], logits: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """For each picture its name, true and predicted class, probability and the five most probable classes."""
    values, indices = logits.softmax(1).topk(min(TOP, len(classes)), dim=1)
    rows = []
    for sample, probabilities, order in zip(samples, values.tolist(), indices.tolist(), strict=True):
        top = [(classes[index], round(value, 6)) for index, value in zip(order, probabilities, strict=True)]
        rows.append({
            "filename": sample.name, "path": sample.path, "true": sample.label,
            "predicted": top[0][0], "probability": top[0][1], "top": top,
        })  # fmt: skip
    return rows


def test(predictor: Predictor) -> None:
    """Measures the test set of the run's own split, prints the figures and writes them with their pictures."""
    record, folder = predictor.record, predictor.run / "test"
    data = read_dataset(predictor.args.data or Path(record["data"]))
    digests = predictor.split["test"]
    with parallel.first_alone():
        samples = check_test_set(data, digests, digests, record["classes"], predictor.args.cache)
    logits, targets = predictor(samples)
    unlabelled, answers = [], None
    if data.test and not data.test_is_labelled:
        unlabelled = readable(data.test, predictor.args)
        answers = predictor(unlabelled)[0]
    if parallel.rank() > 0:
        return
    for stale in (folder / "mistakes.png", folder / "predictions.csv"):  # not written by every test
        stale.unlink(missing_ok=True)
    counts = confusion_matrix(logits, targets, len(record["classes"]))
    figures_of_test = report(logits, targets, record["classes"])
    rows = describe(samples, logits, record["classes"])
    about = {key: record[key] for key in ("dataset", "weights", "weights_sha256", "epoch", "seed")}
    write_json(folder / "metrics.json", figures_of_test | about | {"run": predictor.run.name})
    print_metrics(figures_of_test)
    write_tables(folder, figures_of_test, rows, counts, record)
    draw(predictor, folder, rows, counts, figures_of_test)
    if answers is not None:
        rows = describe(unlabelled, answers, record["classes"])
        table = [(Path(row["filename"]).name, row["predicted"], row["probability"]) for row in rows]
        write_csv(folder / "predictions.csv", [("filename", "label", "probability"), *table])
    print("written: " + "  ".join(str(path) for path in sorted(folder.glob("[!.]*"))))
    print(f"{predictor.title}: test accuracy {figures_of_test['accuracy']:.4f} on {figures_of_test['n']} pictures")


def print_metrics(values: dict[str, Any]) -> None:
    print(f"\ntest set: {values['n']} pictures")
    for key in ("accuracy", "top5_accuracy", "loss", "precision", "recall", "f1"):
        macro = f"   macro {values[f'macro_{key}']:.4f}" if f"macro_{key}" in values else ""
        print(f"  {key:14s} {values[key]:.4f}{macro}")
    width = max(len(name) for name in values["per_class"])
    print(f"\n  {'class':{width}s}  precision  recall      F1     n")
    for name, row in values["per_class"].items():
        print(f"  {name:{width}s}  {row['precision']:9.3f}  {row['recall']:6.3f}  {row['f1']:6.3f}  {row['n']:4d}")
    print()


def write_tables(
    folder: Path, values: dict[str, Any], rows: list[dict[str, Any]], counts: np.ndarray, record: dict[str, Any]
) -> None:
    columns = ("precision", "recall", "f1", "n")
    per_class = [(name, *(row[key] for key in columns)) for name, row in values["per_class"].items()]
    write_csv(folder / "per_class.csv", [("class", *columns), *per_class])
    matrix = [(name, *line) for name, line in zip(record["classes"], counts.tolist(), strict=True)]
    write_csv(folder / "conf_matrix.csv", [("true \\ predicted", *record["classes"]), *matrix])
    keys = ("filename", "true", "predicted", "probability")
    write_csv(folder / "test_predictions.csv", [keys, *([row[key] for key in keys] for row in rows)])


def draw(
    predictor: Predictor, folder: Path, rows: list[dict[str, Any]], counts: np.ndarray, values: dict[str, Any]
) -> None:
    title = predictor.title
    accuracy = f"test accuracy {values['accuracy']:.1%} on {values['n']} pictures"
    figures.confusion(counts, predictor.record["classes"], f"{title}\n{accuracy}", folder / "conf_matrix.png")
    chosen = np.random.default_rng(predictor.args.seed).permutation(len(rows)).tolist()
    new, more = [], []  # a picture of each class comes before a second one of any
    for row in (rows[index] for index in chosen):
        (more if row["true"] in {other["true"] for other in new} else new).append(row)
    wrong = sorted((row for row in rows if row["true"] != row["predicted"]), key=lambda row: -row["probability"])
    for name, picked, what in (
        ("pred", (new + more)[:PANELS], "sample predictions"),
        ("mistakes", wrong[:MISTAKES], "most confident mistakes"),
    ):
        if picked:
            figures.predictions(picked, f"{title}\n{what}", folder / f"{name}.png")
        write_json(folder / f"{name}.json", [{k: v for k, v in row.items() if k != "path"} for row in picked])


if __name__ == "__main__":
    run_script(main, Args, __doc__)
