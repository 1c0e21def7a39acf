"""Winograd 3x3 convolutions for CPUs: a fifth to a third of the multiplications.

F(m x m, 3x3) of Lavin and Gray 2015 (https://arxiv.org/abs/1509.09308): a tile of m x m outputs takes (m + 2)^2
products per channel pair instead of 9 m^2. All products form one batched matrix product, which runs near a CPU's peak;
the transforms before and after it are small matrix products too. `accelerate(model)` puts them into a network.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from runtime.device import cpu_has

POINTS = (0, 1, -1, 2, -0.5, 0.5, -2)  # F(m x m) takes the first m + 1; more or other points would cost precision
FLOATS = 1 << 22  # inputs cut into tiles at a time, so that their copies stay in the CPU's cache


class Tile(NamedTuple):
    """Transforms of F(m x m, 3x3) for flattened squares, with n = m + 2."""

    m: int
    to_input: Tensor  # (n * n, n * n)
    to_kernel: Tensor  # (n * n, 9)
    to_output: Tensor  # (m * m, n * n)

    def counts(self, h: int, w: int) -> tuple[int, int]:
        """Rows and columns of tiles that cover an (h, w) map."""
        return -(-h // self.m), -(-w // self.m)

    def products(self, h: int, w: int) -> int:
        """Products per channel pair for an (h, w) map."""
        return math.prod(self.counts(h, w)) * len(self.to_input)


def make_tile(m: int) -> Tile:
    """Builds the transforms by Cook-Toom: multiplies polynomials by their values at m + 1 points and at infinity."""
    points = torch.tensor(POINTS[: m + 1], dtype=torch.float64)
    n = m + 2
    to_input, to_kernel, to_output = torch.zeros(n, n), torch.zeros(n, 3), torch.zeros(m, n)
    for row, point in enumerate(points):
        others = torch.cat([points[:row], points[row + 1 :]])
        to_input[row, :-1] = polynomial(others)
        to_kernel[row] = point ** torch.arange(3) / (point - others).prod()
        to_output[:, row] = point ** torch.arange(m)
    to_input[-1] = polynomial(points)
    to_kernel[-1, -1] = to_output[-1, -1] = 1
    return Tile(m, *(torch.kron(matrix, matrix) for matrix in (to_input, to_kernel, to_output)))


def polynomial(roots: Tensor) -> Tensor:
    """Coefficients of the monic polynomial with these roots, constant term first."""
    values = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        values = nn.functional.pad(values, (1, 0)) - root * nn.functional.pad(values, (0, 1))
    return values


TILES = [make_tile(m) for m in (4, 5, 6)]


def best_tile(h: int, w: int) -> Tile:
    """The tile with the fewest products for (h, w) maps."""
    return min(TILES, key=lambda tile: tile.products(h, w))


class Conv3x3(torch.autograd.Function):
    """Convolution with hand-written gradients: those that autograd derives copy large matrices to transpose them."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tile = best_tile(*x.shape[2:])
        y, inputs = convolve(x, weight, tile)
        ctx.tile = tile
        ctx.save_for_backward(inputs, weight)
        return y if bias is None else y + bias[:, None, None]

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        inputs, weight = ctx.saved_tensors  # (n * n, T, C), (O, C, 3, 3)
        tile, (o, c) = ctx.tile, weight.shape[:2]
        products = (tile.to_output.T @ squares(grad, tile.m, tile.m, 0)).view(*inputs.shape[:2], o)
        kernels = torch.bmm(products.transpose(1, 2), inputs)  # (n * n, O, C)
        weight_grad = (tile.to_kernel.T @ kernels.view(len(inputs), -1)).view(3, 3, o, c).permute(2, 3, 0, 1)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = convolve(grad, weight.flip(2, 3).transpose(0, 1), tile)[0]
        return x_grad, weight_grad, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def squares(x: Tensor, size: int, step: int, before: int) -> Tensor:
    """Cuts maps (B, C, h, w) into squares of side `size`, `step` apart: (size * size, B * squares * C)."""
    h, w = x.shape[2:]
    after = [size - before + step * ((side - 1) // step) - side for side in (w, h)]
    x = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, before, after[0], before, after[1]))
    x = x.unfold(1, size, step).unfold(2, size, step)  # (B, rows, columns, C, size, size)
    return x.permute(4, 5, 0, 1, 2, 3).reshape(size * size, -1)


