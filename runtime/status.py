"""What a script shows while it works: lines and progress, none of them with --quiet."""

import sys
import time
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
EVERY = 5  # seconds between lines of progress, later a tenth of the time so far
_quiet = False


def set_quiet(quiet: bool) -> bool:
    """Switches `say` and progress off or on; returns what was before."""
    global _quiet
    before, _quiet = _quiet, quiet
    return before


def say(text: str) -> None:
    """Prints what is neither a result nor a warning."""
    if not _quiet:
        print(text, flush=True)


def on_terminal() -> bool:
    """Whether stderr is a terminal, whose lines can be drawn anew; notebooks may replace it by an object of theirs."""
    return bool(getattr(sys.stderr, "isatty", bool)())


class Progress:
    """Progress of long work, on stderr: a bar on a terminal, elsewhere (log file, pipe, notebook) a line at times.

    Args:
        total: in the unit; "B" are bytes.
        leave: keep the bar at the end, or print a last line; else an epoch's row or the like tells that it is over.
    """

    def __init__(self, label: str, total: int, unit: str = "images", leave: bool = True) -> None:
        self.label, self.total, self.unit, self.leave = label, total, unit, leave
        self.done, self.begin, self.printed = 0, time.perf_counter(), 0.0
        self.bar = None
        if not _quiet and on_terminal():
            from tqdm import tqdm

            text = {"unit": unit, "unit_scale": True} if unit == "B" else {"unit": f" {unit}"}
            self.bar = tqdm(total=total, desc=label, leave=leave, dynamic_ncols=True, **text)

    def update(self, count: int = 1) -> None:
        self.done += count
        seconds = time.perf_counter() - self.begin
        if self.bar is not None:
            self.bar.update(count)
        elif not _quiet and self.done < self.total and seconds - self.printed >= max(EVERY, seconds / 10):
            self.printed = seconds
            left = clock((self.total - self.done) * seconds / self.done) if self.done else "?"
            share = f"{self.done / self.total:.0%}".replace("%", " %")
            self.line(f"{self.amount(self.done)} of {self.amount(self.total)} {self.noun} ({share})", f", {left} left")

    def close(self) -> None:
        """Ends work that is complete; tells of it where it took a second."""
        seconds = time.perf_counter() - self.begin
        if self.bar is not None:
            self.bar.close()
        elif self.leave and not _quiet and seconds >= 1:
            self.line(f"{self.amount(self.done)} {self.noun} in {clock(seconds)}")

    def line(self, text: str, end: str = "") -> None:
        rate = self.done / max(time.perf_counter() - self.begin, 1e-9)
        speed = f"{rate / 1e6:.1f} MB/s" if self.unit == "B" else f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s"
        print(f"{self.label}: {text}, {speed}{end}", file=sys.stderr, flush=True)

    def amount(self, count: int) -> str:
        return f"{count / 1e6:,.1f}" if self.unit == "B" else f"{count:,}"

    @property
    def noun(self) -> str:
        return "MB" if self.unit == "B" else self.unit

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self.bar is not None:
            self.bar.close()


def track(
    items: Iterable[Item], label: str, total: int | None = None, unit: str = "images", leave: bool = True
) -> Iterator[Item]:
    """Passes items on and shows how many are done.

    Args:
        total: their number, where `items` does not know its length.
    """
    count = len(items) if total is None and isinstance(items, Collection) else total or 0
    with Progress(label, count, unit, leave) as progress:
        for item in items:
            yield item
            progress.update()


def print_between(text: str) -> None:
    """Prints a result while a bar is drawn, above it."""
    if on_terminal():
        from tqdm import tqdm

        tqdm.write(text)
    else:
        print(text, flush=True)


def clock(seconds: float) -> str:
    """12.3 as 12 s, longer times as 1:05 or 1:01:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}" if minutes else f"{seconds} s"
