"""The training loop, independent of whether its inputs are images or cached feature maps."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR

from dataset import normalise
from evaluation.calibration import fit_temperature
from evaluation.metrics import summarise
from model import ActionNet
from runtime import distributed
from runtime.device import autocast, release_freed_memory
from runtime.errors import InputError
from runtime.status import Progress
from training.feeds import Batches, CachedSource, Forward, ImageSource, class_weights
from training.recipe import Recipe

RELEASE_EVERY = 4  # batches after which freed memory returns to the system; kept for longer it fragments and grows


@dataclass
class TrainState:
    """What changes from step to step besides the model, and the epochs so far (rows of `metrics.jsonl`)."""

    optimizer: torch.optim.Optimizer
    scheduler: LambdaLR
    scaler: torch.amp.GradScaler
    history: list[dict[str, Any]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("optimizer", "scheduler", "scaler")}
        return parts | {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("optimizer", "scheduler", "scaler"):
            if state[name]:  # a disabled scaler has no state
                getattr(self, name).load_state_dict(state[name])
        self.history = state["history"]


def initial_state(
    model: ActionNet, recipe: Recipe, epochs: int, count: int, device: torch.device, dtype: torch.dtype
) -> TrainState:
    """Optimiser, schedule and gradient scaler for training on `count` images per epoch."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    groups = [
        {"params": parameters, "lr": recipe.lr * recipe.layer_decay**depth}
        for depth, parameters in enumerate(model.trained_parameters())
    ]
    optimizer = kind(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)
    steps = math.ceil(count / recipe.batch_size)
    if recipe.schedule == "constant":
        scheduler = LambdaLR(optimizer, lambda step: 1.0)
    else:
        scheduler = warmup_cosine(optimizer, round(recipe.warmup * steps), epochs * steps)
    return TrainState(optimizer, scheduler, torch.amp.GradScaler(device.type, enabled=dtype == torch.float16))


