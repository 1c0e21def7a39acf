"""What a person and a slow network do to the page of explore.py."""

from pathlib import Path

from playwright.sync_api import Page


def drop(page: Page, path: Path, event: str = "new DragEvent('drop', {dataTransfer: files})") -> None:
    """Drops a file onto the page, as a hand does."""
    files = page.evaluate_handle(
        """([bytes, name]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], name));
            return files;
        }""",
        [list(path.read_bytes()), path.name],
    )
    files.evaluate(f"files => document.dispatchEvent({event})")


def delay(page: Page, part: str, milliseconds: int) -> None:
    """Holds the answers to requests whose address contains `part`."""
    page.evaluate(
        """([part, milliseconds]) => {
            const real = window.fetch;
            const held = (answer) => new Promise((done) => setTimeout(() => done(answer), milliseconds));
            window.fetch = (path, options) => real(path, options).then(path.includes(part) ? held : undefined);
        }""",
        [part, milliseconds],
    )


def saved(page: Page, kind: str) -> bytes:
    """What the page saves as "png", "json" or "report"."""
    with page.expect_download() as download:
        page.click(f"[data-save={kind}]")
    return Path(download.value.path()).read_bytes()
