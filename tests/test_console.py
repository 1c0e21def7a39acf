"""What scripts print to a log, a terminal and a notebook; wrong options; Ctrl-C."""

import importlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPOSITORY, SMALL, Script, small
from test_architecture import SCRIPTS

import predict5
import train
from runtime import console, status
from runtime.arguments import make_parser, parse
from runtime.errors import InputError
from runtime.status import Progress, clock, track

WIDTH = 100
KILLS_ITSELF = """
import os, runpy, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
sys.argv = {words!r}
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that progress sees, in its only element."""
    now = [100.0]
    monkeypatch.setattr(status.time, "perf_counter", lambda: now[0])
    return now


def test_log_of_a_training_and_a_test_has_short_lines_and_no_carriage_returns(trained: Path) -> None:
    for name in ("train.py", "predict5.py"):
        output = (trained / f"{name}.out").read_bytes().decode()
        errors = (trained / f"{name}.err").read_bytes().decode()
        assert "\r" not in output + errors
        assert max(map(len, output.splitlines())) <= WIDTH
        assert "Traceback" not in errors


def test_log_has_a_line_of_progress_every_few_seconds(clocked: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("feature maps", 3000) as progress:
        for _ in range(30):
            clocked[0] += 0.4
            progress.update(100)
    assert capsys.readouterr().err.splitlines() == [
        "feature maps: 1,300 of 3,000 images (43 %), 250 images/s, 7 s left",
        "feature maps: 2,600 of 3,000 images (87 %), 250 images/s, 2 s left",
        "feature maps: 3,000 images in 12 s, 250 images/s",
    ]


def test_progress_of_hours_becomes_rarer_and_of_short_work_is_silent(
    clocked: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("epoch 1 of 2", 10_000, leave=False) as progress:
        for _ in range(10_000):
            clocked[0] += 1
            progress.update()
    lines = capsys.readouterr().err.splitlines()
    assert 20 < len(lines) < 100
    assert lines[0] == "epoch 1 of 2: 5 of 10,000 images (0 %), 1.0 images/s, 2:46:35 left"
    with Progress("check", 10) as progress:
        progress.update(10)
    with pytest.raises(ZeroDivisionError), Progress("check", 10):
        clocked[0] += 20
        _ = 1 / 0
    assert capsys.readouterr().err == ""
    with Progress("download", 200_000_000, "B") as progress:
        clocked[0] += 10
        progress.update(50_000_000)
    assert capsys.readouterr().err.splitlines()[0] == "download: 50.0 of 200.0 MB (25 %), 5.0 MB/s, 30 s left"


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1:00"), (65, "1:05"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(track([1, 2, 3], "draw")) == [1, 2, 3]
    assert re.search(r"\rdraw: 100%.* 3/3 .* images/s\]", terminal.getvalue())


def test_quiet_training_prints_its_results_alone(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = status.set_quiet(True)
    try:
        train.main(small(data=sample, run="q", epochs=1))
    finally:
        status.set_quiet(before)
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1] == "best epoch: 1"
    assert captured.out.splitlines()[-1].startswith("built-in sample, random weights (untrained, seed 0): validation")
    assert captured.err == ""


def test_quiet_prediction_prints_its_table_alone(trained: Path, script: Script) -> None:
    done = script(trained, "predict5.py", "data/sample/test/Image_1.jpg", "--quiet")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"data/sample/test/Image_1.jpg( +not sure:)?( +\w+ 0\.\d\d){3}", first)
    assert second.startswith("1 image, backbone in fp32; built-in sample")


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_version_and_wrong_options_are_one_line(name: str, script: Script, tmp_path: Path) -> None:
    done = script(tmp_path, f"{name}.py", "--version")
    assert done.returncode == 0
    assert re.fullmatch(r"see-actions \d+\.\d+\.\d+, commit ([0-9a-f]{12}\+?|unknown)\n", done.stdout)
    done = script(tmp_path, f"{name}.py", "--quite")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no option --quite; did you mean --quiet?\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch=3"], "no option --epoch; did you mean --epochs?"),
        (["--threshold", "3"], "no option --threshold; --help lists all"),
        (["--epochs", "x"], "--epochs: invalid int value: 'x'"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--recipe", "fast"], "--recipe: invalid choice: 'fast' (choose from 'default', 'plain', 'finetune')"),
        (["--no-cache"], "no option --no-cache; did you mean --cache?"),
        (["7"], "7: nothing takes this argument; leave it out"),
    ],
)
def test_wrong_options_are_named(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        parse(train.Args, words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", ""], "--data: is empty; give a path"),
        ([""], "IMAGE: is empty; give a path"),
        (["--threshold", "0.7"], "--threshold goes with images or --video; leave it out"),
        (["a.jpg", "--fps", "3"], "--fps goes with --video; leave it out"),
        (["a.jpg", "--no-report"], "--no-report goes with a test, images and videos have no report; leave it out"),
        (["--video", "a.mp4", "a.jpg"], "--video goes without images; leave one of them out"),
    ],
)
def test_what_would_be_ignored_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        predict5.check(parse(predict5.Args, words)[0])


