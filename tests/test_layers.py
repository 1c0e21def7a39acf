"""Layers: Winograd convolutions equal PyTorch's, and replacing layers changes no parameter."""

import pytest
import torch
from torch import nn

from layers import conv3x3
from layers.conv3x3 import FastConv2d, accelerate


@pytest.mark.parametrize(
    ("count", "height", "width"),
    [(600, 1, 1), (40, 4, 4), (25, 5, 5), (20, 7, 7), (8, 10, 10), (16, 6, 12), (8, 9, 11)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_winograd_convolution_equals_pytorchs(
    count: int, height: int, width: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv3x3, "FLOATS", 20_000)  # a few maps at a time
    ours = FastConv2d(24, 16, 3, padding=1, bias=bias).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(24, 16, 3, padding=1, bias=bias)
    plain.load_state_dict(ours.state_dict())
    assert count * height * width >= FastConv2d.MIN_POSITIONS
    assert count * conv3x3.best_tile(height, width).products(height, width) * 24 <= FastConv2d.MAX_INPUTS
    results = []
    for conv in (ours, plain):
        x = torch.randn(count, 24, height, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = conv(x.contiguous(memory_format=torch.channels_last))
        (y**2).sum().backward()
        results.append((y, x.grad, *(parameter.grad for parameter in conv.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


def test_many_maps_go_in_parts_and_autocast_keeps_float32_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv3x3, "cpu_has", lambda *names: "avx512_bf16" in names)
    monkeypatch.setattr(FastConv2d, "MIN_POSITIONS", 64)
    monkeypatch.setattr(FastConv2d, "MAX_PRODUCTS", 400)
    conv = FastConv2d(24, 16, 3, padding=1)
    x = torch.randn(41, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, large = conv(x), conv(x[:2].repeat(1, 1, 3, 3))  # 1024 products per map, more than go at a time
    expected = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    assert found.dtype == torch.float32  # bfloat16 would be off by about 0.004
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    torch.testing.assert_close(large[:, :, :7, :7].float(), expected[:2, :, :7, :7], rtol=0.05, atol=0.05)
    weight = torch.autograd.grad(conv(x[:5]).square().sum(), conv.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = conv(x[:5].bfloat16().float()).square().sum()
    torch.testing.assert_close(
        torch.autograd.grad(loss, conv.weight)[0], weight, rtol=0.02, atol=0.02 * weight.abs().max()
    )


def test_accelerate_replaces_trained_3x3_convolutions_and_keeps_their_parameters() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, stride=2)),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False),
    ).eval()
    before, state = dict(model.named_parameters()), torch.get_rng_state()
    kinds = [type(layer) for layer in accelerate(model).modules() if isinstance(layer, nn.Conv2d)]
    assert kinds == [FastConv2d, FastConv2d, *[nn.Conv2d] * 5]
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert list(before) == [name for name, _ in model.named_parameters()]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(layer.training for layer in model.modules())
