"""The network: shapes, names, and a backbone that nothing moves."""

from pathlib import Path

import pytest
import torch
from torch import nn

import model as model_module
from backbones.imagenet_weights import BackboneWeights
from layers import conv3x3
from model import ActionNet, MapConv2d, build_model, resnet50_with_stride_on
from runtime.errors import InputError
from training import checkpoint


def test_layers_and_shapes() -> None:
    model = ActionNet(7)
    names = dict(model.named_modules())
    for name in ("base_model.conv1", "base_model.layer1.0.conv1", "base_model.layer4.2.bn3", "conv1", "bn1", "relu1"):
        assert name in names
    assert [m.weight.shape for m in (model.conv1, model.conv2, model.fc)] == [
        (512, 2048, 3, 3),
        (256, 512, 3, 3),
        (7, 256),
    ]
    model.eval()
    with torch.inference_mode():
        images = torch.randn(2, 3, 96, 96)
        maps = model.base_model(images)
        assert maps.shape == (2, 2048, 3, 3)
        assert model(images).shape == (2, 7)
        torch.testing.assert_close(model(images), model.head(maps))


@pytest.mark.parametrize(
    ("unfreeze", "shape"), [("none", (2048, 2, 2)), ("layer4", (1024, 4, 4)), ("layer3", (512, 8, 8))]
)
def test_what_is_frozen_stands_still_in_training(
    untrained: BackboneWeights, unfreeze: str, shape: tuple[int, ...]
) -> None:
    model = build_model(untrained, 3, dropout=0.3, channel_dropout=0.2, unfreeze=unfreeze)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.Adam([p for group in model.trained_parameters() for p in group], lr=1e-2)
    for _ in range(3):
        model.train()
        loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 1, 2, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    stages = {"none": (), "layer4": ("layer4",), "layer3": ("layer3", "layer4")}[unfreeze]
    for name, value in model.state_dict().items():
        inside = name.startswith(tuple(f"base_model.{stage}." for stage in stages))
        moves = not name.startswith("base_model.") or (inside and value.dim() == 4)  # of a stage, the kernels
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, before[name]) != moves, name
    model.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        maps = model.frozen(images)
        assert maps.shape[1:] == shape
        assert model.map_shape(64) == shape[:2]
        torch.testing.assert_close(model.rest(maps.clone()), model(images), rtol=1e-3, atol=1e-4)
    assert len(model.trained_parameters()) == 1 + len(stages)


def test_gradients_reach_the_picture() -> None:
    model = ActionNet(3).eval()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    model(images)[0, 1].backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("count", "height", "width"),
    [(600, 1, 1), (40, 4, 4), (25, 5, 5), (20, 7, 7), (8, 10, 10), (16, 6, 12), (8, 9, 11)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_with_fewer_products_is_the_convolution(
    count: int, height: int, width: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv3x3, "FLOATS", 20_000)  # some maps at a time
    ours = MapConv2d(24, 16, bias).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(24, 16, 3, padding=1, bias=bias)
    plain.load_state_dict(ours.state_dict())
    assert count * height * width >= MapConv2d.LEAST
    assert count * conv3x3.best_tile(height, width).products(height, width) * 24 <= MapConv2d.MOST
    results = []
    for conv in (ours, plain):
        x = torch.randn(count, 24, height, width, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = conv(x.contiguous(memory_format=torch.channels_last))
        (y**2).sum().backward()
        results.append((y, x.grad, *(parameter.grad for parameter in conv.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


def test_many_maps_go_in_parts_and_autocast_costs_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "cpu_has", lambda *names: "avx512_bf16" in names)
    monkeypatch.setattr(MapConv2d, "LEAST", 64)
    monkeypatch.setattr(MapConv2d, "PART", 400)
    conv = MapConv2d(24, 16)
    x = torch.randn(41, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, large = conv(x), conv(x[:2].repeat(1, 1, 3, 3))  # 1024 products a map, more than go at a time
    expected = nn.functional.conv2d(x, conv.weight, conv.bias, padding=1)
    assert found.dtype == torch.float32  # bfloat16 would be some 0.004 off
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    torch.testing.assert_close(large[:, :, :7, :7].float(), expected[:2, :, :7, :7], rtol=0.05, atol=0.05)
    weight = torch.autograd.grad(conv(x[:5]).square().sum(), conv.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = conv(x[:5].bfloat16().float()).square().sum()
    torch.testing.assert_close(
        torch.autograd.grad(loss, conv.weight)[0], weight, rtol=0.02, atol=0.02 * weight.abs().max()
    )


def test_stride_convention() -> None:
    old, new = resnet50_with_stride_on("conv1"), resnet50_with_stride_on("conv2")
    assert (old.layer3[0].conv1.stride, old.layer3[0].conv2.stride) == ((2, 2), (1, 1))
    assert (new.layer3[0].conv1.stride, new.layer3[0].conv2.stride) == ((1, 1), (2, 2))
    assert old.layer1[0].conv1.stride == old.layer1[0].conv2.stride == (1, 1)
    with pytest.raises(ValueError, match="conv3"):
        resnet50_with_stride_on("conv3")


def test_runs_on_pictures_cut_in_another_way_are_refused(tmp_path: Path) -> None:
    record = {"classes": ["run", "sit"], "image_size": 64, "preprocessing": checkpoint.preprocessing(64)}
    checkpoint.save_best(tmp_path, ActionNet(2), record, {})
    assert checkpoint.load_model(tmp_path, torch.device("cpu"))[1] == record
    record["preprocessing"] = record["preprocessing"] | {"resize": "the middle square of 7/8 of the short side to 64"}
    checkpoint.save_best(tmp_path, ActionNet(2), record, {})
    with pytest.raises(InputError, match=r"best\.pt: trained on pictures cut out in another way, before this version"):
        checkpoint.load_model(tmp_path, torch.device("cpu"))
