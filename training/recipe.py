"""Numbers of the training recipes (default, plain, finetune), as options with their ranges and help."""

from dataclasses import Field, asdict, dataclass, field, fields, make_dataclass, replace
from typing import Any

from runtime.errors import InputError
from runtime.options import LARGEST, option_name

IMAGE_SIZE = 320  # pixels
PLAIN_IMAGE_SIZE = 224  # pixels; what most ImageNet networks were trained on
FINETUNE_IMAGE_SIZE = 256  # pixels
EPOCHS, FEW_EPOCHS, FINETUNE_EPOCHS = 20, 8, 25
VAL_SHARE = 0.2  # of the images outside the test set
FINETUNE_VAL_SHARE = 0.06  # the last epoch is as good as any, so that few images suffice to see how it goes
MANY_IMAGES = 2000  # training images from which FEW_EPOCHS make enough steps, and a PCA projection pays
FINE_TUNING_VIEWS = 4  # features before a stage are not mirrored: crops and mirror images are separate views
FULL_CHANNEL_DROPOUT = 0.2  # channel dropout without a PCA projection


def number(default: float, help: str, high: float = LARGEST, aliases: tuple[str, ...] = ()) -> Any:
    """A number of the recipe that is also an option; at least 0 and at most `high`."""
    return field(default=default, metadata={"help": help, "high": high, "aliases": aliases})


@dataclass(frozen=True)
class Recipe:
    """How the head is trained. The defaults are those of `train.py`."""

    views: int = number(
        1,
        "Cached augmentations (views) per training image: centre crop, random crop, full image, more random crops. "
        "0: no cache. With --unfreeze: 4.",
    )
    channels: int = number(
        512,
        "Channels of cached feature maps after PCA projection. 0: all, as for fewer than 2,000 training images and on "
        "a GPU that holds them.",
    )
    batch_size: int = number(128, "Images per step.")
    optimizer: str = "adamw"  # or "adam"
    lr: float = number(1e-3, "Peak learning rate.")
    layer_decay: float = number(
        0.1,
        "With --unfreeze: a stage's learning rate as a fraction of that of the part after it.",
        aliases=("--stage-lr",),
    )
    weight_decay: float = number(0.05, "Weight decay of AdamW.")
    schedule: str = "cosine"  # or "constant"
    warmup: float = number(1.0, "Epochs of linear warm-up before cosine decay.")
    label_smoothing: float = number(0.1, "Label smoothing.", high=1)
    dropout: float = number(0.5, "Dropout of the 256 pooled features.", high=1)
    channel_dropout: float = number(
        0.1, "Dropout of whole channels of the feature maps. With all 2,048 channels: 0.2.", high=1
    )
    mixup: float = number(0.0, "Alpha of mixup on the head's input (with --views 0: on images). 0: off.")
    low_res: float = number(
        0.5,
        "Fraction of the epochs, the first ones, that train on feature maps downsampled to half their side; on a GPU "
        "that holds all features 0.",
        high=1,
        aliases=("--coarse",),
    )
    patience: int = number(
        3,
        "Stop after this many full-resolution epochs without a smaller calibrated validation loss. 0: never, as with "
        f"fewer than {MANY_IMAGES:,} training images.",
    )

    balance: str = "none"  # or "sampling", "loss"
    min_crop: float = 0.08  # smallest area of fresh random crops, as a fraction of the image's

    def low_res_epochs(self, epochs: int) -> int:
        return round(self.low_res * epochs)


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
    low_res=0.0,
    patience=0,
)
FINETUNE = Recipe(  # measured on the HAR photographs: docs/results.md
    views=0,
    channels=0,
    lr=5e-4,
    layer_decay=0.7,
    channel_dropout=FULL_CHANNEL_DROPOUT,
    mixup=0.2,
    low_res=0.0,
    patience=0,
    min_crop=0.25,
)
RECIPES = {"default": Recipe(), "plain": PLAIN, "finetune": FINETUNE}


def as_option(number: Field) -> tuple[str, Any, Field]:
    """A number of the recipe as an optional field of `RecipeOptions`."""
    about = number.metadata
    help = f"{about['help']} Default {number.default:g}."
    metadata = {"help": help, "aliases": about["aliases"], "group": "training"}
    return number.name, number.type | None, field(default=None, metadata=metadata)


# One definition of the numbers: their options, None where not given, are derived from the recipe.
RecipeOptions = make_dataclass("RecipeOptions", [as_option(field) for field in fields(Recipe) if field.metadata])
OPTION_FIELDS = tuple(field.name for field in fields(RecipeOptions))


def make_recipe(
    name: str, options: RecipeOptions, unfreeze: str = "none", projection: bool = True, low_res: bool = True
) -> Recipe:
    """Returns the recipe of that name with the given options in place of its numbers.

    Args:
        projection: whether the default projects channels at all.
        low_res: whether the default begins with epochs at low resolution.

    Raises: InputError, in terms of the options, on a contradiction or a number out of range.
    """
    base, plain = RECIPES[name], name == "plain"
    given = {key: getattr(options, key) for key in OPTION_FIELDS if getattr(options, key) is not None}
    for key, value in given.items():
        if plain and value != getattr(base, key):
            option = option_name(key)
            raise InputError(f"--recipe plain fixes {option} at {getattr(base, key)}; leave {option} out")
    if unfreeze == "none" and given.get("layer_decay", base.layer_decay) != base.layer_decay:
        raise InputError("--layer-decay is for fine-tuned stages: leave it out, or give --unfreeze layer4")
    base = base if projection else replace(base, channels=0)
    recipe = replace(base if low_res else replace(base, low_res=0.0), **given)
    if recipe.views == 0 or unfreeze != "none":
        for key in ("low_res", "channels"):
            if given.get(key):
                option = option_name(key)
                raise InputError(
                    f"{option} needs cached features (--views 1 or more) and a frozen backbone: leave it out"
                )
        recipe = replace(recipe, low_res=0.0, channels=0)
    if unfreeze != "none" and "views" not in given and name == "default":
        recipe = replace(recipe, views=FINE_TUNING_VIEWS)
    if recipe.channels == 0 and not plain and "channel_dropout" not in given:
        recipe = replace(recipe, channel_dropout=FULL_CHANNEL_DROPOUT)
    check_ranges(recipe, given)
    return recipe


def check_ranges(recipe: Recipe, given: dict[str, Any]) -> None:
    high = {field.name: field.metadata["high"] for field in fields(Recipe) if field.metadata}
    for name, value in given.items():
        if not 0 <= value <= high[name]:
            raise InputError(f"{option_name(name)} {value}: must be 0 to {high[name]}")
    for name in ("batch_size", "lr"):
        if getattr(recipe, name) <= 0:
            raise InputError(f"{option_name(name)} {getattr(recipe, name)}: must be above 0")


def default_epochs(name: str, images: int) -> int:
    """Number of epochs of a recipe for so many training images."""
    if name == "finetune":
        return FINETUNE_EPOCHS
    return FEW_EPOCHS if name == "default" and images >= MANY_IMAGES else EPOCHS


def option_values(recipe: Recipe) -> dict[str, Any]:
    """The recipe's numbers by option field."""
    return {name: value for name, value in asdict(recipe).items() if name in OPTION_FIELDS}
