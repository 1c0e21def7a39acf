"""Tests a run's best checkpoint on its test set, or predicts any images with it.

    python predict5.py                        test set of the newest run
    python predict5.py --run NAME --data DIR  another run, whose dataset has moved
    python predict5.py --tta                  test-time augmentation: mean over several views of each image
    python predict5.py IMAGE_OR_FOLDER …      any images; where folders are named after classes, with metrics
    python predict5.py --video FILE_OR_0      a video, or webcam 0 until Ctrl-C: classes over time

Writes results/<run>/test/ (with --tta test_tta/): report.html (all in one page), metrics.json (with confidence
intervals), per_class.csv, conf_matrix.png and .csv, pred.png and .json (five images), mistakes.png and .json (the most
confident ones), trust.png and .json (calibration, coverage), confused.png, label_issues.csv and .png (suspected label
errors), test_predictions.csv; for a Testing_set.csv without labels also predictions.csv (filename, label, probability).
--tta keeps its temperature in results/<run>/tta.json. Of other images, results/<run>/images/ holds the latest:
predictions.csv, .json and .png, and of labelled ones what a test writes, but for the page. Of a video,
results/<run>/video/ holds annotated.mp4, timeline.csv, .json and .png.
"""

from dataclasses import dataclass, field
from pathlib import Path

from runtime.console import parse_arguments, run_script, suggest
from runtime.errors import InputError
from runtime.options import PrecisionName, RunOptions, option_name, require_range, same_run


@dataclass
class Args(RunOptions):
    images: tuple[Path, ...] = field(default=(), metadata={"positional": "IMAGE"})
    """Images or folders to predict. Default: the run's test set."""
    threshold: float = field(default=0.5, metadata={"aliases": ["--unsure"]})
    """With images: the prediction is "not sure" where the highest probability is below this, 0 to 1."""
    top_k: int = 3
    """With images: how many classes to show."""
    video: str = ""
    """A video file, or the number of a webcam, instead of images (needs requirements-video.txt)."""
    fps: float = 5.0
    """With --video: frames to predict per second, at most 120."""
    smooth: float = 1.0
    """With --video: seconds over which probabilities are averaged (time constant); 0: not at all."""
    csv: Path | None = None
    """With images: also write the table to this file."""
    tta: bool = False
    """Test-time augmentation: mean over several views, some mirrored; its temperature is fitted at the first use."""
    seed: int = 0
    """Chooses the five images of pred.png."""
    batch_size: int = 128
    """Images per forward pass."""
    skip_bad: bool = False
    """Leave unreadable images out instead of stopping."""
    no_report: bool = False
    """Write no report.html about the test."""
    precision: PrecisionName = "auto"
    """int8: of the backbone, on a CPU; auto takes it where the run was trained with it. For fewer than 200 images, auto
    is fp32: then all scripts say the same probability."""
    workers: int | None = None
    """Processes that decode images, threads beside a GPU. Default: none beside a CPU, all cores beside a GPU."""


def check(args: Args) -> None:
    """Raises InputError on wrong arguments."""
    require_range("seed", args.seed, 0)
    require_range("threshold", args.threshold, 0, 1)
    require_range("top_k", args.top_k, 1)
    require_range("batch_size", args.batch_size, 1)
    require_range("workers", args.workers, 0)
    require_range("smooth", args.smooth, 0)
    require_range("fps", args.fps, 0.01, 120)
    if args.video and (args.images or args.tta):
        raise InputError(f"--video goes without {'images' if args.images else '--tta'}; leave one of them out")
    for where, names in (("images or --video", ("threshold", "top_k")), ("--video", ("fps", "smooth"))):
        for name in names if not (args.video or (args.images and "images" in where)) else ():
            if getattr(args, name) != getattr(Args, name):
                raise InputError(f"{option_name(name)} goes with {where}; leave it out")
    if args.no_report and (args.images or args.video):
        raise InputError("--no-report goes with a test, images and videos have no report; leave it out")
    if args.csv and (args.csv.is_dir() or not args.csv.name):
        raise InputError(f"--csv {args.csv}: is a folder; give a file")
    if args.csv and not args.images:
        raise InputError("--csv goes with images; the test set's tables are in results/<run>/test/ anyway")
    for path in args.images:
        if not (path.is_file() or path.is_dir()):  # a device would be read for ever
            raise InputError(f"{path}: no such file or folder")


