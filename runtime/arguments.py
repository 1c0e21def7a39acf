"""Turns a flat dataclass into command-line options: field names, types and defaults, with docstrings as help.

The docstring below a field, or `help` in its metadata, is the option's help; metadata may also hold `aliases` and
`group`. Positional arguments have `positional` there, the name that help shows.
"""

import argparse
import ast
import difflib
import inspect
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from runtime.errors import InputError
from runtime.options import GROUPS, option_name
from runtime.version import VERSION, commit

METAVARS = {int: "N", float: "X", Path: "PATH", str: "NAME"}
WIDTH = 100  # of help, at most


class Formatter(argparse.HelpFormatter):
    """Fits everything into the terminal but indented lines of the description, which stay as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(WIDTH, shutil.get_terminal_size().columns))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = text.strip().split("\n\n")
        return "\n\n".join(
            part if part[0] == " " else super(Formatter, self)._fill_text(part, width, indent) for part in parts
        )


class Parser(argparse.ArgumentParser):
    """Raises InputError instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message.removeprefix("argument "))


class Version(argparse.Action):
    """Prints version and commit and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"see-actions {VERSION}, commit {commit() or 'unknown'}")
        parser.exit()


def parse(arguments: type, words: Sequence[str] | None = None, description: str | None = None) -> tuple[Any, bool]:
    """Returns the dataclass filled from the command line, and whether --quiet was given.

    Args:
        words: instead of those of the command line. Those after "--" are files, even if they begin with a minus.

    Raises: InputError on an unknown option, naming a similar one, and on wrong values; SystemExit for --help.
    """
    parser = make_parser(arguments, description)
    words = list(sys.argv[1:] if words is None else words)
    if "--" in words:
        end = words.index("--")
        files = [f"./{word}" if word.startswith("-") else word for word in words[end + 1 :]]
        words = files + words[:end]  # in front, where they are no values of the last option
    values, unknown = parser.parse_known_intermixed_args(words)
    for word in sorted(unknown, key=lambda word: not word.startswith("-")):  # an option's value may be unknown too
        name = word.partition("=")[0]
        if not name.startswith("-"):
            raise InputError(f"{word or 'an empty text'}: nothing takes this argument; leave it out")
        names = [option.lstrip("-") for option in parser._option_string_actions]
        near = difflib.get_close_matches(name.lstrip("-"), names, n=1)
        raise InputError(f"no option {name}; " + (f"did you mean --{near[0]}?" if near else "--help lists all"))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in vars(values).items()}
    missing = [option_name(name) for name, value in given.items() if value is MISSING]
    if missing:
        raise InputError(f"{missing[0]} is missing; give it, or --help")
    quiet = given.pop("quiet")
    return arguments(**given), quiet


def make_parser(arguments: type, description: str | None = None) -> Parser:
    positional = ""
    for field in fields(arguments):
        if "positional" in field.metadata:
            several = " …" * (field.default == ())
            positional = f"[{field.metadata['positional']}{several}]"
    parser = Parser(
        usage=f"%(prog)s [OPTIONS] {positional}".strip(),
        description=description,
        formatter_class=Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    groups = {title: parser.add_argument_group(title) for title in ("options", *GROUPS, "console")}
    types, docs = get_type_hints(arguments), field_docstrings(arguments)
    for field in fields(arguments):
        group = groups[field.metadata.get("group") or group_of.get(field.name, "options")]
        add_option(group, field, types[field.name], field.metadata.get("help") or docs.get(field.name, ""))
    console = groups["console"]
    console.add_argument("-h", "--help", action="help", help="Show this help.")
    console.add_argument(
        "--version", action=Version, nargs=0, default=argparse.SUPPRESS, help="Show version and commit."
    )
    console.add_argument("-q", "--quiet", action="store_true", help="Print results, warnings and errors only.")
    return parser


def add_option(group: Any, field: Field, annotation: Any, help: str) -> None:
    default, about = field.default, field.metadata
    told = "Default" in help or default in ("", ()) or any(default is nothing for nothing in (MISSING, None, False))
    if not told:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        help = f"{help} Default {shown}."
    help += " Required." * (default is MISSING)
    options = kind(annotation) | {"default": default, "help": help.strip().replace("%", "%%")}
    if "positional" in about:
        group.add_argument(field.name, **{"nargs": "?"} | options | {"metavar": about["positional"]})
        return
    group.add_argument(option_name(field.name), *about.get("aliases", ()), dest=field.name, **options)


def kind(annotation: Any) -> dict[str, Any]:
    """What `add_argument` needs to know about a type; None in a union means that the option may be left out."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"choices": inner}
    if origin is tuple:
        return kind(inner[0]) | {"nargs": "*" if Ellipsis in inner else len(inner)}
    if NoneType in inner:
        return kind(next(part for part in inner if part is not NoneType))
    if annotation is bool:
        return {"action": "store_true"}
    return {"type": some_path if annotation is Path else annotation, "metavar": METAVARS[annotation]}


def some_path(text: str) -> Path:
    """A path; of an empty text, as of a shell variable that is not set, `Path` would make the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a path")
    return Path(text)


def field_docstrings(arguments: type) -> dict[str, str]:
    """The strings below the fields of a dataclass and of its bases, by field; a subclass overrides."""
    docs = {}
    for base in reversed(arguments.__mro__):
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # builtins, and classes made by a function
            continue
        for field, below in pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                docs[field.target.id] = " ".join(below.value.value.split())
    return docs
