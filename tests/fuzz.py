"""Gives every script bad inputs, drawn at random: each must end with a result or with one line that says what is wrong.

    python -m tests.fuzz --inputs 300

Each input meets a script in a process of its own. Counts tracebacks, exit codes other than 0 and 2, messages that do
not begin with "error: ", hangs, memory above the limit and files written to unusual places; prints a table by script
and kind of input, and writes results/fuzz.json. Exits with 1 where anything was found.

No input names a place outside its own temporary folder but to read from it: a script that wrote there, as root, could
replace a device.
"""

import os
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from runtime.console import parse_arguments, run_script
from runtime.files import write_json
from runtime.version import commit
from tests.fuzz_files import blob, class_folders
from tests.fuzz_runs import KINDS, SCRIPTS, make_case
from tests.processes import CONTEXT, become_script

WRITTEN = ("results/", "activations/", "data/cache/", "data/sample/")  # where scripts write
POLL = 0.05  # seconds between looks at a process
OPTIONS = ("--weights", "random", "--image-size", "64", "--precision", "fp32", "--epochs", "2", "--snapshots")


@dataclass
class Args:
    inputs: int = 300
    """Number of bad inputs, spread over scripts and kinds."""
    seed: int = 0
    """Chooses the inputs."""
    only: str = ""
    """One script, one kind, or one input by its name, as "train.dataset.17", which is shown."""
    seconds: float = 60
    """Time that an input may take."""
    memory: float = 3
    """Memory that a script and its processes may take, in GB; at this it is ended."""
    jobs: int = 2
    """Inputs at a time."""
    json: Path = Path("results/fuzz.json")
    """File to write."""


def main(args: Args) -> None:
    arguments = {script: import_module(script).Args for script in SCRIPTS}
    names = [name for name in case_names(args) if not args.only or f".{args.only}." in f".{name}."]
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(args.jobs) as pool:
        base = Path(scratch) / "base"
        make_base(base)
        cases = list(pool.map(lambda name: try_input(base, name, args, arguments), names))
    print_table(cases)
    write_json(args.json, {"commit": commit(), "seed": args.seed, "table": summarise(cases), "inputs": cases})
    bad = [case for case in cases if case["faults"]]
    print(f"{len(cases)} bad inputs, {len(bad)} faults; written: {args.json}")
    sys.exit(bool(bad))


def case_names(args: Args) -> Iterator[str]:
    """`script.kind.number`, spread evenly over the pairs of script and kind."""
    pairs = [(script, kind) for kind, (_, scripts) in KINDS.items() for script in scripts]
    for number in range(args.inputs):
        script, kind = pairs[number % len(pairs)]
        yield f"{script}.{kind}.{args.seed + number // len(pairs)}"


def make_base(folder: Path) -> None:
    """A folder with a small dataset, an image and two trained and tested runs."""
    class_folders(folder / "set", ["run", "sit"], 12)
    blob(99).save(folder / "good.png")
    for script, *words in (("train", "--data", "set", *OPTIONS, "--run", "a"), ("predict5", "--run", "a")):
        done = watch(folder, script, words, 300, 8e9)
        if done["code"]:
            sys.exit(f"{script}.py failed without a bad input: {done['stderr']}")
    shutil.copytree(folder / "results/a", folder / "results/b", copy_function=os.link)


def try_input(base: Path, name: str, args: Args, arguments: dict[str, type]) -> dict[str, Any]:
    """Runs a script on one bad input; returns what was found."""
    script, kind, seed = name.split(".")
    folder = base.parent / name
    words = make_case(base, folder, script, kind, int(seed), arguments)
    before = files_in(folder)
    found = watch(folder, script, words, args.seconds, args.memory * 1e9)
    told = tuple(word for word in words if word)  # as --cache set
    strange = sorted(
        path for path in files_in(folder) - before if not path.startswith((*WRITTEN, *told)) and "." not in told
    )
    faults = find_faults(found) + [f"wrote {path}" for path in strange]
    case = {"name": name, "arguments": words, "faults": faults, **found}
    if faults or args.only == name:
        print(f"{name}: {' '.join(map(ascii, words))}\n  {faults}\n  {found['stderr'][-1500:]}", flush=True)
    if args.only != name:
        shutil.rmtree(folder)
    return case


