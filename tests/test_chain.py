"""The chain of columns: same outputs as the network, contributions that add up, channels switched off."""

import pytest
import torch
from torch import Tensor

from figures.connections import Column, contributions
from hooks import record
from inspection.attribution import grad_cam
from inspection.chain import INPUT, Chain, shares
from model import ActionNet


@pytest.fixture(scope="module")
def chain() -> Chain:
    torch.manual_seed(0)
    return Chain(ActionNet(5))


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_outputs_are_those_of_the_layers(chain: Chain, image: Tensor) -> None:
    names = [column.name for column in chain.columns][1:]
    assert names == ["base_model.relu", *(f"base_model.layer{n}" for n in (1, 2, 3, 4)), "relu1", "relu2"]
    outputs, logits = chain.outputs(image)
    with torch.no_grad(), record(chain.model, names) as acts:
        assert torch.equal(chain.model(image), logits)
    assert all(torch.equal(outputs[name], acts[name]) for name in names)
    convs = [column.conv for column in chain.columns]
    assert convs[1:3] == ["base_model.conv1", "base_model.layer1.2.conv3"]
    assert convs[-2:] == ["conv1", "conv2"]


@pytest.mark.parametrize("column", ["base_model.relu", "base_model.layer3", "relu1"])
def test_contributions_add_up_to_the_slope_along_the_channels(chain: Chain, image: Tensor, column: str) -> None:
    outputs, _ = chain.outputs(image)
    before, end = chain.by_name[chain.previous(column)], chain.by_name[column].end
    channels = outputs[column].sum((2, 3))[0].topk(2).indices.tolist()
    found = chain.contributions(outputs, column, channels)
    with torch.no_grad():  # a piecewise linear function changes by its linear part where all inputs grow by a share
        share = 1e-3
        more, less = (
            chain.run(outputs[before.name] * factor, before.end, end).double() for factor in (1 + share, 1 - share)
        )
    slope = ((more - less).sum((2, 3))[0, channels] / (2 * share)).float()
    assert torch.allclose(found.sum(1), slope, rtol=0.02)
    assert torch.allclose(shares(found).abs().sum(1), torch.ones(2))
    assert not shares(torch.zeros(3)).any()


def test_without_biases_contributions_add_up_to_the_value(image: Tensor) -> None:
    torch.manual_seed(0)
    model = ActionNet(5)
    for name, value in model.state_dict().items():
        if name.endswith((".bias", ".running_mean")):
            value.zero_()
    chain = Chain(model)
    outputs, logits = chain.outputs(image)
    for column in ("base_model.layer1", "base_model.layer4", "relu2"):
        channels = outputs[column].sum((2, 3))[0].topk(2).indices.tolist()
        values = outputs[column].sum((2, 3))[0, channels]
        assert torch.allclose(chain.contributions(outputs, column, channels).sum(1), values, rtol=1e-4)
        assert torch.allclose(
            chain.logit_contributions(outputs, column, range(5)).sum(1), logits[0], rtol=1e-3, atol=1e-6
        )


def test_contributions_to_logits_are_those_of_the_grid(chain: Chain, image: Tensor) -> None:
    outputs, logits = chain.outputs(image)
    found = chain.logit_contributions(outputs, "relu2", range(5))
    with torch.no_grad(), record(chain.model, ["relu2", "avgpool", "dropout", "fc"]) as acts:
        chain.model(image)
    acts = {name: values[0] if values.dim() == 4 else values[0, :, None, None] for name, values in acts.items()}
    column = Column("relu2", "relu2", chain.model.relu2, acts["relu2"], tuple(range(256)))
    assert torch.allclose(found, torch.from_numpy(contributions(chain.model, column, acts)), atol=1e-6)
    assert torch.allclose(found.sum(1) + chain.model.fc.bias, logits[0], atol=1e-5)


def test_a_channel_switched_off_is_zero_and_changes_what_follows_alone(chain: Chain, image: Tensor) -> None:
    original, logits = chain.outputs(image)
    channel = int(original["base_model.layer4"].sum((2, 3)).argmax())
    changed, other = chain.outputs(image, {"base_model.layer4": {channel: 0.0}}, original)
    assert changed["base_model.layer3"] is original["base_model.layer3"]
    assert not changed["base_model.layer4"][:, channel].any()
    assert original["base_model.layer4"][:, channel].any()
    assert not torch.equal(logits, other)
    handle = chain.model.base_model.layer4.register_forward_hook(
        lambda module, inputs, output: output.index_fill(1, torch.tensor([channel]), 0)
    )
    with torch.no_grad(), handle:
        assert torch.allclose(chain.model(image), other, atol=1e-6)
    assert torch.equal(chain.outputs(image, {"relu1": {3: 1.0}})[1], logits)


@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny_patch16_224"])
def test_other_backbones_are_one_column(backbone: str) -> None:
    chain = Chain(ActionNet(3, backbone=backbone, size=224))
    outputs, logits = chain.outputs(torch.randn(1, 3, 224, 224))
    assert [column.name for column in chain.columns] == [INPUT, "base_model.network", "relu1", "relu2"]
    assert [column.conv for column in chain.columns] == [None, None, "conv1", "conv2"]
    found = chain.contributions(outputs, "relu1", [1, 2])
    assert found.shape == (2, outputs["base_model.network"].shape[1])
    assert logits.shape == (1, 3)


def test_grad_cam_of_the_tail_is_that_of_the_network(chain: Chain, image: Tensor) -> None:
    outputs, _ = chain.outputs(image)
    small = grad_cam(chain.tail("relu1"), "input", outputs["relu1"][0], 2)
    whole = grad_cam(chain.model, "relu1", image[0], 2)
    large = torch.nn.functional.interpolate(small[None, None], (64, 64), mode="bilinear")[0, 0]
    assert torch.allclose(large, whole, atol=1e-7 + 1e-4 * whole.max().item())
    assert chain.tail(INPUT)(image).shape == (1, 5)
