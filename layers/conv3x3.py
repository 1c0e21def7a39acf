"""3x3 convolutions with a fifth to a third of the multiplications (Lavin and Gray 2015, https://arxiv.org/abs/1509.09308).

F(m x m, 3x3): a tile of m x m outputs needs (m + 2)^2 products a channel pair instead of 9 m^2. All products are one
batched matrix product, which runs near a CPU's peak; the transforms before and behind it are small matrix products too.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

POINTS = (0, 1, -1, 2, -0.5, 0.5, -2)  # F(m x m) takes the first m + 1; more or others would cost digits
FLOATS = 1 << 22  # of inputs that are cut into tiles at a time: their copies stay in a CPU's cache


class Tile(NamedTuple):
    """The transforms of F(m x m, 3x3) for flattened squares, with n = m + 2."""

    m: int
    to_input: Tensor  # (n * n, n * n)
    to_kernel: Tensor  # (n * n, 9)
    to_output: Tensor  # (m * m, n * n)

    def counts(self, h: int, w: int) -> tuple[int, int]:
        """Rows and columns of tiles that cover a map."""
        return -(-h // self.m), -(-w // self.m)

    def products(self, h: int, w: int) -> int:
        return math.prod(self.counts(h, w)) * len(self.to_input)


def make_tile(m: int) -> Tile:
    """By Cook and Toom: polynomials are multiplied by their values at m + 1 points and at infinity (section 4)."""
    points = torch.tensor(POINTS[: m + 1], dtype=torch.float64)
    n = m + 2
    to_input, to_kernel, to_output = torch.zeros(n, n), torch.zeros(n, 3), torch.zeros(m, n)
    for row, point in enumerate(points):
        others = torch.cat([points[:row], points[row + 1 :]])
        to_input[row, :-1] = coefficients(others)
        to_kernel[row] = point ** torch.arange(3) / (point - others).prod()
        to_output[:, row] = point ** torch.arange(m)
    to_input[-1] = coefficients(points)
    to_kernel[-1, -1] = to_output[-1, -1] = 1
    return Tile(m, *(torch.kron(matrix, matrix) for matrix in (to_input, to_kernel, to_output)))


def coefficients(roots: Tensor) -> Tensor:
    """Of the polynomial with these roots, from that of x^0 on."""
    values = torch.ones(1, dtype=roots.dtype)
    for root in roots:
        values = nn.functional.pad(values, (1, 0)) - root * nn.functional.pad(values, (0, 1))
    return values


TILES = [make_tile(m) for m in (4, 5, 6)]


def best_tile(h: int, w: int) -> Tile:
    """The one with the fewest products for maps of that size."""
    return min(TILES, key=lambda tile: tile.products(h, w))


class Conv3x3(torch.autograd.Function):
    """Written out with its gradients, since those that autograd derives copy large matrices only to transpose them."""

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
        of_weight = (tile.to_kernel.T @ kernels.view(len(inputs), -1)).view(3, 3, o, c).permute(2, 3, 0, 1)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = convolve(grad, weight.flip(2, 3).transpose(0, 1), tile)[0]
        return of_x, of_weight, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


def squares(x: Tensor, size: int, step: int, before: int) -> Tensor:
    """Cuts maps (B, C, h, w) into squares of `size` that begin `step` apart: (size * size, B * squares * C)."""
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
    step = max(1, FLOATS // (rows * columns * count * c))  # maps
    for part, place in zip(x.split(step), inputs.split(step * rows * columns * c, dim=1), strict=True):
        torch.mm(tile.to_input, squares(part, m + 2, m, 1), out=place)
    inputs = inputs.view(count, -1, c)
    kernels = (tile.to_kernel @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(count, o, c)
    products = torch.bmm(inputs, kernels.transpose(1, 2))  # (n * n, T, O)
    y = (tile.to_output @ products.view(count, -1)).view(m, m, b, rows, columns, o)
    y = y.permute(2, 3, 0, 4, 1, 5).reshape(b, m * rows, m * columns, o)[:, :h, :w].contiguous()
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