def convolve(x: Tensor, weight: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
    """Returns the convolution (B, O, h, w) without bias, and the transformed tiles (n * n, T, C) of x (B, C, h, w)."""
    b, c, h, w = x.shape
    m, o, (rows, columns), count = tile.m, len(weight), tile.counts(h, w), len(tile.to_input)
    inputs = x.new_empty(count, b * rows * columns * c)
    step = max(1, FLOATS // (rows * columns * count * c))  # maps at a time
    for part, target in zip(x.split(step), inputs.split(step * rows * columns * c, dim=1), strict=True):
        torch.mm(tile.to_input, squares(part, m + 2, m, 1), out=target)
    inputs = inputs.view(count, -1, c)
    kernels = (tile.to_kernel @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(count, o, c)
    products = torch.bmm(inputs, kernels.transpose(1, 2))  # (n * n, T, O)
    y = (tile.to_output @ products.view(count, -1)).view(m, m, b, rows, columns, o)
    y = y.permute(2, 3, 0, 4, 1, 5).reshape(b, m * rows, m * columns, o)[:, :h, :w].contiguous()
    return y.permute(0, 3, 1, 2), inputs


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution with stride 1 and padding 1, in float32 on the CPU, also under autocast.

    Args:
        x: (B, C, h, w), channels last in memory.
        weight: (O, C, 3, 3).
        bias: (O,), or None.

    Returns: (B, O, h, w), channels last; within about 1e-5 of the largest value of the direct convolution.
    """
    return Conv3x3.apply(x, weight, bias)


class FastConv2d(nn.Conv2d):
    """A 3x3 convolution (padding 1, stride 1) that takes the Winograd path where a CPU gains by it.

    In float32 that is faster than bfloat16 with all products, except on CPUs with matrix units. Few maps are not worth
    the transform of the kernels; many go in parts or, where gradients would keep all parts in memory, PyTorch's way.
    """

    MIN_POSITIONS = 512
    MAX_INPUTS = 88_000_000  # transformed inputs with gradients, which take 350 MB
    MAX_PRODUCTS = 26_000  # per channel pair at a time, without gradients

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        if b * h * w < self.MIN_POSITIONS or not wants_float32(x):
            return super().forward(x)
        per_map = best_tile(h, w).products(h, w)
        if not torch.is_grad_enabled() and per_map <= self.MAX_PRODUCTS:
            parts = x.split(self.MAX_PRODUCTS // per_map)
            return torch.cat([conv3x3(part, self.weight, self.bias) for part in parts])
        if b * per_map * self.in_channels <= self.MAX_INPUTS:
            return conv3x3(x, self.weight, self.bias)
        return super().forward(x)


def wants_float32(x: Tensor) -> bool:
    """Whether float32 Winograd is the faster arithmetic for these maps: on CPUs without bfloat16 matrix units."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return x.device.type == "cpu" and x.dtype == torch.float32
    return cpu_has("avx512_bf16") and not cpu_has("amx_bf16")


def accelerate(model: nn.Module) -> nn.Module:
    """Replaces the trained 3x3 convolutions (stride 1, padding 1) of `model` by `FastConv2d`; returns the model.

    Parameters, their names and torch's random state stay as they are.
    """
    for parent in model.modules():
        for name, conv in parent.named_children():
            plain = type(conv) is nn.Conv2d and conv.kernel_size == (3, 3) and conv.stride == conv.padding == (1, 1)
            if plain and conv.groups == 1 and conv.dilation == (1, 1) and conv.weight.requires_grad:
                fast = FastConv2d(
                    conv.in_channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None, device="meta"
                )
                fast.weight, fast.bias = conv.weight, conv.bias
                setattr(parent, name, fast.train(conv.training))
    return model
