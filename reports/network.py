"""Draws the network of a run, with its shapes and parameters."""

from pathlib import Path

import torch

from figures import network as network_figure
from hooks import layer_shapes
from model import ActionNet
from training.trained_run import TrainedRun


def draw_network(path: Path, model: ActionNet, size: int, detail: str) -> None:
    """Writes the figure, and its numbers beside it as .json.

    Args:
        size: side of the input, pixels.
    """
    image = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    shapes = layer_shapes(model, image, network_figure.stage_layers(model))
    network_figure.network(path, model, size, shapes, detail)


def draw_run(run: TrainedRun, path: Path) -> None:
    size = f"{run.image_size} × {run.image_size}"
    draw_network(path, run.model, run.image_size, f"{len(run.classes)} classes, images of {size} · {run.detail}")
