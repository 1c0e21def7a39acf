"""One epoch of training, one pass of evaluation. Neither knows whether its inputs are pictures or feature maps."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from device import autocast
from errors import InputError
from metrics import summarise

Batches = Iterable[tuple[Tensor, Tensor]]
Forward = Callable[[Tensor], Tensor]


def warmup_cosine(optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """The rate rises in a line over the warm-up, then falls along half a cosine to 0 (https://arxiv.org/abs/1608.03983)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)


def mix(inputs: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Mixup (https://arxiv.org/abs/1710.09412): blends each input with another of the batch.

    Returns: the blend, the partner of each row (B,), and the share of the row itself, at least one half.
    """
    share = rng.beta(alpha, alpha) if alpha > 0 else 1.0
    share = max(share, 1 - share)
    partners = torch.from_numpy(rng.permutation(len(inputs))).to(inputs.device)
    return (inputs if share == 1 else inputs.mul(share).add_(inputs[partners], alpha=1 - share)), partners, share


def to_device(batches: Batches, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for inputs, targets in batches:
        yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)


def train_epoch(
    forward: Forward,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    scheduler: LambdaLR,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    dtype: torch.dtype,
    label_smoothing: float,
    mixup: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Trains on every batch once.

    Returns: `metrics.summarise` of the logits as they came in training (augmented, mixed, with dropout) against each
    row's own label and without smoothing, so that the loss can be held against validation's.

    Raises: InputError where the loss stops being a number.
    """
    all_logits, all_targets = [], []
    for inputs, targets in to_device(batches, device):
        inputs, partners, share = mix(inputs, mixup, rng)
        with autocast(device, dtype):
            logits = forward(inputs)  # (B, K)
        logits = logits.float()
        loss = nn.functional.cross_entropy(logits, targets, label_smoothing=label_smoothing) * share
        if share < 1:
            partner_loss = nn.functional.cross_entropy(logits, targets[partners], label_smoothing=label_smoothing)
            loss = loss + (1 - share) * partner_loss
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        all_logits.append(logits.detach())
        all_targets.append(targets)
    logits, targets = torch.cat(all_logits).cpu(), torch.cat(all_targets).cpu()
    if not logits.isfinite().all():
        raise InputError("the training loss is no longer a number: give a smaller --lr, or --precision fp32")
    return summarise(logits, targets)


@torch.inference_mode()
def predict(forward: Forward, batches: Batches, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns logits (N, K) in float32 and targets (N,), on the CPU."""
    all_logits, all_targets = [], []
    for inputs, targets in to_device(batches, device):
        with autocast(device, dtype):
            all_logits.append(forward(inputs).float().cpu())
        all_targets.append(targets.cpu())
    return torch.cat(all_logits), torch.cat(all_targets)
