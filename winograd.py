"""3x3 convolutions with a quarter to a third of the multiplications (Lavin and Gray 2015, https://arxiv.org/abs/1509.09308).

F(4x4, 3x3): a tile of 4x4 outputs needs 36 products a channel pair instead of 144. All products are one batched matrix
product, which runs near a CPU's peak; the transforms before and behind it are small matrix products too.
"""

from typing import Any

import torch
from torch import Tensor, nn

INPUT = [  # B^T of section 4.3
    [4.0, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
KERNEL = [  # G
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
OUTPUT = [  # A^T
    [1.0, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]
AT_ONCE = 16  # maps that are cut into tiles at a time, which takes three times their memory
KERNELS = 256  # output channels at a time, for the same reason: their kernels grow fourfold


def both_ways(matrix: list[list[float]]) -> Tensor:
    """The matrix for rows and columns of a flattened square at once."""
    return torch.kron(torch.tensor(matrix), torch.tensor(matrix))


TO_INPUT, TO_KERNEL, TO_OUTPUT = both_ways(INPUT), both_ways(KERNEL), both_ways(OUTPUT)  # (36, 36), (36, 9), (16, 36)


class Conv3x3(torch.autograd.Function):
    """Written out with its gradients, since those that autograd derives copy large matrices only to transpose them."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y, inputs = convolve(x, weight)
        ctx.save_for_backward(inputs, weight)
        return y if bias is None else y + bias[:, None, None]

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        inputs, weight = ctx.saved_tensors  # (36, T, C), (O, C, 3, 3)
        o, c = weight.shape[:2]
        products = (TO_OUTPUT.T @ squares(grad, 4, 4, 0)).view(36, -1, o)  # (36, T, O)
        of_weight = torch.empty_like(weight)
        for part, place in zip(products.split(KERNELS, dim=2), of_weight.split(KERNELS), strict=True):
            kernels = torch.bmm(part.transpose(1, 2), inputs)  # (36, ≤256, C)
            place.copy_((TO_KERNEL.T @ kernels.view(36, -1)).view(3, 3, -1, c).permute(2, 3, 0, 1))
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = convolve(grad, weight.flip(2, 3).transpose(0, 1))[0]
        return of_x, of_weight, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def squares(x: Tensor, size: int, step: int, before: int) -> Tensor:
    """Cuts maps (B, C, h, w) into squares of `size` that begin `step` apart: (size * size, B * squares * C)."""
    h, w = x.shape[2:]
    after = [size - before + step * ((side - 1) // step) - side for side in (w, h)]
    x = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, before, after[0], before, after[1]))
    x = x.unfold(1, size, step).unfold(2, size, step)  # (B, rows, columns, C, size, size)
    return x.permute(4, 5, 0, 1, 2, 3).reshape(size * size, -1)


def convolve(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the convolution (B, O, h, w) without bias, and the transformed tiles (36, T, C) of x (B, C, h, w)."""
    b, c, h, w = x.shape
    o, rows, columns = len(weight), -(-h // 4), -(-w // 4)  # of tiles
    inputs = x.new_empty(36, b * rows * columns * c)
    for part, place in zip(x.split(AT_ONCE), inputs.split(AT_ONCE * rows * columns * c, dim=1), strict=True):
        torch.mm(TO_INPUT, squares(part, 6, 4, 1), out=place)
    inputs = inputs.view(36, -1, c)
    products = inputs.new_empty(36, inputs.shape[1], o)  # (36, T, O)
    for part, place in zip(weight.split(KERNELS), products.split(KERNELS, dim=2), strict=True):
        kernels = (TO_KERNEL @ part.permute(2, 3, 0, 1).reshape(9, -1)).view(36, -1, c)
        place.copy_(torch.bmm(inputs, kernels.transpose(1, 2)))
    y = (TO_OUTPUT @ products.view(36, -1)).view(4, 4, b, rows, columns, o)
    y = y.permute(2, 3, 0, 4, 1, 5).reshape(b, 4 * rows, 4 * columns, o)[:, :h, :w].contiguous()
    return y.permute(0, 3, 1, 2), inputs


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution with stride 1 and padding 1, in float32 on the CPU, also inside of autocast.

    Args:
        x: (B, C, h, w), channels last in memory.
        weight: (O, C, 3, 3).
        bias: (O,), or None.

    Returns: (B, O, h, w), channels last; it differs from the direct sum by about 1e-5 of the largest value.
    """
    return Conv3x3.apply(x, weight, bias)
