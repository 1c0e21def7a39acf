"""What a search found: search.csv, search.json, search.md, and the best trial as a command line."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.search_study import finished, parameters_of
from runtime.files import write_csv, write_json, write_text
from runtime.options import option_name
from runtime.text import wrap
from runtime.version import commit
from training import checkpoint
from training.run import PreparedRun

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

SHOWN = 10  # trials in search.md
NOISE = 0.008  # of the calibrated loss, between two training seeds on the HAR photographs: docs/results.md
ABOUT = ("epochs", "epochs_done", "epoch", "seconds", "loss", "accuracy", "note")


def row_of(trial: "FrozenTrial") -> dict[str, Any]:
    """A trial as plain values: `epoch` is its best one, `loss` the calibrated validation loss there."""
    row = {"number": trial.number, "state": trial.state.name.lower(), "parameters": parameters_of(trial)}
    return row | {name: trial.user_attrs.get(name) for name in ABOUT}


def completed(study: "Study") -> list[dict[str, Any]]:
    """Complete trials, the best first."""
    rows = [row_of(trial) for trial in finished(study)]
    return sorted((row for row in rows if row["state"] == "complete"), key=lambda row: row["loss"])


def write_report(study: "Study", folder: Path, command: list[str], run: PreparedRun) -> str:
    """Writes the three files of a search whose first trial is complete.

    Args:
        command: words of a command line that trains as the trials do, but for their numbers.

    Returns: the best trial beside the default, for the console; its command is the last line.
    """
    rows = [row_of(trial) for trial in study.get_trials(deepcopy=False)]
    default, ranked = row_of(finished(study)[0]), completed(study)
    best = ranked[0]
    numbers = [word for name, value in best["parameters"].items() for word in (option_name(name), str(value))]
    train, note = shlex.join([*command, *numbers]), describe_gain(default, best, len(finished(study)))
    columns = ["number", "state", *best["parameters"], *(name for name in ABOUT if name not in best["parameters"])]
    cells = [
        {name: "" if value is None else value for name, value in (row | row["parameters"]).items()} for row in rows
    ]
    write_csv(folder / "search.csv", cells, columns)  # an absent number would make its column one of floats
    about = {
        "data": run.data.name, "weights": run.weights.name, "image_size": run.image_size, "seed": run.args.seed,
        "commit": commit(), "versions": checkpoint.versions(), "device": str(run.device),
    }  # fmt: skip
    found = {"note": note, "command": train, "gain": default["loss"] - best["loss"], "best": best, "default": default}
    write_json(folder / "search.json", about | found | {"trials": rows})
    write_text(folder / "search.md", f"{markdown_table(default, ranked)}\n{note}\n\n```bash\n{train}\n```\n")
    written = f"written: {folder}/: search.csv search.json search.md"
    return "\n".join([wrap(f"best: trial {best['number']}. {note}"), wrap(written), train])


def describe_gain(default: dict[str, Any], best: dict[str, Any], trials: int) -> str:
    gain = default["loss"] - best["loss"]
    text = f"Calibrated validation loss {best['loss']:.4f}, of the default recipe {default['loss']:.4f}"
    if best["number"] == default["number"]:
        return f"{text}: none of {trials} trials is better than the default."
    return (
        f"{text}: a gain of {gain:.4f}, {'less' if gain < NOISE else 'not less'} than the {NOISE} that lie between two "
        f"training seeds of the HAR photographs. The best of {trials} trials on one validation set looks better than "
        "it is: compare it with the default on another --seed."
    )


def markdown_table(default: dict[str, Any], ranked: list[dict[str, Any]]) -> str:
    """The default recipe, and below it the best other trials; epochs are the best one of those planned."""
    names = [name for name in default["parameters"] if name != "epochs"]
    head = ["trial", "loss", "accuracy", *(name.replace("_", " ") for name in names), "epoch", "s"]
    lines = [head, ["---"] * len(head)]
    others = [row for row in ranked if row["number"] != default["number"]]
    for row in [default, *others[:SHOWN]]:
        title = f"{row['number']}, default" if row["number"] == default["number"] else str(row["number"])
        values = [f"{row['parameters'][name]:g}" for name in names]
        epochs = f"{row['epoch']} of {row['epochs']}"
        lines.append([title, f"{row['loss']:.4f}", f"{row['accuracy']:.2%}", *values, epochs, f"{row['seconds']:.0f}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
