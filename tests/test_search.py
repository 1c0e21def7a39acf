"""The search over the recipe: what it finds, goes on after, refuses; and its command trains the same head."""

import json
import shlex
import shutil
import signal
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import NARROW, Script, read_csv, read_json
from filelock import FileLock
from processes import RunningScript

from benchmarks import search, search_study
from runtime.arguments import parse
from runtime.errors import InputError
from training.recipe import Recipe

optuna = pytest.importorskip("optuna")
OPTIONS = " ".join((*NARROW, "--epochs", "2"))
FAST = ("number", "state", "parameters", "epoch", "epochs_done", "loss", "accuracy")  # all that is not a time


@pytest.fixture(scope="module")
def found(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[search.Args, str]:
    """A search of three trials, and what it printed."""
    folder = tmp_path_factory.mktemp("search")
    args = search.Args(3, sample, options=OPTIONS, cache=folder / "cache", results=folder / "results")
    with redirect_stdout(StringIO()) as output:
        search.main(args)
    return args, output.getvalue()


@pytest.fixture
def copied(found: tuple[search.Args, str], tmp_path: Path) -> search.Args:
    """The same search in a folder of its own, to go on with."""
    shutil.copytree(found[0].results, tmp_path / "results")
    return search.Args(**vars(found[0]) | {"results": tmp_path / "results"})


def read(args: search.Args) -> dict:
    return read_json(args.results / "search/search.json")


def without_times(trials: list[dict]) -> list[dict]:
    return [{name: trial[name] for name in FAST} for trial in trials]


def test_first_trial_is_the_default_and_the_files_agree(found: tuple[search.Args, str]) -> None:
    args, output = found
    about = read(args)
    trials, default = about["trials"], about["default"]
    assert [trial["number"] for trial in trials] == [0, 1, 2]
    assert trials[0] == default
    searched = search_study.SPACE.keys() - {"epochs"}  # which OPTIONS give
    assert default["parameters"] == {name: getattr(Recipe(), name) for name in searched}
    assert about["best"] == min(trials, key=lambda trial: trial["loss"])
    assert about["gain"] == default["loss"] - about["best"]["loss"] >= 0
    for row, trial in zip(read_csv(args.results / "search/search.csv"), trials, strict=True):
        assert float(row["loss"]) == trial["loss"]
        assert float(row["lr"]) == trial["parameters"]["lr"]
        assert int(row["epochs_done"]) == 2
    lines = (args.results / "search/search.md").read_text().splitlines()
    assert lines[2].startswith(f"| 0, default | {default['loss']:.4f} | ")
    assert sum(line.startswith("| ") for line in lines) == 2 + len(trials)
    assert output.splitlines()[-1] == about["command"] in lines
    assert f"3 of 3 done: trial 2 complete after 2 of 2 epochs, {trials[2]['seconds']:.0f} s; " in output


def test_command_of_the_best_trial_trains_the_same_head(
    found: tuple[search.Args, str], script: Script, tmp_path: Path
) -> None:
    args, output = found
    python, name, *words = shlex.split(output.splitlines()[-1])
    assert (python, name) == ("python", "train.py")
    done = script(tmp_path, name, *words, "--run", "best", "--no-report")
    assert done.returncode == 0, done.stderr
    record, best = read_json(args.results / "best/best.json"), read(args)["best"]
    assert record["calibrated"] == pytest.approx(best["loss"], abs=1e-6)
    assert (record["epoch"], record["val"]["accuracy"]) == (best["epoch"], best["accuracy"])


def test_second_call_goes_on_after_ctrl_c(
    copied: search.Args, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = read(copied)["trials"]
    copied.trials = 4
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(search, "fit", interrupt)
        search.main(copied)
    search.main(copied)
    trials = read(copied)["trials"]
    assert trials[:3] == before
    assert [trial["state"] for trial in trials[3:]] == ["fail", "complete"]
    assert [row["epochs_done"] for row in read_csv(copied.results / "search/search.csv")] == ["2", "2", "2", "", "2"]
    copied.trials = 2
    search.main(copied)  # does nothing
    assert read(copied)["trials"] == trials
    assert "trials: 4 of 2 done" in capsys.readouterr().out


def test_killed_search_loses_only_the_trial_that_ran(found: tuple[search.Args, str], tmp_path: Path) -> None:
    """And goes on as one that was not killed."""
    args = search.Args(**vars(found[0]) | {"results": tmp_path / "results"})
    words = [word for name in ("data", "cache", "results") for word in (f"--{name}", getattr(args, name))]
    running = RunningScript(tmp_path, "benchmarks/search.py", *words, "--trials", 90, f"--options={OPTIONS}")
    while not (args.results / "search/search.json").exists():  # after the first trial
        assert running.process.is_alive(), running.finish().stderr
        time.sleep(0.02)
    time.sleep(0.1)
    running.process.kill()
    assert running.finish().returncode == -signal.SIGKILL
    search.main(args)
    trials = read(args)["trials"]
    kept = [trial for trial in trials if trial["state"] == "complete"]
    assert len(trials) - len(kept) <= 1
    for ours, whole in zip(without_times(kept), without_times(read(found[0])["trials"]), strict=True):
        assert ours | {"number": whole["number"]} == whole


def test_trial_left_running_counts_as_failed(tmp_path: Path) -> None:
    path, space = tmp_path / "study.sqlite", {"lr": search_study.SPACE["lr"]}
    study = search_study.open_study(path, {})
    search_study.ask(study, space, {"lr": 1e-3}, seed=0)
    study = search_study.open_study(path, {})
    assert [trial.state.name for trial in study.trials] == ["FAIL"]
    assert not search_study.finished(study)
    assert search_study.ask(study, space, {"lr": 1e-3}, seed=0).params == {"lr": 1e-3}  # the default again


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 1}, "other images, labels or another split"),
        ({"options": f"{OPTIONS} --patience 1"}, "another default recipe or other --options"),
        ({"options": f"{OPTIONS} --mixup 0"}, "another search space"),
    ],
)
def test_study_of_other_settings_is_refused(copied: search.Args, change: dict, what: str) -> None:
    with pytest.raises(
        InputError, match=rf"study.sqlite: is a search with {what}.*; delete it, or give other --result"
    ):
        search.main(search.Args(**vars(copied) | change))


