"""One photograph in the network: predictions, maps, contributions, and what changes where channels are switched off."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from explorer.payload import encode, kernel, rounded, small
from inspection.attribution import grad_cam, occlusion
from inspection.chain import INPUT, Chain, Scales, shares
from inspection.channels import activity
from inspection.examples import pixels_of
from inspection.layer_names import module_of
from inspection.layer_stats import histogram
from runtime.errors import InputError
from training.trained_run import TrainedRun

ROWS = 8  # channels shown of a column
LISTED = 8  # channels listed for another channel or a class
CLASSES = 3  # to whose logits a channel's contribution is told
Cover = tuple[float, float, float, float]  # left, top, right, bottom of a covered region, 0..1


@dataclass
class Look:
    """A photograph's outputs (1, C, h, w) at the columns of the network, as it is and with the visitor's changes.

    Attributes:
        name: of its file.
        input: (3, S, S), normalised.
        shown: the channels shown, by column.
        highs: ends of the colour scales of their maps, by column; of two photographs beside each other the same.
        original, outputs: without and with changes.
    """

    run: TrainedRun
    chain: Chain
    name: str
    input: Tensor
    shown: dict[str, list[int]] = field(default_factory=dict)
    highs: dict[str, float] = field(default_factory=dict)
    scales: Scales = field(default_factory=dict)
    cover: Cover | None = None
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        image = self.input[None].to(self.run.device, memory_format=torch.channels_last)
        self.original, self.first_logits = self.chain.outputs(image)
        self.outputs, self.logits = self.original, self.first_logits
        for column in [column.name for column in self.chain.columns]:
            order = activity(self.original[column][0]).argsort(descending=True, stable=True)
            channels = self.shown.setdefault(column, order[: 3 if column == INPUT else ROWS].tolist())
            self.highs.setdefault(column, small(self.original[column][0][channels]).abs().max().item())

    def change(self, scales: Mapping[str, Mapping[str, float]], cover: Sequence[float] | None) -> dict[str, Any]:
        """Replaces the visitor's changes by these; returns the summary. Raises: InputError where out of range."""
        found: dict[str, dict[int, float]] = {}
        for column, factors in scales.items():
            for channel, factor in factors.items():
                number = self.check_channel(column, channel)
                if column == INPUT or not 0 <= float(factor) <= 4:
                    raise InputError(f"{column}, channel {channel}: cannot be multiplied by {factor}; give 0 to 4")
                found.setdefault(column, {})[number] = float(factor)
        box = None if cover is None else tuple(min(1.0, max(0.0, float(value))) for value in cover)
        if box is not None and not (len(box) == 4 and box[0] < box[2] and box[1] < box[3]):
            raise InputError("the covered region is empty; drag a larger one")
        image = self.original[INPUT] if box is None else covered(self.original[INPUT], box)
        with self.lock:  # so that of several changes each is answered with its own maps
            self.outputs, self.logits = self.chain.outputs(image, found, self.original if box is None else None)
            self.scales, self.cover = found, box
            return self.summary()

    def check_channel(self, column: str, channel: int | str) -> int:
        """The number of a channel. Raises: InputError where the network has no such column or channel."""
        if column not in self.original:
            raise InputError(f"column {column}: the network has {', '.join(self.original)}")
        count = self.original[column].shape[1]
        if not str(channel).isdecimal() or len(str(channel)) > 9 or int(channel) >= count:
            raise InputError(f"channel {channel}: {column} has the channels 0 to {count - 1}")
        return int(channel)

    def maps(self, column: str) -> Tensor:
        """Maps (C, h, w) with the visitor's changes."""
        return self.outputs[column][0]

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.run.model.probabilities(logits[0]).cpu()

    def summary(self) -> dict[str, Any]:
        """Probabilities and logits with and without changes, and the maps of the channels shown."""
        columns = []
        for column, channels in self.shown.items():
            now, high = self.maps(column), self.highs[column]
            columns.append({
                "name": column, "channels": channels, "maps": encode(small(now[channels]), high),
                "activity": rounded(activity(now[channels])),
            })  # fmt: skip
        return {
            "name": self.name,
            "probabilities": rounded(self.probabilities(self.logits)),
            "original": rounded(self.probabilities(self.first_logits)),
            "logits": rounded(self.logits[0], 4),
            "original_logits": rounded(self.first_logits[0], 4),
            "scales": self.scales,
            "cover": self.cover,
            "columns": columns,
        }

    def edges(self, column: str) -> dict[str, Any]:
        """Signed shares of the channels shown of the column before in the channels shown of a column: (N, M)."""
        left = self.shown[self.chain.previous(self.known_column(column))]
        values = shares(self.chain.contributions(self.outputs, column, self.shown[column]))
        return {"shares": rounded(values[:, left])}

    def class_edges(self) -> dict[str, Any]:
        """As `edges`, of the last column's channels in the logits (K, M)."""
        last = self.chain.columns[-1].name
        values = self.chain.logit_contributions(self.outputs, last, range(len(self.run.classes)))
        return {"shares": rounded(shares(values)[:, self.shown[last]])}

    def known_column(self, column: str) -> str:
        self.check_channel(column, 0)
        if column == INPUT:
            raise InputError("column input: is the image; nothing stands before it")
        return column

    def channel(self, column: str, channel: int | str) -> dict[str, Any]:
        """A channel: its map, histogram and kernel, and the channels that make it."""
        number = self.check_channel(self.known_column(column), channel)
        off = self.scales.get(column, {}).get(number) == 0
        values = (self.original[column][0] if off else self.maps(column))[number]
        before = self.chain.previous(column)
        made_of = self.chain.contributions(self.outputs, column, [number])[0]
        order = activity(self.original[column][0]).argsort(descending=True, stable=True)
        conv = self.chain.by_name[column].conv
        return {
            "map": encode(values[None]),
            "histogram": histogram(values),
            "rank": (order == number).nonzero().item() + 1,
            "channels": len(order),
            "kernel": kernel(module_of(self.run.model, conv), number) if conv else None,
            "before": self.listed(before, made_of, made_of.abs().argsort(descending=True, stable=True)[:LISTED]),
        }

    def added(self, column: str, channel: int | str) -> dict[str, Any]:
        """What a channel adds to the logits of the likeliest classes."""
        number = self.check_channel(self.known_column(column), channel)
        top = self.logits[0].topk(min(CLASSES, self.logits.shape[1])).indices.tolist()
        added = self.chain.logit_contributions(self.outputs, column, top, self.scales)[:, number]
        return {
            "classes": [{"class": k, "logit": round(value, 4)} for k, value in zip(top, added.tolist(), strict=True)]
        }

    def listed(self, column: str, values: Tensor, order: Tensor) -> dict[str, Any]:
        """Channels of a column with their contributions (C,), shares and maps, in an order."""
        share = shares(values)
        return {
            "column": column,
            "channels": order.tolist(),
            "shares": rounded(share[order]),
            "values": rounded(values[order]),
            "maps": encode(small(self.maps(column)[order])) if len(order) else None,
        }

    def class_(self, target: int) -> dict[str, Any]:
        """The channels of the last column that speak for and against a class."""
        last = self.chain.columns[-1].name
        values = self.chain.logit_contributions(self.outputs, last, [self.check_class(target)])[0]
        order = values.argsort(descending=True, stable=True)
        logit = self.logits[0, target].item()
        return {
            "logit": round(logit, 4),
            "bias": round(logit - values.sum().item(), 4),
            "for": self.listed(last, values, order[values[order] > 0][:LISTED]),
            "against": self.listed(last, values, order.flip(0)[values[order.flip(0)] < 0][:LISTED]),
            "sums": [round(part.item(), 4) for part in (values.clamp(min=0).sum(), values.clamp(max=0).sum())],
        }

    def check_class(self, target: int) -> int:
        if not 0 <= target < len(self.run.classes):
            raise InputError(f"class {target}: the run knows {len(self.run.classes)} classes, counted from 0")
        return target

    def grad_cam(self, column: str, target: int) -> dict[str, Any]:
        """Grad-CAM of a class at a column."""
        output = self.outputs[self.known_column(column)][0]
        return {
            "map": encode(
                grad_cam(self.chain.tail(column, self.scales), "input", output, self.check_class(target))[None]
            )
        }

    def occlusion(self, target: int) -> dict[str, Any]:
        """Drop of a class's logit where a square of the image is covered."""
        falls = occlusion(self.chain.tail(INPUT, self.scales), self.outputs[INPUT][0], [self.check_class(target)])
        return {"map": encode(small(falls))}

    def input_png(self) -> bytes:
        """What the network sees, without changes."""
        file = io.BytesIO()
        Image.fromarray((pixels_of(self.input) * 255).round().astype("uint8")).save(file, "png", compress_level=1)
        return file.getvalue()


def covered(image: Tensor, box: Cover) -> Tensor:
    """A copy of normalised images (B, 3, S, S) with a region in ImageNet's mean colour."""
    side = image.shape[-1]
    left, top, right, bottom = (round(value * side) for value in box)
    image = image.clone()
    image[:, :, top : max(bottom, top + 1), left : max(right, left + 1)] = 0
    return image
