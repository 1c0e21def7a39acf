"""Searches for better numbers of the head's recipe with Optuna, on the validation set; the test set is never looked at.

    python -m benchmarks.search --data DIR --trials 50       a second call goes on; --trials counts those before
    python -m benchmarks.search --options="--image-size 224 --epochs 8"     the same options for every trial

Feature maps are cached once, and every trial trains a head on them as train.py does. The first trial is the default
recipe. Writes results/search/: study.sqlite (Optuna's), search.csv, search.json, search.md; prints the best trial as a
command line of train.py. Needs a package: pip install -r requirements-benchmark.txt.
"""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout

from benchmarks.search_report import completed, row_of, write_report
from benchmarks.search_study import (
    SPACE,
    Range,
    ask,
    finished,
    open_study,
    parameters_of,
    search_space,
    settings_of,
    tell,
)
from features.pca import project_head
from model import ActionNet, build_model
from runtime.arguments import parse
from runtime.console import parse_arguments, run_script
from runtime.device import pick_device
from runtime.errors import InputError, first_line
from runtime.options import option_name, require_range, same_run
from runtime.status import say
from training.feeds import CachedSource
from training.loop import TrainState, best_epoch, fit, initial_state
from training.options import Args as TrainArgs
from training.run import PreparedRun, prepare_run
from training.source import PreparedSource, prepare_source

if TYPE_CHECKING:
    from optuna import Study, Trial

FOLDER, STUDY = "search", "study"  # the files are results/search/study.sqlite, …
FOR_ALL_TRIALS = {  # what --options may hold besides the numbers that are searched
    "weights", "backbone", "image_size", "val_share", "ignore_duplicates", "skip_bad", "precision", "device", "workers",
    "views", "channels", "warmup", "low_res", "patience", "group", "balance",
}  # fmt: skip
QUARTERS = 4  # of a training, after which trials of different lengths are compared


@dataclass
class Args:
    trials: int = 20
    """Number of trials in all, those of earlier calls included."""
    data: Path | None = None
    """Folder of the dataset. Default: data/, or the built-in sample where data/ holds none."""
    seed: int = 0
    """Seed of the search and, as in train.py, of the split and of every training."""
    options: str = ""
    """Options of train.py for every trial, as one text: --options="--image-size 224". Numbers given here are not
    searched."""
    cache: Path = Path("data/cache")
    """Folder of cached feature maps and image checks."""
    results: Path = Path("results")
    """The search writes into the folder search/ in it."""

    def check(self) -> None:
        """Raises InputError on wrong values, and where Optuna is missing."""
        require_range("trials", self.trials, 1)
        require_range("seed", self.seed, 0)
        if find_spec("optuna") is None:
            raise InputError("the search needs the package optuna: pip install -r requirements-benchmark.txt")
        train_args(self)


def train_args(args: Args) -> TrainArgs:
    """What all trainings of the search share. Raises: InputError on options that a search cannot use."""
    try:
        words = shlex.split(args.options)
    except ValueError as error:
        raise InputError(f"--options: {error}; close it") from None
    given = parse(TrainArgs, words)[0]
    for option in fields(TrainArgs):
        if getattr(given, option.name) != option.default and option.name not in FOR_ALL_TRIALS | SPACE.keys():
            raise InputError(f"--options: the search has no use for {option_name(option.name)}; leave it out")
    if given.views == 0:
        raise InputError("--options: the search trains on cached features; leave --views 0 out")
    if not search_space(given, epochs=1):
        raise InputError("--options: gives every number, so that none is left to search; leave one out")
    shared = replace(given, data=args.data, cache=args.cache, results=args.results / FOLDER, seed=args.seed)
    shared.check()
    return shared


def main(args: Args) -> None:
    args.check()
    from optuna.exceptions import StorageInternalError

    folder = args.results / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "study.lock", timeout=0):
            search(args, folder)
    except Timeout:
        raise InputError(f"{folder}: another search works there; wait for its end, or give other --results") from None
    except StorageInternalError as error:  # a full disk, a file that another program locks
        raise InputError(f"{folder / STUDY}.sqlite: {first_line(error.__cause__ or error)}") from error


