"""How a network is trained: the numbers of the default recipe and of the plain one."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from runtime.errors import InputError

IMAGE_SIZE = 320  # pixels
TEXTBOOK_SIZE = 224  # which most ImageNet networks were made for
EPOCHS = 20
VIEWS_UNFROZEN = 4  # early maps are not mirrored: crops and mirror images are views of their own
OF_ALL = 0.2  # channel dropout where maps have all channels
FEW_EPOCHS, MANY_PICTURES = 8, 2000  # so many pictures make enough steps in fewer epochs


@dataclass(frozen=True)
class Recipe:
    """How the head is trained. The defaults are those of `train.py`."""

    views: int = 1  # cached views of each training picture (`features.view_transform`); 0: no cache
    channels: int = 512  # of cached maps, along leading directions (`directions.py`); 0: all
    batch_size: int = 128
    optimizer: str = "adamw"  # or "adam"
    lr: float = 1e-3
    stage_lr: float = 0.1  # of the rate of what follows it, for each unfrozen stage
    weight_decay: float = 0.05
    schedule: str = "cosine"  # or "constant"
    warmup: float = 1.0  # epochs
    label_smoothing: float = 0.1
    dropout: float = 0.5
    channel_dropout: float = 0.1
    mixup: float = 0.0  # alpha of the beta distribution; 0: off
    coarse: float = 0.5  # share of the epochs that see the maps averaged from 10x10 to 5x5, in less than half the time
    patience: int = 3  # full-size epochs without a smaller calibrated validation loss before training ends; 0: never

    def coarse_epochs(self, epochs: int) -> int:
        return round(self.coarse * epochs)


PLAIN = Recipe(
    views=0,
    channels=0,
    batch_size=32,
    optimizer="adam",
    weight_decay=0.0,
    schedule="constant",
    warmup=0.0,
    label_smoothing=0.0,
    dropout=0.0,
    channel_dropout=0.0,
    mixup=0.0,
    coarse=0.0,
    patience=0,
)


def make_recipe(plain: bool, given: dict[str, Any], unfreeze: str = "none") -> Recipe:
    """The default or the plain recipe, with what was given (None: not) in place of its numbers.

    Raises: InputError, in terms of `train.py`'s options, on a contradiction or a number out of range.
    """
    base = PLAIN if plain else Recipe()
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if plain and value != getattr(base, name):
            raise InputError(f"--recipe plain fixes {option(name)} at {getattr(base, name)}; leave {option(name)} out")
    if unfreeze == "none" and given.get("stage_lr", base.stage_lr) != base.stage_lr:
        raise InputError("--stage-lr is for unfrozen stages: leave it out, or give --unfreeze layer4")
    recipe = replace(base, **given)
    if recipe.views == 0 or unfreeze != "none":
        for name in ("coarse", "channels"):
            if given.get(name):
                raise InputError(
                    f"{option(name)} needs cached maps (--views 1 or more) and a frozen backbone: leave it out"
                )
        recipe = replace(recipe, coarse=0.0, channels=0)
    if unfreeze != "none" and "views" not in given and not plain:
        recipe = replace(recipe, views=VIEWS_UNFROZEN)
    if recipe.channels == 0 and not plain and "channel_dropout" not in given:
        recipe = replace(recipe, channel_dropout=OF_ALL)
    ranges = {"label_smoothing": (0, 1), "dropout": (0, 1), "channel_dropout": (0, 1), "coarse": (0, 1)}
    for name in given:
        low, high = ranges.get(name, (0, math.inf))
        if not low <= getattr(recipe, name) <= high:
            raise InputError(f"{option(name)} {getattr(recipe, name)}: must be {low} to {high}")
    for name in ("batch_size", "lr"):
        if getattr(recipe, name) <= 0:
            raise InputError(f"{option(name)} {getattr(recipe, name)}: must be above 0")
    return recipe


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def default_epochs(recipe: Recipe, pictures: int) -> int:
    """For so many training pictures."""
    return FEW_EPOCHS if recipe != PLAIN and pictures >= MANY_PICTURES else EPOCHS


def recipe_fields(options: object) -> list[str]:
    """The numbers of a recipe that `options` has too."""
    return [field.name for field in fields(Recipe) if hasattr(options, field.name)]
