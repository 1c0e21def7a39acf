"""Figures of one forward pass: activation maps and kernels of its layers, histograms of their values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from figures import layers as layer_figures
from figures.kernels import kernels as draw_kernels
from figures.page import resolution
from inspection.channels import most_active, ranked_maps, ranking_layer
from inspection.layer_names import as_maps, describe_layer, friendly, module_of
from inspection.layer_stats import histogram
from runtime.errors import InputError
from runtime.options import KernelView
from runtime.status import track


def write_plots(
    folder: Path,
    prefix: str,
    model: nn.Module,
    acts: Mapping[str, Tensor],
    ranking: Mapping[str, Tensor],
    *,
    channels: Sequence[int],
    tiles: int,
    kernels: KernelView,
    classes: Sequence[str],
    detail: str,
    format: str,
    dpi: int,
) -> None:
    """Writes the files of one forward pass; see `hooks.dump`.

    Args:
        acts: outputs of the layers to plot, batch size 1 or 0; `ranking`: of those that rank channels.
    """
    maps = as_maps({layer: output for layer, output in acts.items() if len(output)})
    ranked = ranked_maps(acts, ranking)
    if not maps:
        raise InputError(f"{folder}, {prefix}: nothing to plot; name layers that are called, give a batch with images")
    stats = {layer: histogram(values) for layer, values in maps.items()}
    histograms = folder / f"histograms_{prefix}.{format}"
    with resolution(dpi):
        layer_figures.histograms(histograms, "Activation values by layer", detail, stats, "activations")
        for layer, values in track(maps.items(), "plot layers", unit="layers", leave=False):
            module, name = module_of(model, layer), f"{prefix}_layer_{friendly(layer)}.{format}"
            heading = f"{layer} · {describe_layer(module)} · {' × '.join(map(str, values.shape))}"
            path = folder / f"activation_{name}"
            if isinstance(module, nn.Linear) and values.shape == (len(classes), 1, 1):
                layer_figures.logits(path, heading, detail, values[:, 0, 0].float().numpy(), classes)
                continue
            shown = shown_channels(model, layer, ranked, channels, tiles)
            order = "as chosen" if channels and set(shown) <= set(channels) else order_words(model, layer, ranked)
            layer_figures.activations(path, heading, detail, values, shown, order)
            if isinstance(module, nn.Conv2d):
                title = f"Kernels of {layer} · {describe_layer(module)}"
                draw_kernels(folder / f"kernels_{name}", title, module, kernels, shown, order)


def shown_channels(
    model: nn.Module, layer: str, acts: Mapping[str, Tensor], channels: Sequence[int], tiles: int
) -> list[int]:
    """The given channels, as far as a layer has them, else the `tiles` most active ones (`channels.most_active`)."""
    there = [channel for channel in dict.fromkeys(channels) if 0 <= channel < len(acts[layer])]
    return there or most_active(model, layer, acts, tiles)


def order_words(model: nn.Module, layer: str, acts: Mapping[str, Tensor]) -> str:
    by = ranking_layer(model, layer, acts)
    return "most active first" if by == layer else f"most active in {by} first"
