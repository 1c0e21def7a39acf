"""Trains the head on cached feature maps of the frozen backbone; keeps the epoch with the best validation loss.

    python train.py                                  the dataset in data/, or the built-in sample
    python train.py --data DIR --run NAME
    python train.py --recipe plain                   no cache, no schedule, only Adam
    python train.py --recipe finetune                the whole network, for a GPU
    python train.py --unfreeze layer4 --head RUN     fine-tunes a stage, from the head of an earlier run
    python train.py --resume --run NAME              continues an interrupted run

"Best" is the smallest validation loss after temperature scaling (column calibr.). Writes results/<run>/: best.pt,
best.json, last.pt, split.json, metrics.jsonl, loss.png, report.html, network.png and .json; with --snapshots also
snapshots/.
"""

from runtime.console import go_on_with, parse_arguments, run_script, suggest
from training.options import Args

if __name__ == "__main__":
    ARGS = parse_arguments(Args, __doc__, Args.check)  # before the imports below, which take seconds

import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import torch

from dataset import class_counts
from evaluation.metrics import headline, is_uneven
from features.pca import full_state
from layers.distributed_norm import synchronise
from model import ActionNet, build_model
from runtime import distributed
from runtime.device import pick_device
from runtime.errors import InputError, naming
from runtime.files import write_json, write_text
from runtime.options import RunOptions, same_run
from runtime.status import say
from runtime.text import wrap
from training import checkpoint
from training.checks import check_history
from training.loop import TrainState, best_epoch, fit, initial_state
from training.options import ALLOWED_WITH_RESUME, head_args
from training.run import PreparedRun, describe_run, open_folder, prepare_run, run_folder, timed
from training.source import PreparedSource, prepare_source
from training.trackers import Trackers, open_trackers
from training.trained_run import TrainedRun


def main(args: Args) -> None:
    device = pick_device(args.device)
    with distributed.process_group(device):
        started = distributed.broadcast_object(f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
        if args.recipe == "finetune" and not (args.head or args.resume):
            args = replace(args, run=args.run or started)
            run_folder(args, started)  # ends here where the run exists, not after hours
            args = replace(args, head=train_head(args, device))
        run = prepare_run(args, device, started)
        train(run)
        suggest("predict5.py", *same_run(places_of(run)))


def places_of(run: PreparedRun) -> RunOptions:
    """What other scripts need to find the run."""
    return RunOptions(run=run.folder.name, cache=run.args.cache, results=run.args.results)


def train_head(args: Args, device: torch.device) -> str:
    """Trains the head alone, as a run of its own, or goes on where that was interrupted; returns its name."""
    args.check()
    own = head_args(args, args.run)
    if (args.results / own.run / checkpoint.LAST).exists():
        own = Args(resume=True, **{name: getattr(own, name) for name in ALLOWED_WITH_RESUME - {"resume"}})
    train(prepare_run(own, device, own.run))
    return own.run


def train(run: PreparedRun) -> None:
    torch.manual_seed(run.args.seed)
    recipe, args = run.recipe, run.args
    model = build_model(
        run.weights, len(run.data.classes), recipe.dropout, recipe.channel_dropout, args.unfreeze, run.image_size
    )
    if args.head and not args.resume:
        checkpoint.copy_head(args.results, args.head, model, run.weights.sha256, run.digests)
    model.to(run.device)
    open_folder(run)
    main = distributed.is_main()
    with open_trackers(run.folder, run.arguments, args.tensorboard and main, args.wandb and main) as trackers:
        train_model(run, model, trackers)


def train_model(run: PreparedRun, model: ActionNet, trackers: Trackers) -> None:
    recipe, args = run.recipe, run.args
    with timed(run.seconds, "features"):
        source = prepare_source(run, model)
    synchronise(model)
    dtype = run.precision.head
    state = initial_state(model, recipe, run.epochs, len(source.batches), run.device, dtype)
    if args.resume:
        resume(run, source, model, state)
        trackers.log(state.history)
    elif args.snapshots and distributed.is_main():
        checkpoint.save_snapshot(run.folder, full_state(model.trained_state(), source.basis), epoch=0)
    record = describe_run(run, source.arithmetic, source.projection)
    say(TABLE_HEAD)

    def on_epoch(is_best: bool) -> None:
        keep_epoch(run, source, model, state, record, is_best)
        trackers.log(state.history)

    fit(model, source.batches, recipe, run.epochs, args.seed, state, run.device, dtype, on_epoch)
    if distributed.is_main():
        finish(run, state)
        trackers.end(state.history)


def resume(run: PreparedRun, source: PreparedSource, model: ActionNet, state: TrainState) -> None:
    """Loads the state after the last complete epoch."""
    stored = checkpoint.load_last(run.folder, model, run.device)
    with naming(run.folder / checkpoint.LAST, checkpoint.FIX):
        rows = stored["state"]["history"]
        if stored.get("stores") != source.stores or any("calibrated" not in row for row in rows):
            raise InputError(
                f"cannot resume {run.folder}: its features are missing from {run.args.cache} or it was written by an "
                "older version; start a new run"
            )
        check_history(rows)
        state.load_state_dict(stored["state"])
    if distributed.is_main():
        write_metrics(run, state)  # which may be damaged
    run.seconds.update(stored.get("seconds", {}))
    say(f"continuing after epoch {len(state.history)} of {run.epochs}")


def keep_epoch(
    run: PreparedRun, source: PreparedSource, model: ActionNet, state: TrainState, record: dict[str, Any], is_best: bool
) -> None:
    """Prints the epoch's row and writes best.pt (where it is the best), last.pt and metrics.jsonl."""
    if not distributed.is_main():
        return
    row = state.history[-1]
    say(table_row(row, is_best))
    run.seconds["training"] = round(sum(row["seconds"] for row in state.history), 2)
    if is_best:
        epoch = {key: row[key] for key in ("epoch", "train", "val", "calibrated", "temperature")}
        record = record | epoch | {"seconds": run.seconds}
        checkpoint.save_best(run.folder, model, full_state(model.state_dict(), source.basis), record, run.digests)
    if run.args.snapshots:
        checkpoint.save_snapshot(run.folder, full_state(model.trained_state(), source.basis), row["epoch"])
    write_metrics(run, state)
    last = {"state": state.state_dict(), "arguments": run.arguments, "stores": source.stores}
    last |= {"weights_sha256": run.weights.sha256, "split": run.digests, "seconds": run.seconds}
    checkpoint.save_last(run.folder, model, last)
    go_on_with("train.py", "--resume", *same_run(places_of(run)))


def write_metrics(run: PreparedRun, state: TrainState) -> None:
    """Writes metrics.jsonl, without times: two runs with equal numbers write equal files."""
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in state.history]
    write_text(run.folder / checkpoint.METRICS, "".join(json.dumps(row) + "\n" for row in rows))


