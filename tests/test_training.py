"""The training loop: schedule, mixup, stopping, and that it learns."""

import io
import json
import math
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import train
from backbones.imagenet_weights import BackboneWeights
from dataset import read_dataset
from model import build_model
from runtime.arguments import parse
from runtime.errors import InputError
from runtime.files import write_csv
from runtime.options import option_name
from training.feeds import Batches
from training.loop import best_epoch, fit, initial_state, mixup, warmup_cosine
from training.options import Args
from training.recipe import OPTION_FIELDS, PLAIN, Recipe

CPU, FP32 = torch.device("cpu"), torch.float32


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def trained_parameters(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]


class ToySource:
    """Points whose class is the sign of their first coordinate; validation labels may be flipped round."""

    val_images = 64

    def __init__(self, model: Toy, flipped: bool = False) -> None:
        rng = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(64, 4, 1, 1, generator=rng)
        self.targets = (self.inputs[:, 0, 0, 0] > 0).long()
        self.model, self.flipped = model, flipped

    def __len__(self) -> int:
        return 64

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model.fc(inputs.flatten(1))

    def train(self, epoch: int) -> Batches:
        return zip(self.inputs.split(16), self.targets.split(16), strict=True)

    def val(self) -> Batches:
        return [(self.inputs, 1 - self.targets if self.flipped else self.targets)]


def run(recipe: Recipe, epochs: int, flipped: bool = False) -> tuple[list[dict], list[bool]]:
    torch.manual_seed(0)
    model = Toy()
    state = initial_state(model, recipe, epochs, 64, CPU, FP32)
    flags: list[bool] = []
    fit(model, ToySource(model, flipped), recipe, epochs, 0, state, CPU, FP32, flags.append)
    return state.history, flags


def test_training_learns_and_marks_the_best_epoch() -> None:
    history, flags = run(Recipe(batch_size=16, lr=0.1, mixup=0.0, label_smoothing=0.0), epochs=15)
    assert len(history) == len(flags) == 15
    assert history[-1]["val"]["accuracy"] > 0.95
    assert history[0]["lr"] < max(row["lr"] for row in history) == pytest.approx(0.1, rel=0.05)
    losses = [row["calibrated"] for row in history]
    assert losses[-1] < history[-1]["val"]["loss"]  # it is right, but not sure enough
    assert flags == [loss < min(losses[:n], default=math.inf) for n, loss in enumerate(losses)]
    assert best_epoch(history)["epoch"] == losses.index(min(losses)) + 1


def test_best_epoch_has_the_smallest_loss_after_temperature_scaling() -> None:
    """Label smoothing makes the network less sure in the end, though it is right: the raw loss rises before."""
    history, flags = run(Recipe(batch_size=16, lr=0.3, label_smoothing=0.3, schedule="constant", patience=0), epochs=12)
    raw = [row["val"]["loss"] for row in history]
    calibrated = [row["calibrated"] for row in history]
    assert all(after <= before for after, before in zip(calibrated, raw, strict=True))
    assert raw.index(min(raw)) != calibrated.index(min(calibrated))
    assert best_epoch(history)["epoch"] == calibrated.index(min(calibrated)) + 1
    assert flags == [loss < min(calibrated[:n], default=math.inf) for n, loss in enumerate(calibrated)]


class NineRight(ToySource):
    """Nine validation images, all predicted right, with a given raw loss after each epoch."""

    def __init__(self, model: Toy, losses: list[float]) -> None:
        super().__init__(model)
        self.margins = iter(-math.log(math.expm1(loss)) for loss in losses)

    def val(self) -> Batches:
        return [(self.inputs[:9], torch.zeros(9, dtype=torch.long))]

    def forward(self, inputs: Tensor) -> Tensor:
        if self.model.training:
            return super().forward(inputs)
        return torch.tensor([[next(self.margins), 0.0]]).repeat(len(inputs), 1)


def test_few_validation_images_keep_the_epoch_with_the_smallest_raw_loss() -> None:
    """With few images a fitted temperature must not turn the order of the epochs round."""
    model, flags = Toy(), []
    state = initial_state(model, PLAIN, 3, 64, CPU, FP32)
    fit(model, NineRight(model, [0.0811, 0.0101, 0.0608]), PLAIN, 3, 0, state, CPU, FP32, flags.append)
    assert [row["val"]["loss"] for row in state.history] == pytest.approx([0.0811, 0.0101, 0.0608], abs=1e-5)
    assert flags == [True, True, False]
    assert best_epoch(state.history)["epoch"] == 2
    for row in state.history:
        assert 0.7 * row["val"]["loss"] < row["calibrated"] < row["val"]["loss"]


def test_same_seed_gives_the_same_numbers() -> None:
    one, two = (run(Recipe(batch_size=16), epochs=3)[0] for _ in range(2))
    assert [row["train"] for row in one] == [row["train"] for row in two]


def test_patience_stops_training_after_the_low_resolution_epochs() -> None:
    recipe = Recipe(batch_size=16, lr=0.1, patience=2, low_res=0.0)
    assert len(run(recipe, epochs=30, flipped=True)[0]) <= 5
    assert len(run(Recipe(batch_size=16, lr=0.1, patience=2, low_res=0.5), epochs=30, flipped=True)[0]) == 17
    assert len(run(Recipe(batch_size=16, lr=0.1, patience=0), epochs=12, flipped=True)[0]) == 12


