"""The network as a chain of steps: outputs at its columns, changes of channels, and which channels make which.

Between two steps nothing but one tensor flows, so that the network goes on from any stored output, and a channel's
output is, up to biases, the sum of what the channels of an earlier column contribute.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspection.channels import SHORTCUT
from model import ActionNet

INPUT = "input"
COLUMNS = ("relu", "layer1", "layer2", "layer3", "layer4")  # of ResNet
HEAD = ("relu1", "relu2")
Scales = Mapping[str, Mapping[int, float]]  # factors by column and channel


@dataclass(frozen=True)
class Column:
    """A point of the chain whose channels are shown.

    Attributes:
        name: the layer that outputs it; `INPUT` for the normalised image.
        end: number of steps before it.
        conv: name of the convolution that makes its channels; None where that is no single one.
    """

    name: str
    end: int
    conv: str | None = None


class Chain:
    """A network, frozen and in evaluation mode, as steps between columns.

    Attributes:
        columns: the image first, the classes (`fc`) are not among them.
    """

    def __init__(self, model: ActionNet) -> None:
        self.model = model.eval().requires_grad_(False)
        parts = [(f"base_model.{name}", part) for name, part in model.base_model.named_children()]
        parts += [(name, part) for name, part in model.named_children() if name in ("conv1", "bn1", *HEAD[:1])]
        parts += [(name, part) for name, part in model.named_children() if name in ("conv2", "bn2", *HEAD[1:])]
        self.steps = [part for _, part in parts] + [nn.Sequential(model.avgpool, nn.Flatten(), model.fc)]
        names = [name for name, _ in parts]
        last = f"base_model.{[*model.base_model.named_children()][-1][0]}"
        shown = [f"base_model.{name}" for name in COLUMNS if f"base_model.{name}" in names]
        shown = [*dict.fromkeys([*shown, last, *HEAD])]
        self.columns = [Column(INPUT, 0)]
        for name in shown:
            end = names.index(name) + 1
            self.columns.append(Column(name, end, last_conv(parts[self.columns[-1].end : end])))
        self.by_name = {column.name: column for column in self.columns}
        self.at = {column.end: column.name for column in self.columns}  # columns by the number of steps before them

    def run(self, x: Tensor, start: int = 0, end: int | None = None, scales: Scales | None = None) -> Tensor:
        """Output of the steps `start` to `end` (excluded; None: the logits) for the output before them.

        Args:
            scales: factors for channels of the columns after `start`.
        """
        for number, step in enumerate(self.steps[start:end], start + 1):
            x = step(x)
            if scales and scales.get(self.at.get(number)):
                x = scaled(x, scales[self.at[number]])
        return x

    @torch.no_grad()
    def outputs(
        self, image: Tensor, scales: Scales | None = None, known: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Outputs (B, C, h, w) at the columns, and logits (B, K).

        Args:
            image: (B, 3, S, S), normalised.
            scales: factors for channels; 0 switches one off.
            known: outputs without scales for the same image: layers before the first scaled one are not computed again.
        """
        scales = scales or {}
        outputs: dict[str, Tensor] = {INPUT: image}
        changed = known is None
        for before, column in zip(self.columns, self.columns[1:], strict=False):
            previous = outputs[before.name]
            changed = changed or bool(scales.get(column.name))
            outputs[column.name] = self.run(previous, before.end, column.end, scales) if changed else known[column.name]
        return outputs, self.run(outputs[column.name], column.end)

    def tail(self, column: str, scales: Scales | None = None) -> nn.Sequential:
        """The network from a column on, its first layer, `input`, outputs the column: for `inspection.attribution`.

        Args:
            scales: as of `run`.
        """
        start = self.by_name[column].end
        parts: OrderedDict[str, nn.Module] = OrderedDict(input=nn.Identity())
        for number, step in enumerate(self.steps[start:], start + 1):
            parts[f"step{number}"] = step
            if scales and scales.get(self.at.get(number)):
                parts[f"scale{number}"] = Scaled(scales[self.at[number]])
        return nn.Sequential(parts)

    def previous(self, column: str) -> str:
        names = list(self.by_name)
        return names[names.index(column) - 1]

    def contributions(self, outputs: Mapping[str, Tensor], column: str, channels: Sequence[int]) -> Tensor:
        """Contributions of the column before to the sums over positions of the outputs of `channels`: (N, C).

        Gradient times activation, summed over positions. Between two columns are convolutions, batch norms with fixed
        statistics, additions, ReLUs and maximum pooling, which are piecewise linear: the contributions of all C
        channels and the biases add up to the sum exactly.
        """
        before, end = self.by_name[self.previous(column)], self.by_name[column].end
        return contributions(lambda x: self.run(x, before.end, end).sum((2, 3))[0], outputs[before.name], channels)

    def logit_contributions(
        self, outputs: Mapping[str, Tensor], column: str, classes: Sequence[int], scales: Scales | None = None
    ) -> Tensor:
        """As `contributions`, of a column to the logits of `classes`, with factors for later columns: (N, C)."""
        start = self.by_name[column].end
        return contributions(lambda x: self.run(x, start, scales=scales)[0], outputs[column], classes)


def contributions(forward: Callable[[Tensor], Tensor], x: Tensor, targets: Sequence[int]) -> Tensor:
    """Gradient × activation of the channels of x (1, C, h, w) for some of the values that `forward` outputs: (N, C)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        values = forward(x)
        rows = []
        for target in targets:
            (gradient,) = torch.autograd.grad(values[target], x, retain_graph=True)
            rows.append((gradient * x.detach()).sum((2, 3))[0])
    return torch.stack(rows).float().cpu()


def shares(values: Tensor) -> Tensor:
    """Contributions (…, C) over the sum of their magnitudes, -1..1; zeros where all are 0."""
    total = values.abs().sum(-1, keepdim=True)
    return values / total.clamp(min=torch.finfo(values.dtype).tiny)


def scaled(output: Tensor, scales: Mapping[int, float]) -> Tensor:
    """A copy of an output (B, C, h, w) with some channels multiplied by a factor."""
    output = output.clone()
    for channel, factor in scales.items():
        output[:, channel] *= factor
    return output


class Scaled(nn.Module):
    """As `scaled`, a layer."""

    def __init__(self, scales: Mapping[int, float]) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, output: Tensor) -> Tensor:
        return scaled(output, self.scales)


def last_conv(parts: Sequence[tuple[str, nn.Module]]) -> str | None:
    """Name of the last convolution among modules, without those on shortcuts and those of other libraries' networks."""
    found = [
        f"{name}.{inner}".rstrip(".")
        for name, part in parts
        for inner, module in part.named_modules()
        if isinstance(module, nn.Conv2d) and SHORTCUT not in inner and not name.endswith(".network")
    ]
    return found[-1] if found else None