def test_study_of_another_dataset_is_refused(copied: search.Args, kaggle: Path) -> None:
    with pytest.raises(InputError, match=r"is a search with other images, labels or another split \(--data\)"):
        search.main(search.Args(**vars(copied) | {"data": kaggle}))


def test_what_is_no_study_and_a_study_in_use_are_refused(copied: search.Args) -> None:
    folder = copied.results / "search"
    with FileLock(folder / "study.lock"), pytest.raises(InputError, match="another search works there; wait"):
        search.main(copied)
    (folder / "study.sqlite").write_text("not a database")
    with pytest.raises(InputError, match=r"study.sqlite: not a study of Optuna \(.*\); delete it$"):
        search.main(copied)


def test_training_that_diverges_is_a_pruned_trial_unless_it_is_the_default(
    copied: search.Args, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def diverge(*_: object) -> None:
        raise InputError("the training loss is no longer finite")

    monkeypatch.setattr(search, "fit", diverge)
    copied.trials = 4
    search.main(copied)
    assert read(copied)["trials"][3]["state"] == "pruned"
    assert "trial 3 pruned after 0 of 2 epochs, " in capsys.readouterr().out
    (copied.results / "search/study.sqlite").unlink()
    with pytest.raises(InputError, match="no longer finite"):
        search.main(copied)


def test_hopeless_trial_is_pruned_by_the_median_of_its_quarter(tmp_path: Path) -> None:
    """Also where the others had another number of epochs."""
    study = search_study.open_study(tmp_path / "study.sqlite", {})
    for _ in range(search_study.STARTUP):
        trial = study.ask()
        for quarter in range(1, 5):
            trial.report(1 / quarter, quarter)
        study.tell(trial, 0.25)
    reported = []
    for losses in ([1, 0.9, 0.5, 0.5, 0.3, 0.3, 0.2, 0.2], [1, 0.9, 0.6, 0.6], [9, 1.1]):
        state = SimpleNamespace(history=[])
        trial = study.ask()
        on_epoch = search.compare_quarters(trial, state, epochs=8)
        try:
            for epoch, loss in enumerate(losses, 1):
                state.history.append({"epoch": epoch, "calibrated": loss})
                on_epoch(False)
            reported.append(epoch)
        except optuna.TrialPruned:
            reported.append(-epoch)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    assert reported == [8, -4, -2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trials", "0"], "--trials 0: must be 1 or more"),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--options=--run x"], "--options: the search has no use for --run; leave it out"),
        (["--options=--unfreeze layer4"], "--options: the search has no use for --unfreeze; leave it out"),
        (["--options=--views 0"], "--options: the search trains on cached features; leave --views 0 out"),
        (["--options=--dropout 2"], "--dropout 2.0: must be 0 to 1"),
        (["--options=--magic"], "no option --magic"),
        (["--options='"], "--options: No closing quotation"),
        (
            [f"--options={' '.join(f'--{name} 1' for name in search_study.SPACE).replace('_', '-')}"],
            "--options: gives every number, so that none is left to search; leave one out",
        ),
    ],
)
def test_wrong_arguments_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(search.Args, words)[0].check()
    assert str(error.value).startswith(message)


def test_without_optuna_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package optuna: pip install -r requirements-benchmark.txt$"):
        search.Args().check()


@pytest.mark.parametrize("epochs", [8, 20])
def test_default_recipe_lies_in_the_space(epochs: int) -> None:
    space = search_study.search_space(search.train_args(search.Args()), epochs)
    defaults = json.loads(json.dumps(vars(Recipe()) | {"epochs": epochs}))
    for name, numbers in space.items():
        assert numbers.low <= defaults[name] <= numbers.high, name
        steps = (defaults[name] - numbers.low) / (numbers.step or 1)
        assert numbers.step == 0 or abs(steps - round(steps)) < 1e-6, name
