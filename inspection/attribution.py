"""Attribution maps by captum: Grad-CAM, occlusion, integrated gradients.

All of them also work where the backbone is frozen.
"""

from collections.abc import Sequence

import torch
from captum.attr import IntegratedGradients, LayerAttribution, LayerGradCam, Occlusion
from torch import Tensor, nn

STEPS = 16  # of integrated gradients; each is a forward and a backward pass
BATCH = 8  # images per pass


def grad_cam(model: nn.Module, layer: str, image: Tensor, target: int) -> Tensor:
    """Grad-CAM (https://arxiv.org/abs/1610.02391, section 3) at a layer, resized to the image.

    Args:
        image: normalised, (3, S, S).

    Returns: (S, S), at least 0, in units of gradient × activation.
    """
    inputs = image[None].clone().requires_grad_()  # else a frozen layer's output has no gradient to give
    method = LayerGradCam(model, model.get_submodule(layer))
    maps = method.attribute(inputs, target=target, relu_attributions=True)  # (1, 1, h, w)
    return LayerAttribution.interpolate(maps, tuple(image.shape[-2:]), "bilinear")[0, 0].detach().cpu()


def occlusion(model: nn.Module, image: Tensor, targets: Sequence[int]) -> Tensor:
    """Drop of each target's logit when a square of the image is covered.

    Source: Zeiler and Fergus 2013, https://arxiv.org/abs/1311.2901.

    Args:
        image: normalised, (3, S, S); S at least 7.

    Returns: (T, S, S), positive where the square supports the target.
    """
    side, step = max(1, image.shape[-1] * 2 // 7), max(1, image.shape[-1] * 3 // 14)
    count = len(targets)
    copies = image.expand(count, *image.shape)

    def forward(covered: Tensor) -> Tensor:  # captum covers the same square in each copy: one pass serves them all
        return model(covered[::count]).repeat_interleave(count, dim=0)

    with torch.inference_mode():
        falls = Occlusion(forward).attribute(
            copies,
            sliding_window_shapes=(len(image), side, side),
            strides=(len(image), step, step),
            target=list(targets),
            perturbations_per_eval=BATCH,
        )  # (T, 3, S, S)
    return falls[:, 0].cpu()


def integrated_gradients(model: nn.Module, image: Tensor, targets: Sequence[int]) -> Tensor:
    """Integrated gradients from a mean-coloured image, summed over RGB.

    Source: Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365.

    Args:
        image: normalised, (3, S, S).

    Returns: (T, S, S); each map sums to about the target's logit minus that of the mean-coloured image.
    """
    method = IntegratedGradients(model)
    maps = [
        method.attribute(image[None], target=target, n_steps=STEPS, internal_batch_size=BATCH) for target in targets
    ]
    return torch.cat(maps).sum(1).detach().cpu()
