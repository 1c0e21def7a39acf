"""Helpers for distributed training under `torchrun` (gloo on CPU, NCCL on GPU); no-ops in a single process."""

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
from runtime.status import set_quiet


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connects the processes that `torchrun` started, if any; only the main process prints and shows progress."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    # The others wait while the main process downloads, checks or calibrates, which can exceed the default timeout.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    with Path(os.devnull).open("w") as devnull, redirect_stdout(sys.stdout if is_main() else devnull):
        if not is_main():
            set_quiet(True)
        try:
            yield
            barrier()
        except RuntimeError as error:
            if "peer" not in str(error):  # gloo's word for the other end of a connection
                raise
            raise InputError("another process failed; see its message") from error
    dist.destroy_process_group()  # not after an exception: NCCL would wait for the other processes


def barrier() -> None:
    """Waits until every process is here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def main_process_first() -> Iterator[None]:
    """Runs the block in the main process first; the others follow and find its files on disk."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def broadcast_object(value: Any) -> Any:
    """Returns the main process's value in every process."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def require_same(value: Any, what: str) -> None:
    """Raises InputError naming `what` where processes, perhaps on several machines, hold different values."""
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)
        if any(other != values[0] for other in values):
            raise InputError(f"the processes disagree on {what}; give every process the same")


def shard(count: int) -> slice:
    """This process's share of `count` rows; of even length, so that mixup partners stay together."""
    step = 2 * -(-count // (2 * world_size()))
    return slice(min(count, rank() * step), min(count, (rank() + 1) * step))


def gather_counts(count: int) -> list[int]:
    """Row counts of all processes, by rank."""
    counts = [count]
    if world_size() > 1:
        counts = [0] * world_size()
        dist.all_gather_object(counts, count)
    return counts


def row_offset(count: int) -> tuple[int, int]:
    """Offset of this process's `count` rows among the rows of all processes, and their total."""
    counts = gather_counts(count)
    return sum(counts[: rank()]), sum(counts)


def all_gather_rows(rows: Tensor) -> Tensor:
    """Returns the rows of all processes in rank order, on the CPU."""
    parts = [rows.cpu()]
    if world_size() > 1:
        parts = [rows] * world_size()
        dist.all_gather_object(parts, rows.cpu())
    return torch.cat(parts)


def gather_to_main(rows: Tensor) -> Tensor:
    """Returns the rows of all processes in rank order in the main process, and its own rows in the others."""
    if world_size() == 1:
        return rows
    counts = gather_counts(len(rows))
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts] if is_main() else None
    dist.gather(padded, parts)
    return rows if parts is None else torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class ForwardModule(nn.Module):
    """Parameters and a function that uses them, as the module that DistributedDataParallel needs."""

    def __init__(self, parameters: list[nn.Parameter], function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.trained, self.function = nn.ParameterList(parameters), lambda x: function(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def data_parallel(parameters: list[nn.Parameter], function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wraps `function` so that gradients of `parameters` are averaged over all processes."""
    return function if world_size() == 1 else DistributedDataParallel(ForwardModule(parameters, function))
