"""Arguments of `train.py` and the checks that need nothing but them; imports no torch, so that --help is quick."""

import re
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from backbones.names import RESNET, STRIDE
from runtime.errors import InputError
from runtime.options import PrecisionName, RunOptions, group_pattern, option_name, require_range
from training.recipe import (
    FINETUNE_IMAGE_SIZE,
    FINETUNE_VAL_SHARE,
    IMAGE_SIZE,
    MANY_IMAGES,
    PLAIN_IMAGE_SIZE,
    VAL_SHARE,
    Recipe,
    RecipeOptions,
    default_epochs,
    make_recipe,
    option_values,
)

MAX_IMAGE_SIZE = 4096  # pixels; far more than any network gains from, and than memory holds
ALLOWED_WITH_RESUME = {"data", "cache", "results", "run", "resume", "device", "workers", "no_report"}
SHARED_WITH_HEAD = (
    "data", "cache", "results", "device", "workers", "weights", "image_size", "seed", "val_share", "ignore_duplicates",
    "group", "balance", "skip_bad", "precision", "no_report", "tensorboard", "wandb",
)  # fmt: skip
PLACES = {  # say nothing about a network
    "run", "data", "device", "cache", "results", "workers", "resume", "no_report", "tensorboard", "wandb",
}  # fmt: skip
RENAMED = {"stage_lr": "layer_decay", "coarse": "low_res", "ignore_copies": "ignore_duplicates"}  # in older runs


