"""Batch norm and dropout whose results do not depend on the number of processes."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from runtime.distributed import row_offset, world_size


class DistributedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device (`nn.SyncBatchNorm` needs GPUs)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        count = torch.tensor([float(x.numel() // x.shape[1])], device=x.device)
        dist.all_reduce(count)
        values = x.float()  # (B, C, h, w)
        mean = all_reduce(values.sum((0, 2, 3))) / count  # (C,)
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise(model: nn.Module) -> None:
    """Makes the trained batch norms of `model` span all processes; does nothing in a single process."""
    if world_size() == 1:
        return
    for parent in model.modules():
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d and norm.weight.requires_grad:
                spanning = DistributedBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
                spanning.load_state_dict(norm.state_dict())
                setattr(parent, name, spanning.to(norm.weight.device).train(norm.training))


class RowDropout(nn.Dropout):
    """Dropout of features (B, C), or of whole channels of feature maps (B, C, h, w).

    The mask is drawn for the batch of all processes, so that each process sees its rows of the same mask.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        begin, total = row_offset(len(x))
        drawn = torch.rand(total, x.shape[1], device=x.device)[begin : begin + len(x)]
        kept = (drawn >= self.p).to(x.dtype) / max(1 - self.p, 1e-12)  # (B, C)
        return x * kept.view(*kept.shape, *[1] * (x.dim() - 2))