@pytest.mark.parametrize(
    ("images", "given", "patience"), [(1999, None, 0), (2000, None, 3), (1999, 5, 5), (2000, 0, 0)]
)
def test_few_images_train_all_epochs(images: int, given: int | None, patience: int) -> None:
    assert Args(patience=given).resolve_recipe(images)[0].patience == patience


def test_epoch_table_shows_the_deciding_loss_within_100_characters() -> None:
    values = {"loss": 1.5, "accuracy": 0.5, "precision": 0.4, "recall": 0.5, "f1": 0.3}
    row = {"epoch": 20, "lr": 1e-3, "train": values, "val": values, "calibrated": 1.25, "seconds": 321.0}
    lines = [*train.TABLE_HEAD.splitlines(), train.table_row(row, is_best=True)]
    assert max(map(len, lines)) <= 100
    head, shown = lines[-3], lines[-1]
    end = head.index("calibr.") + len("calibr.")
    assert shown[:end].endswith(" 1.5000  1.2500")
    assert [at for at, letter in enumerate(head) if letter == "|"] == [
        at for at, letter in enumerate(shown) if letter == "|"
    ]
    assert shown.endswith("*")


def test_infinite_loss_is_an_error() -> None:
    model = Toy()
    source = ToySource(model)
    source.inputs[5] = math.inf
    state = initial_state(model, PLAIN, 1, 64, CPU, FP32)
    with pytest.raises(InputError, match="smaller --lr"):
        fit(model, source, PLAIN, 1, 0, state, CPU, FP32, lambda is_best: None)
    assert not state.history


def test_schedule_warms_up_then_follows_a_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = warmup_cosine(optimizer, 4, 20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0
    assert rates[12] == pytest.approx(0.5)
    assert rates[19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 16)))


def test_earlier_fine_tuned_stages_have_smaller_learning_rates(untrained: BackboneWeights) -> None:
    model = build_model(untrained, 2, unfreeze="layer3")
    state = initial_state(model, Recipe(warmup=0.0, lr=1e-3, layer_decay=0.1), 2, 1280, CPU, FP32)
    assert [group["lr"] for group in state.optimizer.param_groups] == pytest.approx([1e-3, 1e-4, 1e-5])
    sizes = [sum(p.numel() for p in group["params"]) for group in state.optimizer.param_groups]
    stages = (model.base_model.layer4, model.base_model.layer3)
    kernels = [sum(m.weight.numel() for m in stage.modules() if isinstance(m, nn.Conv2d)) for stage in stages]
    assert sizes[1:] == kernels
    for _ in range(10):
        state.optimizer.step()
        state.scheduler.step()
    assert [group["lr"] for group in state.optimizer.param_groups] == pytest.approx([5e-4, 5e-5, 5e-6])


def test_mixup_blends_with_the_partner_and_keeps_the_larger_share() -> None:
    inputs = torch.arange(6.0).reshape(6, 1, 1, 1)
    rng = np.random.default_rng(0)
    for _ in range(20):
        mixed, partners, share = mixup(inputs.clone(), 0.4, rng)
        assert 0.5 <= share <= 1
        torch.testing.assert_close(mixed, share * inputs + (1 - share) * inputs[partners])
    assert mixup(inputs, 0.0, rng)[2] == 1.0


def test_each_number_of_the_recipe_is_an_option_whose_help_tells_its_default() -> None:
    numbers = {field.name: field.default for field in fields(Recipe) if field.metadata}
    assert tuple(numbers) == OPTION_FIELDS
    assert all(getattr(Args(), name) is None for name in numbers)
    with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        parse(Args, ["--help"])
    helps = [" ".join(part.split()) for part in out.getvalue().split("\n  --")]
    for name, default in numbers.items():
        (own,) = (part for part in helps if f"--{part}".startswith(f"{option_name(name)} "))
        assert f"Default {default:g}." in own


def test_old_names_of_options_are_understood() -> None:
    args = parse(Args, ["--coarse", "0.25", "--stage-lr", "0.3", "--ignore-copies", "--unfreeze", "layer4"])[0]
    assert (args.low_res, args.layer_decay, args.ignore_duplicates) == (0.25, 0.3, True)


def test_plain_recipe_is_adam_without_schedule_or_regularisation() -> None:
    state = initial_state(Toy(), PLAIN, 20, 320, CPU, FP32)
    assert type(state.optimizer) is torch.optim.Adam
    for _ in range(30):
        assert state.optimizer.param_groups[0]["lr"] == 1e-3
        state.optimizer.step()
        state.scheduler.step()
    assert (PLAIN.views, PLAIN.batch_size, PLAIN.mixup, PLAIN.label_smoothing, PLAIN.weight_decay) == (0, 32, 0, 0, 0)


def test_real_photographs_are_recognised_far_above_chance(
    har: Path, imagenet: BackboneWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty small images per class, five epochs; chance is 0.07."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "har/train").mkdir(parents=True)
    counts, rows = Counter(), []
    for sample in read_dataset(har).train:
        counts[sample.label] += 1
        if counts[sample.label] <= 20:
            (tmp_path / "har/train" / sample.path.name).symlink_to(sample.path.resolve())
            rows.append((sample.path.name, sample.label))
    write_csv(tmp_path / "har/Training_set.csv", rows, ("filename", "label"))
    train.main(Args(data=Path("har"), image_size=128, epochs=5, batch_size=32, run="h"))
    assert 0.3 < json.loads(Path("results/h/best.json").read_text())["val"]["accuracy"] < 0.9