@dataclass
class Args(RecipeOptions, RunOptions):
    """Arguments of `train.py`; recipe numbers are None where they were not given."""

    data: Path | None = None
    """Folder of the dataset. Default: data/, or the built-in sample where data/ holds none."""
    run: str = ""
    """Name of the run, a folder in results/. Default: date and time; with --resume the newest run."""
    resume: bool = False
    """Continue an interrupted run with its own arguments."""
    recipe: Literal["default", "plain", "finetune"] = "default"
    """Default: the head alone, on cached feature maps. finetune: the whole network on fresh crops, for a GPU; starts
    from --head, or from a head that it trains first. plain: Adam at a fixed rate, batches of 32, fresh crops and flips
    and a backbone pass in every epoch."""
    weights: str = "auto"
    """ImageNet weights: auto, v1, v2 (torchvision), npm, pretrained (in this repository), a FILE, or random."""
    backbone: str = RESNET
    """Another frozen backbone: a name of timm (vit_base_patch16_clip_224.openai, …), or torchvision/NAME."""
    epochs: int | None = None
    """Passes over the training images. Default 8; 20 for fewer than 2,000 training images and with --recipe plain; 25
    with --recipe finetune."""
    seed: int = 0
    """Seed of the split, the head's initialisation, shuffling and augmentation."""
    val_share: float | None = None
    """Fraction of the images outside the test set that go to validation, where the dataset has no val/. Default 0.2;
    0.06 with --recipe finetune."""
    image_size: int | None = None
    """Side of the square input in pixels, a multiple of 32. Default 320; 256 with --recipe finetune; 224 with
    --recipe plain or --backbone."""
    unfreeze: Literal["none", "layer4", "layer3", "layer2", "layer1"] = "none"
    """Fine-tune ResNet's convolutions from this stage on; features before it are cached. With --recipe finetune: from
    layer1 on, on fresh crops."""
    head: str = ""
    """Start from the trained head of this run (same images, same seed) instead of a random one."""
    snapshots: bool = False
    """Keep what is trained after every epoch (the head: 21 MB), for `visualize_activations.py --training`."""
    ignore_duplicates: bool = field(default=False, metadata={"aliases": ["--ignore-copies"]})
    """Split as if no image had duplicates; predict5.py then reports the effect of the leakage."""
    group: str = ""
    """Keep images of one group (a person, a video) in one part of the split. The group is a column of the CSV, or what
    the brackets of a pattern enclose in image names, as "(clip_\\d+)_"."""
    balance: Literal["none", "sampling", "loss"] = "none"
    """Let all classes count alike in training: draw images of rare classes more often, or weight their losses."""
    skip_bad: bool = False
    """Leave unreadable images out instead of stopping."""
    precision: PrecisionName = "auto"
    """int8: of the backbone, on a CPU, calibrated on training images; auto takes it from 2,000 views on."""
    workers: int | None = None
    """Processes that decode images, threads beside a GPU. Default: none beside a CPU, all cores beside a GPU."""
    no_report: bool = False
    """Write no report.html."""
    tensorboard: bool = False
    """Also write events for TensorBoard into results/<run>/tensorboard/ (needs requirements-trackers.txt)."""
    wandb: bool = False
    """Also log to Weights & Biases (needs requirements-trackers.txt); WANDB_MODE=offline keeps it on this machine."""

    def check(self) -> None:
        """Raises InputError on values that are wrong for any dataset."""
        make_recipe(self.recipe, self, self.first_trained)
        for package in ("tensorboard", "wandb"):
            if getattr(self, package) and find_spec(package) is None:
                raise InputError(f"--{package} needs a package: pip install -r requirements-trackers.txt")
        if self.epochs is not None and self.epochs <= 0:
            raise InputError(f"--epochs {self.epochs}: must be above 0")
        require_range("epochs", self.epochs, 1)
        if self.backbone != RESNET and self.first_trained != "none":
            what = "--recipe finetune" if self.unfreeze == "none" else f"--unfreeze {self.unfreeze}"
            raise InputError(f"{what}: is for ResNet-50; leave it out, or --backbone")
        if self.recipe == "finetune" and self.views:
            raise InputError("--recipe finetune takes fresh crops: leave --views out, or --recipe")
        cached = self.recipe == "default" and self.views != 0
        if self.precision == "int8" and not cached:
            raise InputError("--precision int8 needs cached features: give --recipe default, --views 1 or more")
        group_pattern(self.group)
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise InputError(f"--val-share {self.val_share}: must be between 0 and 1")
        require_range("seed", self.seed, 0)
        require_range("workers", self.workers, 0)
        size = self.image_size
        if size is not None and (size % STRIDE or not 2 * STRIDE <= size <= MAX_IMAGE_SIZE):
            raise InputError(f"--image-size {size}: must be a multiple of {STRIDE}, {2 * STRIDE} to {MAX_IMAGE_SIZE}")
        if self.run == "pretrained":
            raise InputError("--run pretrained: is the name of the network in this repository; give another one")
        if not re.fullmatch(r"([\w-][\w.-]*)?", self.run):
            raise InputError(f"--run {self.run}: must be a name of letters, digits, '-', '_' and '.', not a path")

    @property
    def first_trained(self) -> str:
        """The stage from which on the backbone is fine-tuned; "none"."""
        return "layer1" if self.recipe == "finetune" and self.unfreeze == "none" else self.unfreeze

    def resolve(self) -> "Args":
        """With what stage, validation share and image size are where they were not given."""
        finetune = self.recipe == "finetune"
        small = self.recipe == "plain" or self.backbone != RESNET
        size = FINETUNE_IMAGE_SIZE if finetune else PLAIN_IMAGE_SIZE if small else IMAGE_SIZE
        share = FINETUNE_VAL_SHARE if finetune else VAL_SHARE
        return replace(
            self,
            unfreeze=self.first_trained,
            image_size=self.image_size or size,
            val_share=share if self.val_share is None else self.val_share,
        )

    def resolve_recipe(self, images: int, on_gpu: bool = False) -> tuple[Recipe, int]:
        """The recipe and the number of epochs for so many training images.

        Args:
            on_gpu: whether a GPU's memory holds all feature maps, where neither fewer channels nor fewer pixels save
                time.
        """
        # No projection for other backbones (unmeasured), nor where fitting it would take longer than it saves.
        projection = self.backbone == RESNET and images >= MANY_IMAGES and not on_gpu
        recipe = make_recipe(self.recipe, self, self.unfreeze, projection, low_res=not on_gpu)
        if images < MANY_IMAGES and self.patience is None:
            recipe = replace(recipe, patience=0)  # over few validation images, a minimum may be chance
        return replace(recipe, balance=self.balance), self.epochs or default_epochs(self.recipe, images)

    def stored(self, recipe: Recipe, epochs: int, precision: str) -> dict[str, Any]:
        """Plain values for the checkpoint: with what was resolved, whatever later defaults are."""
        values = vars(self) | option_values(recipe) | {"epochs": epochs, "precision": precision}
        return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def head_args(args: Args, run: str) -> Args:
    """Arguments that train the head from which the run `run` fine-tunes, as a run of its own named `<run>_head`."""
    args = args.resolve()
    shared = {name: getattr(args, name) for name in SHARED_WITH_HEAD}
    return Args(run=f"{run}_head", **shared)


def resumed_args(args: Args, run: str, stored: dict[str, Any]) -> Args:
    """Returns an interrupted run's own arguments; only places and devices may be given anew.

    Args:
        stored: its arguments as `Args.stored` wrote them, perhaps by an older version.

    Raises: InputError naming an option that --resume does not allow.
    """
    stored = {"channels": 0} | {RENAMED.get(name, name): value for name, value in stored.items()}
    values: dict[str, Any] = {"run": run}
    for option in fields(Args):
        given, own = getattr(args, option.name), stored.get(option.name, option.default)
        if option.name in ALLOWED_WITH_RESUME:
            moved = option.name not in ("data", "cache") or given != option.default or own is None
            values.setdefault(option.name, given if moved else Path(own))
            continue
        if given not in (option.default, own):
            raise InputError(f"--resume uses the run's own {option_name(option.name)}; leave it out")
        values[option.name] = own
    return Args(**values)
