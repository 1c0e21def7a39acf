"""The network: shapes, names, and a frozen backbone that training does not change."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet as torchvision_resnet
from torchvision.models import resnet50

from backbones.imagenet_weights import BackboneWeights
from backbones.resnet import ResNet50
from model import ActionNet, build_model


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
        features = model.base_model(images)
        assert features.shape == (2, 2048, 3, 3)
        assert model(images).shape == (2, 7)
        torch.testing.assert_close(model(images), model.head(features))


@pytest.mark.parametrize(
    ("unfreeze", "shape"), [("none", (2048, 2, 2)), ("layer4", (1024, 4, 4)), ("layer3", (512, 8, 8))]
)
def test_training_changes_nothing_that_is_frozen(
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
        features = model.frozen(images)
        assert features.shape[1:] == shape
        assert model.feature_shape(64) == shape[:2]
        torch.testing.assert_close(model.from_features(features.clone()), model(images), rtol=1e-3, atol=1e-4)
    assert len(model.trained_parameters()) == 1 + len(stages)


def test_gradients_reach_the_image() -> None:
    model = ActionNet(3).eval()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    model(images)[0, 1].backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("stride_on", ["conv1", "conv2"])
def test_resnet50_is_torchvisions_bit_for_bit(stride_on: str) -> None:
    nets = []
    for make in (lambda: ResNet50(stride_on), resnet50):
        torch.manual_seed(0)
        nets.append(make().eval())
    ours, theirs = nets
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    for block in theirs.modules():
        if isinstance(block, torchvision_resnet.Bottleneck) and stride_on == "conv1":
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        for part in ("layer1", "layer4", "fc"):
            torch.testing.assert_close(outputs(ours, part, images), outputs(theirs, part, images), rtol=0, atol=0)
    ours.train(), theirs.train()
    for net in nets:  # the gradients too
        net(images).logsumexp(1).sum().backward()
    for ours_, theirs_ in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours_.grad, theirs_.grad)


def outputs(net: nn.Module, part: str, images: torch.Tensor) -> torch.Tensor:
    """The outputs of a child."""
    kept = []
    with getattr(net, part).register_forward_hook(lambda module, inputs, output: kept.append(output.clone())):
        net(images)
    return kept[0]


def test_an_unknown_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="conv3"):
        ResNet50("conv3")