def search(args: Args, folder: Path) -> None:
    shared = train_args(args)
    run = prepare_run(shared, pick_device(shared.device), STUDY)
    space = search_space(shared, run.epochs)
    study = open_study(folder / f"{STUDY}.sqlite", settings_of(run, space))
    command = train_command(args)
    before = len(finished(study))
    say(f"trials: {before} of {args.trials} done")
    source = prepare_source(run, new_model(run, None)) if before < args.trials else None
    for number in range(before, args.trials):
        trial = ask(study, space, default_values(run, space) if number == 0 else None, args.seed)
        try_values(study, trial, run, source, first=number == 0)
        write_report(study, folder, command, run)
        say(progress_line(study, args.trials))
    print("\n" + write_report(study, folder, command, run))


def train_command(args: Args) -> list[str]:
    """The words of a command line that trains as the trials do, but for the numbers of a trial."""
    places = same_run(TrainArgs(data=args.data, cache=args.cache, results=args.results))
    return ["python", "train.py", *places, "--seed", str(args.seed), *shlex.split(args.options)]


def default_values(run: PreparedRun, space: dict[str, Range]) -> dict[str, float]:
    """The numbers of the recipe that train.py would take."""
    return {name: run.epochs if name == "epochs" else getattr(run.recipe, name) for name in space}


def new_model(run: PreparedRun, source: PreparedSource | None) -> ActionNet:
    """The network with the head that train.py starts from; for the source's projected channels, where it has some."""
    torch.manual_seed(run.args.seed)
    dropout = run.recipe.dropout, run.recipe.channel_dropout
    model = build_model(run.weights, len(run.data.classes), *dropout, run.args.unfreeze, run.image_size)
    model.to(run.device)
    if source is not None and source.basis is not None:
        project_head(model, source.basis)
    return model


def try_values(study: "Study", trial: "Trial", run: PreparedRun, source: PreparedSource, first: bool) -> None:
    """Trains a head with the trial's numbers, and stores how that went.

    Raises: InputError where the first trial, the default recipe, does not train.
    """
    from optuna import TrialPruned

    begin = time.perf_counter()
    recipe, epochs = replace(run.args, **parameters_of(trial)).resolve_recipe(len(run.split.train), run.in_memory)
    run = replace(run, recipe=recipe, epochs=epochs)
    model, shared = new_model(run, source), source.batches
    low_res_epochs, dtype = recipe.low_res_epochs(epochs), run.precision.head
    rows = shared.train_rows, shared.val_rows
    options = (recipe.batch_size, low_res_epochs, run.args.seed, dtype, recipe.balance == "sampling")
    batches = CachedSource(model, shared.stores, *rows, *options)
    state = initial_state(model, recipe, epochs, len(batches), run.device, dtype)
    pruned, note = False, ""
    try:
        on_epoch = compare_quarters(trial, state, epochs)
        fit(model, batches, recipe, epochs, run.args.seed, state, run.device, dtype, on_epoch)
    except TrialPruned:
        pruned = True
    except InputError as error:  # the loss is no longer finite
        if first:
            raise
        pruned, note = True, first_line(error)
    seconds = round(time.perf_counter() - begin, 2)
    about = {"epochs": epochs, "epochs_done": len(state.history), "seconds": seconds, "note": note}
    tell(study, trial, best_epoch(state.history), pruned, about)


def compare_quarters(trial: "Trial", state: TrainState, epochs: int) -> Callable[[bool], None]:
    """Ends the training of a trial that is worse than the median of the others after a quarter of its epochs.

    Quarters, since schedule and low-resolution epochs stretch with the number of epochs: the fourth epoch of 12 does
    not compare with the fourth of 4.

    Returns: a function for `training.loop.fit`.
    """
    from optuna import TrialPruned

    def on_epoch(_: bool) -> None:
        row = state.history[-1]
        quarter, last = (QUARTERS * (row["epoch"] - back) // epochs for back in (0, 1))
        if quarter > last:
            trial.report(row["calibrated"], quarter)
            if quarter < QUARTERS and trial.should_prune():
                raise TrialPruned

    return on_epoch


def progress_line(study: "Study", trials: int) -> str:
    done, best = finished(study), completed(study)[0]
    row = row_of(done[-1])
    what = f"calibrated loss {row['loss']:.4f}" if row["loss"] is not None else row["note"]
    epochs = f"{row['state']} after {row['epochs_done']} of {row['epochs']} epochs, {row['seconds']:.0f} s"
    return (
        f"{len(done)} of {trials} done: trial {row['number']} {epochs}; {what}; "
        f"best {best['loss']:.4f} (trial {best['number']})"
    )


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__, Args.check))