def test_a_required_option_is_asked_for() -> None:
    @dataclass
    class Args:
        name: str

    with pytest.raises(InputError, match=r"^--name is missing; give it, or --help$"):
        parse(Args, [])


def test_options_may_stand_between_images() -> None:
    args, quiet = parse(predict5.Args, ["a.jpg", "--tta", "b.jpg", "-q", "--seed", "7"])
    assert args == predict5.Args(images=(Path("a.jpg"), Path("b.jpg")), tta=True, seed=7)
    assert quiet
    assert parse(predict5.Args, []) == (predict5.Args(), False)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_help_explains_every_option_with_its_default_once(name: str) -> None:
    parser = make_parser(importlib.import_module(name).Args)
    for action in parser._actions:
        assert len(action.help) > 10, action.dest
        assert action.help.lower().count("default") <= 2, action.help
    text = parser.format_help()
    assert "None" not in text
    assert text.index("\noptions:") < text.index("\nfiles:") < text.index("\nconsole:")


def test_help_of_training_begins_with_what_matters_most() -> None:
    text = make_parser(train.Args).format_help()
    groups = dict(re.findall(r"\n(\w+):\n(.*?)(?=\n\n|\Z)", text, flags=re.DOTALL))
    assert list(groups) == ["options", "data", "model", "training", "trackers", "hardware", "files", "console"]
    first = re.findall(r"^  --([a-z-]+)", groups["options"], flags=re.MULTILINE)
    assert first == ["run", "data", "resume", "recipe", "epochs", "image-size"]


def test_next_command_is_one_that_the_script_accepts(trained: Path) -> None:
    line = (trained / "train.py.out").read_text(encoding="utf-8").splitlines()[-1]
    _, path, *words = shlex.split(line.removeprefix("next: "))
    assert Path(path) == REPOSITORY / "predict5.py"
    assert parse(predict5.Args, words)[0] == predict5.Args(run="a")


def test_next_command_is_quoted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "train.py"])
    console.suggest("predict5.py", "--run", "my run", Path("it's.jpg"))
    line = capsys.readouterr().out
    assert shlex.split(line) == ["next:", ".venv/bin/python", "predict5.py", "--run", "my run", "it's.jpg"]


def test_arguments_are_parsed_in_a_thread_with_any_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook's kernel: there are no signal handlers to set, and stdout has no `reconfigure`."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "3"])
    monkeypatch.setenv("TQDM_DISABLE", "0")  # is set in the test, and undone
    found = []
    thread = threading.Thread(target=lambda: found.append(console.parse_arguments(train.Args, None)))
    thread.start()
    thread.join()
    assert found == [train.Args(epochs=3)]
    assert signal.getsignal(signal.SIGINT) is not console.stop_at_once


def test_bars_of_libraries_stay_out_of_a_log(tmp_path: Path) -> None:
    code = "from runtime.console import parse_arguments; from runtime.options import RunOptions; "
    code += "parse_arguments(RunOptions, None); from tqdm import tqdm; print(list(tqdm([1, 2])))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["numpy", "training.run", "figures.curves"])
def test_a_signal_during_imports_stops_without_a_traceback(
    kaggle: Path, tmp_path: Path, module: str, number: int
) -> None:
    """The last of these modules is imported at the end of the training."""
    words = [f"{REPOSITORY}/train.py", *SMALL, "--data", str(kaggle), "--epochs", "1"]
    code = KILLS_ITSELF.format(module=module, number=int(number), words=words)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 130
    last = done.stderr.splitlines()[-1]
    assert last.partition(":")[0] == ("stopped; go on with" if module == "figures.curves" else "stopped")
    assert "Traceback" not in done.stderr


def test_ctrl_c_stops_processes_that_decode(sample: Path, tmp_path: Path) -> None:
    command = [sys.executable, REPOSITORY / "train.py", *SMALL, "--recipe", "plain", "--workers", "2", "--data", sample]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not process.stdout.readline().startswith("epoch"):
            assert process.poll() is None
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("stopped")
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob(".*"))  # half-written files


def test_scripts_run_again_in_one_ipython(trained: Path, tmp_path: Path) -> None:
    run = f"%run {shlex.quote(str(REPOSITORY / 'predict5.py'))}"
    image = "data/sample/test/Image_1.jpg"
    cells = [
        f"{run} --help",
        f"{run} --chache x",
        f"{run} {image}",
        f"{run} {image}",
        "print(len(ARGS.images), 'left')",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", "--no-confirm-exit"],
        cwd=trained,
        input="\n".join(cells),
        capture_output=True,
        text=True,
        env=os.environ | {"IPYTHONDIR": str(tmp_path)},
    )
    output = done.stdout
    assert output.count("usage: predict5.py") == 1
    assert len(re.findall(rf"^.*{image}  \w", output, flags=re.MULTILINE)) == 2
    assert "1 left" in output
    assert "Traceback" not in output + done.stderr
    assert done.stderr.count("error: no option --chache; did you mean --cache?") == 1