def fit(
    model: ActionNet,
    source: CachedSource | ImageSource,
    recipe: Recipe,
    epochs: int,
    seed: int,
    state: TrainState,
    device: torch.device,
    dtype: torch.dtype,
    on_epoch: Callable[[bool], None],
) -> None:
    """Trains until `epochs` are done or patience runs out.

    Every epoch appends a row to `state.history` and calls `on_epoch` with whether it is the best (`best_epoch`).
    """
    trained = [parameter for group in model.trained_parameters() for parameter in group]
    forward = distributed.data_parallel(trained, source.forward)
    by_class = recipe.balance == "loss"
    weights = class_weights(source.targets, model.fc.out_features).to(device) if by_class else None
    for epoch in range(len(state.history) + 1, epochs + 1):
        best = best_epoch(state.history)
        if (
            recipe.patience
            and best
            and epoch - 1 - max(best["epoch"], recipe.low_res_epochs(epochs)) >= recipe.patience
        ):
            return
        begin = time.perf_counter()
        torch.manual_seed(seed * 1_000_003 + epoch)  # independent of earlier epochs, so that a resumed run repeats it
        lr = state.optimizer.param_groups[0]["lr"]
        model.train()
        label, processes = f"epoch {epoch} of {epochs}", distributed.world_size()
        batches = with_progress(to_device(source.train(epoch), device), label, len(source) // processes)
        rng = np.random.default_rng((seed, epoch))
        train = train_epoch(forward, batches, state, recipe, device, dtype, rng, weights)
        model.eval()
        batches = with_progress(to_device(source.val(), device), f"{label}, validation", source.val_images // processes)
        logits, targets = predict(source.forward, batches, model.fc.out_features, device, dtype)
        val, temperature = summarise(logits, targets), fit_temperature(logits, targets)
        calibrated = cross_entropy(logits / temperature, targets).item()
        release_freed_memory()
        row = {"epoch": epoch, "train": train, "val": val, "calibrated": calibrated, "temperature": temperature}
        state.history.append(row | {"lr": lr, "seconds": round(time.perf_counter() - begin, 2)})
        on_epoch(best is None or calibrated < best["calibrated"])


def best_epoch(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row with the smallest calibrated validation loss; None for an empty history.

    The loss after temperature scaling (`fit_temperature`: never above the raw loss) is the one that predictions are
    made with. The raw loss also grows with the uncertainty that label smoothing and mixup teach, although accuracy
    rises. Fitting the temperature on the same images hardly favours one epoch: it is one number each time.
    """
    return min(history, key=lambda row: row["calibrated"], default=None)


def warmup_cosine(optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Linear warm-up, then half a cosine down to 0 (https://arxiv.org/abs/1608.03983)."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, total_steps - warmup_steps)))

    return LambdaLR(optimizer, factor)


def mixup(inputs: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Mixup (https://arxiv.org/abs/1710.09412) of each input with its neighbour in the shuffled batch.

    Returns: the mixed inputs, the partner of each row (B,), and the weight of the row itself, 0.5 to 1.
    """
    share = rng.beta(alpha, alpha) if alpha > 0 else 1.0
    share = max(share, 1 - share)
    partners = torch.arange(len(inputs), device=inputs.device) ^ 1
    partners = partners.clamp(max=max(0, len(inputs) - 1))  # the last of an odd number is its own partner
    return (inputs if share == 1 else inputs.mul(share).add_(inputs[partners], alpha=1 - share)), partners, share


def to_device(batches: Batches, device: torch.device) -> Batches:
    """Moves batches to the device; images travel as uint8 and are normalised there."""
    for inputs, targets in batches:
        if device.type == "cuda" and not inputs.is_cuda and not inputs.is_pinned():
            inputs = inputs.pin_memory()  # else the copy would be synchronous
        inputs = inputs.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        yield normalise(inputs) if inputs.dtype == torch.uint8 else inputs, targets.to(device, non_blocking=True)


def with_progress(batches: Batches, label: str, images: int, leave: bool = False) -> Batches:
    """Passes batches on and shows how many of this process's images are done."""
    with Progress(label, images, leave=leave) as progress:
        for inputs, targets in batches:
            yield inputs, targets
            progress.update(len(targets))


def row_losses(logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    """Cross-entropy (B,), times the weight of each row's class where there are `weights` (K,)."""
    losses = cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    return losses if weights is None else losses * weights[targets]


def train_epoch(
    forward: Forward,
    batches: Batches,
    state: TrainState,
    recipe: Recipe,
    device: torch.device,
    dtype: torch.dtype,
    rng: np.random.Generator,
    weights: Tensor | None = None,
) -> dict[str, float]:
    """Trains on every batch once.

    Args:
        weights: (K,) of the classes in the loss.

    Returns: `evaluation.metrics.summarise` of the logits seen in training (augmented, mixed, with dropout) against
        each row's own label, without label smoothing, so that the loss compares with that of validation.

    Raises: InputError where the loss is no longer finite.
    """
    all_logits, all_targets = [], []
    for inputs, targets in batches:
        inputs, partners, share = mixup(inputs, recipe.mixup, rng)
        with autocast(device, dtype):
            logits = forward(inputs)  # (B, K)
        logits = logits.float()
        losses = share * row_losses(logits, targets, recipe.label_smoothing, weights)
        if share < 1:
            losses = losses + (1 - share) * row_losses(logits, targets[partners], recipe.label_smoothing, weights)
        # The mean over the rows of all processes, whose gradients DistributedDataParallel averages.
        loss = losses.sum() * distributed.world_size() / distributed.row_offset(len(losses))[1]
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.scheduler.step()
        all_logits.append(logits.detach())
        all_targets.append(targets)
        if len(all_targets) % RELEASE_EVERY == 0:
            release_freed_memory()
    logits = distributed.all_gather_rows(torch.cat(all_logits))
    if not logits.isfinite().all():
        raise InputError("the training loss is no longer finite: give a smaller --lr, or --precision fp32")
    return summarise(logits, distributed.all_gather_rows(torch.cat(all_targets)))


@torch.inference_mode()
def predict(
    forward: Forward, batches: Batches, classes: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Returns logits (N, K) in float32 and targets (N,) on the CPU, of all processes in rank order."""
    all_logits, all_targets = [torch.empty(0, classes)], [torch.empty(0, dtype=torch.long)]
    for inputs, targets in batches:
        with autocast(device, dtype):
            all_logits.append(forward(inputs).float().cpu())
        all_targets.append(targets.cpu())
    return distributed.all_gather_rows(torch.cat(all_logits)), distributed.all_gather_rows(torch.cat(all_targets))
