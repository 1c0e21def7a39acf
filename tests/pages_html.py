"""Reads the HTML pages of reports, strictly: every element is closed, in its order."""

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "wbr"}


class Element:
    """An element with its attributes, its elements and its text."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag, self.attributes, self.inside, self.words = tag, attributes, [], []

    def all(self, tag: str = "", **attributes: str) -> list["Element"]:
        """The elements below, in their order, that have this tag and these attributes; `kind` is a class."""
        found = []
        for element in self.inside:
            kind = attributes.get("kind")
            same = all(element.attributes.get(key) == value for key, value in attributes.items() if key != "kind")
            if tag in ("", element.tag) and same and (not kind or kind in element.attributes.get("class", "").split()):
                found.append(element)
            found += element.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> "Element":
        return self.all(tag, **attributes)[0]

    @property
    def text(self) -> str:
        return "".join(word if isinstance(word, str) else word.text for word in self.words).strip()

    @property
    def numbers(self) -> list[float]:
        """Those that the page states, in full precision; what it shows of each must be the same number."""
        found = []
        for data in self.all("data"):
            value = float(data.attributes["value"])
            shown = data.text.replace("−", "-").replace(",", "")
            digits = len(shown.strip("%").partition(".")[2].partition("e")[0])
            if shown.endswith("%"):
                assert abs(float(shown[:-1]) - 100 * value) <= 0.5001 * 10**-digits, data.text
            elif not shown.startswith(("+", "-")):  # points
                assert abs(float(shown) - value) <= max(0.5001 * 10**-digits, 0.05 * value * ("e" in shown)), data.text
            found.append(value)
        return found


class Page(HTMLParser):
    """A page; `root` holds all of it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open == [self.root], f"{path}: {self.open[-1].tag} is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].inside.append(element)
        self.open[-1].words.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"line {self.getpos()[0]}: </{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].words.append(data)

    def check_self_contained(self) -> None:
        """Fails where the page would load something, runs a script or links to nothing."""
        names = [element.attributes["id"] for element in self.root.all() if "id" in element.attributes]
        assert len(names) == len(set(names))
        assert not self.root.all("script")
        assert not self.root.all("link")
        for element in self.root.all():
            assert not [key for key in element.attributes if key.startswith("on")], element.tag
            assert element.attributes.get("src", "data:").startswith("data:")
            if element.tag == "a":
                assert element.attributes["href"].removeprefix("#") in names
            if element.tag == "img":
                assert element.attributes["alt"]
        (style,) = self.root.all("style")
        assert re.findall(r"url\((?!data:image/)", style.text) == []
        assert "@import" not in style.text
        policy = self.root.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