if __name__ == "__main__":
    ARGS = parse_arguments(Args, __doc__, check)  # before the imports below, which take seconds

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from dataset import Sample
from evaluation.metrics import headline
from evaluation.predictions import prediction_rows, short_name
from evaluation.summary import print_metrics
from layouts.parts import describe_left_out
from runtime import distributed
from runtime.device import pick_device
from runtime.files import write_csv, write_folder, write_json
from runtime.images import file_names, image_files, is_image_name
from runtime.status import say
from runtime.text import printable, wrap
from splits.scan import check_images
from training.predictor import Predictor
from training.trained_run import load_run

OPTIONAL = ("mistakes.png", "confused.png", "label_issues.png", "predictions.csv", "report.html")  # not of every test
TABLE = ("filename", "label", "probability")
SHOWN = 20  # images of predictions.png
FEW = 200  # images, for which speed does not matter


def main(args: Args) -> None:
    check(args)
    device = pick_device(args.device)
    with distributed.process_group(device):
        samples = find_images(args.images)
        few = 0 < len(samples) < FEW and args.precision == "auto"
        precision = "fp32" if few else args.precision
        predictor = Predictor(load_run(args, device), args.tta, precision, args.batch_size, args.workers)
        if args.video:
            from video.predict import Settings, predict_video

            predict_video(predictor, args.video, Settings(args.fps, args.smooth, args.threshold, args.top_k))
        elif args.images:
            predict_images(predictor, samples, args)
        else:
            evaluate(predictor, args)
            suggest("visualize_single_example.py", *same_run(args))


def predict_images(predictor: Predictor, samples: Sequence[Sample], args: Args) -> None:
    """Predicts images and folders, prints a table and writes results/<run>/images/; with --csv also that file."""
    run = predictor.run
    samples = readable(label_by_folder(samples, run.classes), args)
    digests = [hashlib.sha256(sample.path.read_bytes()).hexdigest() for sample in samples]
    caution = run.warn(digests)
    logits, targets = predictor(samples)
    probabilities = predictor.probabilities(logits)
    if not distributed.is_main():
        return
    rows = prediction_rows(samples, probabilities, run.classes, args.top_k)
    rows = [row | {"sure": row["probability"] >= args.threshold} for row in rows]
    print_rows(rows)
    table = [(row["filename"], row["predicted"], row["probability"], row["sure"]) for row in rows]
    folder = run.folder / "images"
    with write_folder(folder) as partial:
        write_predictions(partial, predictor, rows, table, probabilities, caution)
        labelled = [index for index, target in enumerate(targets.tolist()) if target >= 0]
        if labelled:
            measure(partial, predictor, [samples[i] for i in labelled], logits[labelled], targets[labelled], args.seed)
            seen = {*run.split["train"].values()}.intersection(digests[i] for i in labelled)
            if seen:
                print(f"note: {len(seen)} of these images were in the training set, so that the metrics say too much\n")
    if args.csv:
        write_csv(args.csv, table, (*TABLE, "sure"))
    say(wrap(f"written: {folder}/: {' '.join(sorted(path.name for path in folder.iterdir()))} {args.csv or ''}"))
    print(f"{len(rows)} image{'s' * (len(rows) != 1)}, backbone in {predictor.arithmetic.backbone}; {predictor.title}")
    suggest("visualize_single_example.py", *same_run(args), samples[0].path)


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    files = [printable(row["filename"]) for row in rows]
    width = max(map(len, files))
    unsure = "" if all(row["sure"] for row in rows) else "not sure: "
    for file, row in zip(files, rows, strict=True):
        doubt = " " * len(unsure) if row["sure"] else unsure
        print(f"{file:{width}s}  {doubt}" + "  ".join(f"{short_name(name)} {value:.2f}" for name, value in row["top"]))


def write_predictions(
    folder: Path,
    predictor: Predictor,
    rows: Sequence[dict[str, Any]],
    table: Sequence[tuple],
    probabilities: Tensor,
    caution: str,
) -> None:
    """The table, the probabilities of all classes, and a page of the first images."""
    from figures import curves  # with matplotlib, which takes a second

    write_csv(folder / "predictions.csv", table, (*TABLE, "sure"))
    shares = [[round(value, 6) for value in line] for line in probabilities.tolist()]
    values = [
        {key: row[key] for key in ("filename", "true", "predicted", "probability", "sure")}
        | {"probabilities": dict(zip(predictor.run.classes, line, strict=True))}
        for row, line in zip(rows, shares, strict=True)
    ]
    write_json(folder / "predictions.json", {"network": predictor.title, "images": values})
    shown = rows[:SHOWN]
    title = "Prediction" if len(rows) == 1 else f"Predictions of {len(rows)} images"
    title += f", the first {SHOWN}" if len(rows) > SHOWN else ""
    title += f" by {caution}" if caution else ""
    curves.predictions(shown, title, predictor.title, folder / "predictions.png")


