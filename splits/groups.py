"""Groups of images that a split keeps together: those of one person or one video, by a column or by their names."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dataset import ActionData
from layouts.csv_lists import NAME_COLUMNS, ImageFinder
from layouts.parts import find_parts
from runtime.errors import InputError
from runtime.options import group_pattern


def group_names(data: ActionData, option: str) -> dict[str, str]:
    """The group of each labelled image that has one, by the image's name.

    Args:
        option: a column of the dataset's CSV lists, or a pattern for image names (see `group_pattern`).

    Raises: InputError where the column is missing, or no two images share a group.
    """
    pattern = None if option.lower() in column_names(data) else group_pattern(option)
    names = [sample.name for sample in data.labelled]
    if pattern:
        matches = {name: match for name in names if (match := pattern.search(name))}
        values = {name: " ".join(match.groups("")) for name, match in matches.items()}
    else:
        values = column_values(data, option)
    groups = {name: values[name] for name in names if values.get(name)}
    if max(Counter(groups.values()).values(), default=0) < 2:
        raise InputError(
            f"--group {option}: no two images share a group ({len(groups)} of {len(names)} have one; the first image "
            f"is {names[0]}); give another column or pattern"
        )
    return groups


def column_names(data: ActionData) -> list[str]:
    """Columns of the CSV list of the training images, in lower case; none where class folders list them."""
    from runtime.tables import read_table  # imports pandas

    place = find_parts(data.root).get("train")
    return [name.lower() for name in read_table(place.csv).columns] if place and place.csv else []


def column_values(data: ActionData, column: str) -> dict[str, str]:
    """The values of a column of the dataset's CSV lists, by the images' names."""
    from runtime.tables import find_column, read_table  # imports pandas

    values: dict[str, str] = {}
    if not column_names(data):
        raise InputError(
            f'--group {column}: {data.root} has no CSV with columns; give a pattern for image names, as "(clip_\\d+)_"'
        )
    for part, place in find_parts(data.root).items():
        if place.csv:
            table = read_table(place.csv)
            found = find_column(table, place.csv, [column.lower()], required=part == "train")
            finder = ImageFinder(place.folder or data.root / part)
            for name, value in zip(find_column(table, place.csv, NAME_COLUMNS), found, strict=True):
                values[finder.find(name)] = value
    return values


def join_groups(numbers: Sequence[int], names: Sequence[str | None]) -> np.ndarray:
    """Group numbers (N,) of images that share a number or, where they have one, a name, directly or by a chain."""
    from scipy.sparse import coo_array  # takes half a second
    from scipy.sparse.csgraph import connected_components

    own = {name: index for index, name in enumerate(sorted({name for name in names if name is not None}))}
    numbers = np.asarray(numbers)
    offset = int(numbers.max(initial=-1)) + 1
    edges = [(n, offset + own[name]) for n, name in zip(numbers, names, strict=True) if name is not None]
    nodes = offset + len(own)
    graph = coo_array(
        (np.ones(len(edges), dtype=bool), np.array(edges, dtype=int).reshape(-1, 2).T), shape=(nodes, nodes)
    )
    return connected_components(graph, directed=False)[1][numbers]
