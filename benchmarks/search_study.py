"""The study of a search: the space, and Optuna's database, which outlives a killed process."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.errors import InputError, first_line
from training.options import Args as TrainArgs
from training.run import PreparedRun

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

SEARCH_VERSION = 1  # raise it when trials of before would not compare with new ones
STARTUP = 5  # trials before the sampler learns from them, and before any is pruned


@dataclass(frozen=True)
class Range:
    """Values of a number, both ends included; on a grid of `step` where that is above 0, logarithmic where `log`."""

    low: float
    high: float
    step: float = 0.0
    log: bool = False


SPACE = {  # the default recipe's values are in it
    "lr": Range(2e-4, 5e-3, log=True),
    "weight_decay": Range(5e-3, 0.5, log=True),
    "dropout": Range(0.0, 0.8, 0.05),
    "channel_dropout": Range(0.0, 0.5, 0.05),
    "label_smoothing": Range(0.0, 0.2, 0.02),
    "mixup": Range(0.0, 0.5, 0.05),
    "batch_size": Range(32, 256, 32),
    "epochs": Range(0.5, 1.5, 2),  # times the default number; even, so that half of them have low resolution
}
WHAT = {  # names of settings in messages
    "version": "this program's search space of before",
    "images": "other images, labels or another split (--data)",
    "weights": "other weights (--weights)",
    "seed": "another --seed",
    "recipe": "another default recipe or other --options",
    "space": "another search space (--options, or an older version)",
}


def search_space(given: TrainArgs, epochs: int) -> dict[str, Range]:
    """The numbers that are searched: those that were not given.

    Args:
        epochs: the default number of epochs.
    """
    space = {name: numbers for name, numbers in SPACE.items() if getattr(given, name) is None}
    if "epochs" in space:
        low, high = (round(factor * epochs) for factor in (SPACE["epochs"].low, SPACE["epochs"].high))
        space["epochs"] = replace(SPACE["epochs"], low=low, high=high)
    return space


def settings_of(run: PreparedRun, space: dict[str, Range]) -> dict[str, Any]:
    """What decides the loss of a trial besides its numbers; a study of other settings is not continued."""
    labels = {sample.name: sample.label for sample in [*run.split.train, *run.split.val]}
    images = [[part, digest, labels[name]] for part in ("train", "val") for name, digest in run.digests[part].items()]
    recipe = asdict(run.recipe) | {"epochs": run.epochs, "image_size": run.image_size, "device": run.device.type}
    return {
        "version": SEARCH_VERSION,
        "images": hashlib.sha256(json.dumps(images).encode()).hexdigest(),
        "weights": run.weights.sha256,
        "seed": run.args.seed,
        "recipe": recipe | {"precision": [run.precision.backbone, str(run.precision.head)]},
        "space": {name: asdict(numbers) for name, numbers in space.items()},
    }


def open_study(path: Path, settings: dict[str, Any]) -> "Study":
    """Opens or makes the study; trials that a killed process left running are failed ones.

    Raises: InputError where the file is damaged or holds a study of other settings.
    """
    import optuna
    from sqlalchemy.exc import DatabaseError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}",
            study_name="search",
            direction="minimize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP),
        )
        known = study.user_attrs.get("settings")
    except (DatabaseError, AssertionError, RuntimeError) as error:
        raise InputError(f"{path}: not a study of Optuna ({first_line(error)}); delete it") from error
    settings = json.loads(json.dumps(settings))  # lists for tuples, as they are stored
    if known is None:
        study.set_user_attr("settings", settings)
    elif known != settings:
        key = next(key for key in settings if known.get(key) != settings[key])
        raise InputError(f"{path}: is a search with {WHAT[key]}; delete it, or give other --results")
    for trial in study.get_trials(deepcopy=False):
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def finished(study: "Study") -> list["FrozenTrial"]:
    """Complete and pruned trials, in their order; the first one is the default recipe."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def parameters_of(trial: "Trial | FrozenTrial") -> dict[str, float]:
    """The numbers that a trial trains with: those of the sampler with three digits, which fit a command line."""
    return {name: value if isinstance(value, int) else float(f"{value:.3g}") for name, value in trial.params.items()}


def ask(study: "Study", space: dict[str, Range], values: dict[str, float] | None, seed: int) -> "Trial":
    """Begins a trial with the given values, else with those that the sampler chooses from the finished trials.

    The sampler's random numbers depend on nothing but the seed and how many trials are finished, so that a search
    that was interrupted goes on as if it had not been.
    """
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    state = np.random.SeedSequence((seed, len(finished(study)))).generate_state(1)
    study.sampler = TPESampler(n_startup_trials=STARTUP, seed=int(state[0]))
    if values and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(values)
    trial = study.ask()
    for name, numbers in space.items():
        step = numbers.step or None
        if name in ("batch_size", "epochs"):
            trial.suggest_int(name, int(numbers.low), int(numbers.high), step=int(numbers.step))
        else:
            trial.suggest_float(name, numbers.low, numbers.high, step=step, log=numbers.log)
    return trial


def tell(study: "Study", trial: "Trial", best: dict[str, Any] | None, pruned: bool, about: dict[str, Any]) -> None:
    """Ends a trial.

    Args:
        best: the row of its best epoch, None where it finished none.
        about: stored with it.
    """
    from optuna.trial import TrialState

    if best:
        about |= {"loss": best["calibrated"], "accuracy": best["val"]["accuracy"], "epoch": best["epoch"]}
    for name, value in about.items():
        trial.set_user_attr(name, value)
    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, best["calibrated"])