def measure(
    folder: Path, predictor: Predictor, samples: Sequence[Sample], logits: Tensor, targets: Tensor, seed: int
) -> None:
    """Writes and prints the metrics of labelled images."""
    from evaluation.report import EvaluationReport

    run = predictor.run
    report = EvaluationReport(
        folder, predictor.title, samples, run.classes, logits, targets, predictor.temperature, False
    )
    print_metrics(report.write({"run": run.name, "arithmetic": predictor.arithmetic.backbone}, seed), "labelled images")


def label_by_folder(samples: Sequence[Sample], classes: Sequence[str]) -> list[Sample]:
    """Gives images in a folder named after a class, the nearest one above them, that class."""
    folders = [(sample, sample.path.parts[-2::-1]) for sample in samples]
    return [replace(sample, label=next((name for name in names if name in classes), None)) for sample, names in folders]


def find_images(paths: Sequence[Path]) -> list[Sample]:
    """Image files and those in folders, each once. Raises: InputError naming a path that holds none."""
    samples = []
    for path in paths:
        files = image_files(path) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: holds no images; give another folder")
        others = [name for name in file_names(path) if not is_image_name(name)] if path.is_dir() else []
        if others:
            print(f"note: left out of {path}: {describe_left_out({'other_files': others})}")
        samples += [Sample(str(file), file, None) for file in files]
    return list({sample.path.resolve(): sample for sample in samples}.values())


def readable(samples: list[Sample], args: Args) -> list[Sample]:
    with distributed.main_process_first():
        good = check_images(samples, args.cache / "scans.json", args.skip_bad)
    if not good:
        raise InputError("none of the images can be read; give others")
    return [sample for sample in samples if sample.name in good]


def evaluate(predictor: Predictor, args: Args) -> None:
    """Measures the run's test set, prints the metrics and writes them with their figures."""
    from evaluation.report import EvaluationReport  # with matplotlib, which takes a second

    run = predictor.run
    record, folder = run.record, run.folder / ("test_tta" if predictor.tta else "test")
    data, temperature = run.dataset, predictor.temperature
    duplicated = None
    with distributed.main_process_first():
        samples = run.samples("test")
        if record["arguments"].get("ignore_duplicates"):
            duplicated = run.have_duplicates_in_training(samples)
    logits, targets = predictor(samples)
    unlabelled, unlabelled_logits = [], None
    if data.test and not data.test_is_labelled:
        unlabelled = readable(data.test, args)
        unlabelled_logits = predictor(unlabelled)[0]
    if not distributed.is_main():
        return
    for stale in (folder / name for name in OPTIONAL):
        stale.unlink(missing_ok=True)
    groups = run.groups(samples)
    report = EvaluationReport(
        folder, predictor.title, samples, run.classes, logits, targets, temperature, groups=groups
    )
    about = {key: record[key] for key in ("dataset", "weights", "weights_sha256", "epoch", "seed")}
    if duplicated:
        about["copies"] = report.by_duplicates(duplicated)
    about |= {"run": run.name, "arithmetic": predictor.precision}
    values = report.write(about, args.seed)
    print_metrics(values)
    if unlabelled_logits is not None:
        rows = prediction_rows(unlabelled, predictor.probabilities(unlabelled_logits), run.classes)
        table = [(Path(row["filename"]).name, row["predicted"], row["probability"]) for row in rows]
        write_csv(folder / "predictions.csv", table, TABLE)
    if not args.no_report:
        from reports.evaluation import write_test_report

        write_test_report(run, report, values, test_command(args, run.name))
    say(wrap(f"written: {folder}/: {' '.join(sorted(path.name for path in folder.glob('[!.]*')))}"))
    print(f"{predictor.title}: test {headline(values, report.uneven)} on {values['n']} images")


def test_command(args: Args, run: str) -> list[str]:
    """The command line that repeats a test."""
    words = ["python", "predict5.py", *same_run(replace(args, run=run)), *(["--tta"] if args.tta else [])]
    return [shlex.join(words)]


if __name__ == "__main__":
    run_script(main, ARGS)
