"""Layers: Winograd convolutions equal PyTorch's, and replacing layers changes no parameter."""

import pytest
import torch
from torch import nn

from features.engines import TorchEngine
from layers import conv3x3
from layers.conv3x3 import FastConv2d, accelerate
from layers.fused import fuse_resnet
from model import ActionNet


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


def varied_resnet(stride_on: str) -> ActionNet:
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    model = ActionNet(3, stride_on).eval()
    for norm in (module for module in model.base_model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(norm.weight, 0.2, 0.6)
        nn.init.normal_(norm.bias)
    return model


@pytest.mark.parametrize("stride_on", ["conv1", "conv2"])
@pytest.mark.parametrize("stages", [4, 5, 8])
def test_fused_resnet_computes_what_its_layers_do(stride_on: str, stages: int) -> None:
    network, images = varied_resnet(stride_on).base_model[:stages], torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        expected, found = network(images), fuse_resnet(network, torch.float32)(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_other_networks_are_not_fused() -> None:
    assert fuse_resnet(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.float32) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cuda_features_point_where_those_of_the_cpu_do(dtype: torch.dtype) -> None:
    network, images = varied_resnet("conv1").base_model, torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)
    expected = TorchEngine(network, torch.device("cpu"), torch.float32)(images)
    found = TorchEngine(network.cuda(), torch.device("cuda"), dtype)(images).float().cpu()
    assert nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1)).min() > 0.99
