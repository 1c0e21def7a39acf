"""Exports a trained network for use elsewhere.

    python export.py                         the newest run, else the pretrained network, as ONNX
    python export.py --int8                  also as int8 ONNX, both tested on the run's test set
    python export.py --format program        as a program of torch.export
    python export.py --pretrained RUN        packs a run of the HAR photographs into pretrained/, with its model card

ONNX and programs are compared with PyTorch on real images; writes results/<run>/export/: the network, export.json and
README.md. --pretrained makes convolutions int8, a quarter of the size, tests both networks, and writes
pretrained/har-resnet50.safetensors and pretrained/README.md.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from runtime.console import parse_arguments, run_script
from runtime.errors import InputError
from runtime.options import RunOptions, same_run


@dataclass
class Args(RunOptions):
    format: Literal["onnx", "program"] = "onnx"
    """onnx, or a program of torch.export."""
    int8: bool = False
    """Also write int8 ONNX, calibrated on training images of the run."""
    preprocessing: bool = False
    """Take pixels (B, S, S, 3) uint8 instead of normalised images (B, 3, S, S)."""
    pretrained: str = ""
    """Pack this run for pretrained/ instead."""
    out: Path = Path("pretrained")
    """With --pretrained: folder to write to."""


def check(args: Args) -> None:
    """Raises InputError on wrong arguments."""
    if args.int8 and args.format != "onnx":
        raise InputError("--int8 goes with --format onnx; leave one of them out")
    if args.pretrained and (args.run or args.int8 or args.preprocessing or args.format != "onnx"):
        raise InputError("--pretrained goes without --run, --format, --int8 and --preprocessing; leave them out")
    for package in ("onnx", "onnxscript", "onnxruntime") if args.format == "onnx" and not args.pretrained else ():
        if find_spec(package) is None:
            raise InputError(f"ONNX needs the package {package}: pip install -r requirements-export.txt")


if __name__ == "__main__":
    ARGS = parse_arguments(Args, __doc__, check)  # before the imports below, which take seconds

import shlex
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from backbones.imagenet_weights import BackboneWeights
from backbones.names import RESNET
from backbones.packed import PRETRAINED, pack, unpack
from evaluation.card import model_card
from runtime.device import pick_device
from runtime.files import write_text
from sample.build import NAME as SAMPLE_NAME
from training import checkpoint
from training.options import PLACES
from training.predictor import Predictor
from training.trained_run import TrainedRun, load_run

BACKBONE = "base_model."
HAR_CLASSES = 15


def main(args: Args) -> None:
    check(args)
    if args.pretrained:
        pack_run(args)
        return
    from exporting.write import export_run

    run = load_run(args, pick_device("cpu"))
    words = [
        "python",
        "export.py",
        *same_run(replace(args, run=run.name)),
        *([f"--format={args.format}"] * (args.format != "onnx")),
    ]
    words += [f"--{name}" for name in ("int8", "preprocessing") if getattr(args, name)]
    export_run(run, args.format, args.preprocessing, args.int8, shlex.join(words))


def pack_run(args: Args) -> None:
    run = load_run(
        RunOptions(args.pretrained, args.data, args.device, args.cache, args.results), pick_device(args.device)
    )
    if run.record["dataset"] == SAMPLE_NAME or len(run.classes) != HAR_CLASSES:
        raise InputError(f"--pretrained {args.pretrained}: was not trained on the HAR photographs; give a run that was")
    if run.model.unfreeze != "none" or run.model.backbone != RESNET:
        raise InputError(f"--pretrained {args.pretrained}: give a run of the frozen ResNet-50")
    state = {key: value.clone() for key, value in run.model.cpu().state_dict().items()}
    record = portable(run.record, state, run.model.stride_on)
    logits, targets = predict_test(run)
    run.model.load_state_dict(unpack(pack(state)))
    packed, _ = predict_test(run)
    test = measure(run, packed, targets)
    rounding = compare(logits, packed, targets)
    about = {"split": run.split, "test_predictions": packed.argmax(1).tolist()}
    about["record"] = record | {"test": test, "rounding": rounding}
    path = args.out / PRETRAINED.name
    run.model.load_state_dict(state)
    checkpoint.save_pretrained(path, run.model, about)
    write_text(args.out / "README.md", model_card(run.record, test, rounding, path))
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)  {args.out / 'README.md'}")
    accuracies = f"{rounding['float_accuracy']:.4f}, packed {test['accuracy']:.4f}"
    print(f"test accuracy {accuracies}; {rounding['changed']} of {test['n']} predictions differ")


def portable(record: dict[str, Any], state: dict[str, Tensor], stride_on: str) -> dict[str, Any]:
    """The record of the packed network: without places on this machine, with its backbone's own name and digest."""
    kept = {name: value for name, value in record["arguments"].items() if name not in PLACES}
    backbone = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}
    weights = BackboneWeights(f"{record['weights']}, int8", unpack(pack(backbone)), stride_on)
    names = {"weights": weights.name, "weights_sha256": weights.sha256}
    return record | names | {"data": None, "dataset": "HAR", "arguments": kept}


def predict_test(run: TrainedRun) -> tuple[Tensor, Tensor]:
    """Logits (N, K) of the run's test set in float32, and classes (N,)."""
    run.model.to(run.device).eval()
    return Predictor(run, precision="fp32")(run.samples("test"))


def measure(run: TrainedRun, logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """The content of `metrics.json` for these logits."""
    from evaluation.report import EvaluationReport  # with matplotlib, which takes a second

    with TemporaryDirectory() as scratch:
        report = EvaluationReport(
            Path(scratch), run.title, run.samples("test"), run.classes, logits, targets, run.model.temperature
        )
        return report.write({}, seed=0)


def compare(logits: Tensor, packed: Tensor, targets: Tensor) -> dict[str, float]:
    """What rounding changed: `model_card` says which keys."""
    difference = (logits - packed).abs()
    return {
        "changed": int((logits.argmax(1) != packed.argmax(1)).sum()),
        "float_accuracy": (logits.argmax(1) == targets).double().mean().item(),
        "largest": difference.max().item(),
        "mean": difference.mean().item(),
        "span": (logits.max() - logits.min()).item(),
    }


if __name__ == "__main__":
    run_script(main, ARGS)
