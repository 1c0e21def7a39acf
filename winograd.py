"""3x3 convolutions with a quarter to a third of the multiplications (Lavin and Gray 2015, https://arxiv.org/abs/1509.09308).

F(4x4, 3x3): a tile of 4x4 outputs needs 36 products a channel pair instead of 144. All products are one batched matrix
product, which runs near a CPU's peak; the transforms before and behind it are small matrix products too. Gradients are
autograd's.
"""

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


def both_ways(matrix: list[list[float]]) -> Tensor:
    """The matrix for rows and columns of a flattened square at once."""
    return torch.kron(torch.tensor(matrix), torch.tensor(matrix))


TO_INPUT, TO_KERNEL, TO_OUTPUT = both_ways(INPUT), both_ways(KERNEL), both_ways(OUTPUT)  # (36, 36), (36, 9), (16, 36)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution with stride 1 and padding 1, in float32 on the CPU.

    Args:
        x: (B, C, h, w), channels last in memory.
        weight: (O, C, 3, 3).
        bias: (O,).

    Returns: (B, O, h, w), channels last; it differs from the direct sum by about 1e-5 of the largest value.
    """
    b, c, h, w = x.shape
    o, rows, columns = len(weight), -(-h // 4), -(-w // 4)  # tiles
    x = nn.functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + 4 * columns - w, 1, 1 + 4 * rows - h))
    tiles = x.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3).reshape(36, -1)  # (36, B * tiles * C)
    inputs = (TO_INPUT @ tiles).view(36, b * rows * columns, c)
    kernels = (TO_KERNEL @ weight.permute(2, 3, 1, 0).reshape(9, c * o)).view(36, c, o)
    products = torch.bmm(inputs, kernels)  # (36, B * tiles, O)
    squares = (TO_OUTPUT @ products.view(36, -1)).view(4, 4, b, rows, columns, o)
    y = squares.permute(2, 3, 0, 4, 1, 5).reshape(b, 4 * rows, 4 * columns, o)[:, :h, :w]
    return (y + bias).permute(0, 3, 1, 2)