def files_in(folder: Path) -> set[str]:
    """Files and links in a folder and below, without what links lead to."""
    return {f"{place}/{name}"[len(str(folder)) + 1 :] for place, _, names in os.walk(folder) for name in names}


def find_faults(found: dict[str, Any]) -> list[str]:
    code, text = found["code"], found["stderr"]
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    checks = {
        "traceback": "Traceback (most recent" in text,
        "hang": found["ended"] == "hang",
        "memory": found["ended"] == "memory",
        f"exit code {code}": code not in (0, 2) and not found["ended"],
        "no message": code == 2 and len(errors) != 1,
    }
    return [name for name, is_so in checks.items() if is_so]


def watch(folder: Path, script: str, words: list[str], seconds: float, memory: float) -> dict[str, Any]:
    """Runs a script in `folder`; ends it where it takes more seconds or bytes than allowed.

    Returns: `code`, `stderr`, `seconds`, `gigabytes` (at its peak, of it and its processes), `ended` ("hang", "memory"
        or "").
    """
    output = folder.with_name(f"{folder.name}.out")
    output.mkdir()
    environment = dict(os.environ, TMPDIR=str(output), OMP_NUM_THREADS="1", MPLCONFIGDIR=str(folder.parent / "mpl"))
    command = [f"{Path(__file__).parents[1] / script}.py", *words]
    process = CONTEXT.Process(target=own_group, args=(command, folder, environment, str(output)))
    begin, peak, ended = time.monotonic(), 0, ""
    process.start()
    while process.is_alive() and not ended:
        process.join(POLL)
        peak = max(peak, sum(map(resident, group_of(process.pid))))
        ended = "hang" if time.monotonic() - begin > seconds else "memory" if peak > memory else ""
    if ended:
        for pid in group_of(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.join()
    stderr = (output / "stderr").read_text(encoding="utf-8", errors="replace") if (output / "stderr").exists() else ""
    shutil.rmtree(output)
    spent = round(time.monotonic() - begin, 1)
    figures = {"seconds": spent, "gigabytes": round(peak / 1e9, 2)}
    return {"code": process.exitcode, "ended": ended, **figures, "stderr": stderr}


def own_group(*where: Any) -> None:
    """As `become_script`, in a process group of its own."""
    os.setpgid(0, 0)
    become_script(*where)


def group_of(leader: int) -> list[int]:
    """The processes of a group."""
    found = []
    for entry in os.scandir("/proc"):
        with suppress(OSError, ValueError):
            if os.getpgid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process alone holds, without those of files."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE")
    return 0


def summarise(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each script and kind of input."""
    groups = defaultdict(list)
    for case in cases:
        groups[tuple(case["name"].split(".")[:2])].append(case)
    return [
        {
            "script": script, "kind": kind, "inputs": len(group), "refused": sum(case["code"] == 2 for case in group),
            "tracebacks": sum("traceback" in case["faults"] for case in group),
            "hangs": sum("hang" in case["faults"] for case in group),
            "other_faults": sum(bool({*case["faults"]} - {"traceback", "hang"}) for case in group),
            "seconds": max(case["seconds"] for case in group), "gigabytes": max(case["gigabytes"] for case in group),
        }
        for (script, kind), group in sorted(groups.items(), key=lambda item: SCRIPTS.index(item[0][0]))
    ]  # fmt: skip


def print_table(cases: list[dict[str, Any]]) -> None:
    print(f"{'script':25s} {'kind':8s} inputs refused tracebacks hangs others  most s  most GB")
    for row in summarise(cases):
        counts = (
            f"{row['inputs']:6d} {row['refused']:7d} {row['tracebacks']:10d} {row['hangs']:5d} {row['other_faults']:6d}"
        )
        print(f"{row['script']:25s} {row['kind']:8s} {counts} {row['seconds']:7.1f} {row['gigabytes']:8.2f}")


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
