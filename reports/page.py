"""Fills a template: one HTML file with everything in it, which loads nothing and runs no script."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from runtime.files import write_text
from runtime.text import shorten

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "report.html"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Writes the page; values are escaped, since names of classes and files may hold markup."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {filter.__name__: filter for filter in (percent, points, p_value, shorten, breakable)}
    write_text(path, environment.get_template(template).render(values))


def embed(path: Path) -> str | None:
    """A PNG as data URI; None where there is none."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.exists() else None


def percent(share: float) -> str:
    """0.789 as 78.9%."""
    return f"{share:.1%}"


def breakable(name: str) -> Markup:
    """Allows line breaks after underscores."""
    return Markup("_<wbr>").join(name.split("_"))


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "−")


def p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
