"""Measures the web page of explore.py in a real browser: first answer, clicks, changes, and the server's memory.

    python -m benchmarks.page data/examples/drinking.jpg

Needs Chromium. Prints milliseconds from the drop, click or change until it is drawn, as median and maximum.
"""

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from runtime.console import parse_arguments, run_script
from runtime.errors import InputError

COLUMN = "base_model.layer3"


@dataclass
class Args:
    image: Path = field(metadata={"positional": "IMAGE"})
    """A photograph."""
    run: str = "pretrained"
    """Name of the run."""
    requests: int = 50
    """Photographs that are dropped; with each a channel is clicked and switched off."""
    browser: Path = Path("/usr/bin/chromium")
    """Chromium's program."""


def main(args: Args) -> None:
    for path in (args.image, args.browser):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    command = [sys.executable, "explore.py", "--port", "0", "--run", args.run]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = next((found[0] for line in server.stdout if (found := re.search(r"http://\S+", line))), None)
            if address is None:
                raise InputError("explore.py did not start; see its message above")
            print(json.dumps(measure(args, address, server.pid), indent=1))
        finally:
            server.terminate()


def measure(args: Args, address: str, server: int) -> dict[str, Any]:
    """Drops, clicks and switches off again and again."""
    from playwright.sync_api import sync_playwright

    memory = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(args.browser), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address)
        page.locator("#run:not(:empty)").wait_for()
        for number in range(1, args.requests + 1):
            page.set_input_files("#file", args.image)
            wait_for(page, "answer A", number)
            page.locator("#line-scale", has_text="layer1").wait_for()  # lines, the last of which come into layer1
            page.locator(f".column[data-column='{COLUMN}'] .tile").nth(number % 8).click()
            wait_for(page, "click", number)
            page.locator("#added button").first.wait_for()  # what it adds to logits, which comes a moment later
            page.click("#switch")
            wait_for(page, "change", number)
            if number in (1, 20, args.requests // 2, args.requests):
                memory[number] = resident_megabytes(server)
        times = page.evaluate("performance.getEntriesByType('measure').map(({name, duration}) => [name, duration])")
        browser.close()
    names = {name: [duration for other, duration in times if other == name] for name in ("answer A", "click", "change")}
    return {name: {"median": round(median(all)), "most": round(max(all))} for name, all in names.items()} | {
        "server, MB after so many photographs": memory
    }


def wait_for(page: Any, name: str, count: int) -> None:
    """Waits until the page has measured `name` so many times. Raises: InputError with what the page says instead."""
    while page.evaluate("name => performance.getEntriesByName(name).length", name) < count:
        if page.locator("#error").is_visible():
            raise InputError(page.locator("#error").inner_text())
        time.sleep(0.02)


def resident_megabytes(process: int) -> int:
    text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) // 1024


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
