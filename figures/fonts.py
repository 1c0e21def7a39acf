"""Fonts for texts in any script: those installed that have the characters which Matplotlib's own font lacks."""

import functools
import sys
import warnings

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from runtime.text import printable

OWN = "DejaVu Sans"  # comes with Matplotlib
BOXES = "Last Resort"  # comes with Matplotlib, too, and has a box for every character
REGULAR = ("normal", "regular", "book", 400)
warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # once for each character, figure and pass
reported: set[str] = set()


def make_legible(figure: Figure) -> None:
    """Gives each text of a figure the fonts that its characters need.

    Characters that no installed font has are drawn as boxes; one line on stderr names them, once in a process.
    """
    for text in figure.findobj(Text):
        words = text.get_text()
        if words.isascii() and words.isprintable():
            continue
        text.set_text("\n".join(printable(line) for line in words.split("\n")))
        families = [family for family in map(family_of, sorted(set(text.get_text()) - {"\n"})) if family]
        if families:
            text.set_family([OWN, *dict.fromkeys(families)])
    absent = {letter for text in figure.findobj(Text) for letter in text.get_text() if family_of(letter) is None}
    if absent - reported:
        reported.update(absent)
        letters = " ".join(sorted(absent))
        print(f"note: no installed font has {letters}; figures show boxes. Install one, as Noto", file=sys.stderr)


@functools.cache
def family_of(letter: str) -> str | None:
    """The first installed font with a character; "" where Matplotlib's own has it, None where none has."""
    if letter.isascii() or ord(letter) in characters(font_manager.findfont(OWN)):
        return ""
    fonts = sorted(font_manager.fontManager.ttflist, key=lambda font: font.name)
    usable = (font for font in fonts if font.style == "normal" and font.weight in REGULAR and BOXES not in font.name)
    return next((font.name for font in usable if ord(letter) in characters(font.fname)), None)


@functools.cache
def characters(file: str) -> frozenset[int]:
    """Code points of a font; none where Matplotlib cannot draw it, as fonts of coloured bitmaps."""
    try:
        return frozenset(font_manager.get_font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
