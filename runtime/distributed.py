"""Several processes that work as one: `torchrun` starts them, gloo (CPU) or NCCL (GPU) connects them.

Everything here also works in a process that is alone, and then does nothing.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from runtime.errors import InputError


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that `torchrun` started, if it did; the first one alone prints."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    # The others wait while the first downloads, checks or calibrates, which may take longer than the usual limits.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(sys.stdout if rank() == 0 else nowhere):
        try:
            yield
            barrier()
        except RuntimeError as error:
            if "peer" not in str(error):  # gloo's word for the other end
                raise
            raise InputError("another of the processes ended; it says why") from error
    dist.destroy_process_group()  # not after an exception: NCCL would wait for the others


def barrier() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Lets the first process run the block while the others wait, then the others, who find what it left on disk."""
    if rank() > 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def broadcast_object(value: Any) -> Any:
    """The first process's value."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def require_same(value: Any, what: str) -> None:
    """Raises: InputError where the processes, on machines of their own perhaps, have not found the same."""
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise InputError(f"the processes do not agree on {what}; give all of them the same, by name")


def shard(count: int) -> slice:
    """This process's share of `count` rows: of even length, so that neighbours stay together."""
    step = 2 * -(-count // (2 * world_size()))
    return slice(min(count, rank() * step), min(count, (rank() + 1) * step))


def gather_counts(count: int) -> list[int]:
    """The processes' numbers of rows, of which this one has `count`."""
    counts = [count]
    if world_size() > 1:
        counts = [0] * world_size()
        dist.all_gather_object(counts, count)
    return counts


def row_offset(count: int) -> tuple[int, int]:
    """Where this process's `count` rows begin among those of all processes, and how many these are."""
    counts = gather_counts(count)
    return sum(counts[: rank()]), sum(counts)


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, in their order, on the CPU."""
    parts = [rows.cpu()]
    if world_size() > 1:
        parts = [rows] * world_size()
        dist.all_gather_object(parts, rows.cpu())
    return torch.cat(parts)


def gather_to_main(rows: Tensor) -> Tensor:
    """In the first process the rows of all processes, in their order; elsewhere its own."""
    if world_size() == 1:
        return rows
    counts = gather_counts(len(rows))
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts] if rank() == 0 else None
    dist.gather(padded, parts)
    return rows if parts is None else torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class Step(nn.Module):
    """What DistributedDataParallel wraps: parameters, and a function that uses them."""

    def __init__(self, parameters: list[nn.Parameter], function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.trained, self.run = nn.ParameterList(parameters), lambda x: function(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def data_parallel(parameters: list[nn.Parameter], function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function, whose gradients on the parameters become the mean over all processes."""
    return function if world_size() == 1 else DistributedDataParallel(Step(parameters, function))


class Total(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes. (PyTorch's `SyncBatchNorm` is for GPUs only.)"""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        count = torch.tensor([float(x.numel() // x.shape[1])], device=x.device)
        dist.all_reduce(count)
        values = x.float()
        mean = Total.apply(values.sum((0, 2, 3))) / count  # (C,)
        centred = values - mean[:, None, None]
        variance = Total.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class RowDropout(nn.Dropout):
    """Dropout of (B, C) features or of whole channels of (B, C, h, w) maps, the same for any number of processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        begin, total = row_offset(len(x))
        drawn = torch.rand(total, x.shape[1], device=x.device)[begin : begin + len(x)]
        kept = (drawn >= self.p).to(x.dtype) / max(1 - self.p, 1e-12)
        return x * kept.view(*kept.shape, *[1] * (x.dim() - 2))