TABLE_HEAD = f"""\
calibr.: validation loss after temperature scaling; the smallest (*) is kept. Other losses are raw.
{"":13s} | {"training":31s} | {"validation":39s} |
epoch      lr |    loss   acc  prec   rec    F1 |    loss calibr.   acc  prec   rec    F1 |     s
{"-" * 97}"""


def table_row(row: dict[str, Any], is_best: bool) -> str:
    """One epoch for the console, at most 100 characters; an asterisk marks the best so far."""
    cells = [f"{row['epoch']:5d} {row['lr']:.1e}"]
    for part, losses in (("train", (row["train"]["loss"],)), ("val", (row["val"]["loss"], row["calibrated"]))):
        values = "  ".join(f"{row[part][key]:.2f}" for key in ("accuracy", "precision", "recall", "f1"))
        cells.append(" ".join(f"{loss:7.4f}" for loss in losses) + f"  {values}")
    return " | ".join([*cells, f"{row['seconds']:5.1f}"]) + (" *" if is_best else "")


def finish(run: PreparedRun, state: TrainState) -> None:
    """Draws the learning curves; prints the best epoch's figures and the files of the run."""
    from figures import curves  # matplotlib takes a second

    best = best_epoch(state.history)
    record = json.loads((run.folder / checkpoint.RECORD).read_text(encoding="utf-8"))
    record |= {"seconds": run.seconds, "epoch_seconds": [row["seconds"] for row in state.history]}
    write_json(run.folder / checkpoint.RECORD, record)
    title = f"{run.data.name} · {run.weights.name}"
    curves.learning_curves(state.history, best["epoch"], title, run.folder / checkpoint.CURVES)
    if not run.args.no_report:
        from reports.run import write_run_report

        parts = checkpoint.load_model(run.folder, torch.device("cpu"))
        write_run_report(TrainedRun(run.folder, *parts, torch.device("cpu"), run.args.data, run.args.cache))
    uneven = is_uneven(class_counts(run.split.val).values())
    done = len(state.history)
    early = f", stopped after {done} of {run.epochs}" if done < run.epochs else ""
    print(f"\nbest epoch: {best['epoch']}{early}")
    for part in ("train", "val"):
        keys = ("loss", *(("macro_f1", "accuracy", "f1") if uneven else ("accuracy", "precision", "recall", "f1")))
        shown = (f"{key} {best[part][key]:.4f}" for key in keys if key in best[part])  # older epochs lack macro_f1
        print(f"  {part:5s} raw " + "  ".join(shown))
    print(f"  val   calibrated loss {best['calibrated']:.4f} (temperature {best['temperature']:.2f})")
    print("  seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in run.seconds.items()))
    names = sorted(path.name for path in run.folder.glob("[!.]*.*"))
    say(wrap(f"written: {run.folder}/: {' '.join(names)}"))
    print(f"{run.data.name}, {run.weights.name}: validation {headline(best['val'], uneven)} ({run.folder})")


if __name__ == "__main__":
    run_script(main, ARGS)
