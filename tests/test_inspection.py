"""Statistics of layers, attributions that find a known place, and connections between layers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backbones.imagenet_weights import BackboneWeights
from figures.connections import connect, contributions, make_columns
from figures.network import stage_layers, stages
from figures.page import Scale
from hooks import layer_shapes, record
from inspection import attribution
from inspection.layer_names import as_maps, leaf_layers
from inspection.layer_stats import activity, histogram, kernel_tiles, most_active, to_unit_range
from model import ActionNet, build_model
from runtime.errors import InputError


@pytest.fixture(scope="module")
def net(untrained: BackboneWeights) -> ActionNet:
    torch.manual_seed(0)
    return build_model(untrained, num_classes=7).eval()


@pytest.fixture(scope="module")
def seen(net: ActionNet) -> dict[str, Tensor]:
    """Outputs of every layer for one image, and its logits under "logits"."""
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), record(net, [*leaf_layers(net), "base_model"]) as acts:
        net(image)
    return as_maps(acts)


def test_histogram_counts_every_value() -> None:
    values = torch.tensor([[-2.0, 0.0, 0.0, 1.0], [3.0, 0.5, float("inf"), float("nan")]])
    found = histogram(values, bins=5)
    assert (found["n"], found["not_finite"]) == (8, 2)
    assert sum(found["counts"]) == 6
    assert found["counts"] == [1, 0, 3, 1, 1]
    assert found["edges"] == pytest.approx([-2, -1, 0, 1, 2, 3])
    finite = np.array([-2, 0, 0, 1, 3, 0.5])
    assert (found["mean"], found["std"]) == pytest.approx((finite.mean(), finite.std()))
    assert (found["min"], found["max"], found["zeros"]) == (-2, 3, pytest.approx(2 / 6))


def test_histogram_of_a_whole_layer(seen: dict[str, Tensor]) -> None:
    for layer in ("base_model.bn1", "base_model.layer1.0.relu#1", "relu2"):
        found = histogram(seen[layer])
        assert sum(found["counts"]) == found["n"] == seen[layer].numel()
        assert found["zeros"] == pytest.approx((seen[layer] == 0).float().mean().item())
    assert histogram(torch.full((4,), float("nan")))["counts"] == [0] * 60


def test_kernel_tiles_are_the_weights() -> None:
    rgb, deep = nn.Conv2d(3, 5, 7), nn.Conv2d(6, 4, 3)
    tiles = kernel_tiles(rgb)
    assert tiles.shape == (5, 7, 7, 3)
    assert torch.equal(tiles[2, :, :, 1], rgb.weight[2, 1])
    grouped = nn.Conv2d(6, 4, 3, groups=2)  # three input channels each, but no RGB
    assert torch.equal(kernel_tiles(grouped, "first"), grouped.weight.detach()[:, 0])
    weight = deep.weight.detach()
    assert torch.equal(kernel_tiles(deep, "first"), weight[:, 0])
    assert torch.allclose(kernel_tiles(deep, "mean"), weight.mean(1))
    assert torch.allclose(kernel_tiles(deep, "norm"), weight.square().sum(1).sqrt())


def test_kernel_tiles_are_scaled_one_by_one() -> None:
    tiles = torch.tensor([[[1.0, 3.0], [2.0, 1.0]], [[-10.0, 0.0], [10.0, 0.0]], [[4.0, 4.0], [4.0, 4.0]]])
    expected = [[[0, 1], [0.5, 0]], [[0, 0.5], [1, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]
    assert torch.allclose(to_unit_range(tiles), torch.tensor(expected))


def test_most_active_channels_come_first() -> None:
    maps = torch.stack([torch.full((2, 2), value) for value in (0.5, -3.0, 0.0, 2.0)])
    assert activity(maps).tolist() == [0.5, 3, 0, 2]
    assert most_active(maps, 3) == [1, 3, 0]


def test_scales_clip_few_outliers() -> None:
    assert Scale.of(np.array([0.0, 1.0, 4.0])) == Scale("magma", 0, 4)
    assert Scale.of(np.array([-1.0, 4.0])) == Scale("RdBu_r", -4, 4)
    assert (Scale.of(np.zeros(3)).high, Scale.of(np.zeros(3)).range) == (1, "max 0")
    assert Scale.of(np.array([-1.0, 4.0])).range == "±4"
    clipped = Scale.of(np.array([0.5] * 9_999 + [100.0]))
    assert (clipped.high, clipped.range) == (0.5, "over 0.5")


class PatchNet(nn.Module):
    """Logit 0 is how red the image is, logit 1 how blue; the convolution is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False).requires_grad_(False)
        self.conv.weight.data = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]]).view(2, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(2, 2, bias=False)
        self.fc.weight.data = torch.eye(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


def planted() -> Tensor:
    """An image with a red patch at the upper left and a blue one at the lower right."""
    image = torch.zeros(3, 28, 28)
    image[0, 4:12, 4:12] = 1
    image[2, 16:24, 16:24] = 1
    return image


def share_inside(values: Tensor, place: slice) -> float:
    positive = values.clamp(min=0)
    return (positive[place, place].sum() / positive.sum()).item()


@pytest.mark.parametrize("target", [0, 1])
def test_attributions_find_the_planted_patch(target: int) -> None:
    model, image = PatchNet().eval(), planted()
    place = (slice(4, 12), slice(16, 24))[target]
    wider = (slice(0, 16), slice(12, 28))[target]
    for layer in ("conv", "relu"):
        found = attribution.grad_cam(model, layer, image, target)
        assert found.shape == (28, 28)
        assert found.min() >= 0
        assert share_inside(found, place) > 0.99, layer
    gradients = attribution.integrated_gradients(model, image, [0, 1])
    assert share_inside(gradients[target], place) > 0.99
    assert gradients[target].sum().item() == pytest.approx(model(image[None])[0, target].item(), rel=1e-3)
    falls = attribution.occlusion(model, image, [0, 1])
    assert falls.shape == (2, 28, 28)
    assert share_inside(falls[target], wider) > 0.95
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_attributions_reach_through_the_frozen_backbone(net: ActionNet) -> None:
    image = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(4))
    for layer in ("base_model", "relu2"):
        assert any(attribution.grad_cam(net, layer, image, target).max() > 0 for target in range(7)), layer
    assert attribution.integrated_gradients(net, image, [3]).abs().max() > 0


def test_columns_connected_one_to_one_show_the_same_channels(net: ActionNet, seen: dict[str, Tensor]) -> None:
    specs = ["kernels:base_model.layer1.0.conv2", "base_model.layer1.0.relu#2", "base_model", "kernels:conv1", "conv1",
             "relu1", "kernels:conv2", "relu2"]  # fmt: skip
    columns = make_columns(net, specs, seen, rows=5)
    assert [column.spec for column in columns] == specs
    assert columns[0].channels == columns[1].channels == tuple(most_active(seen["base_model.layer1.0.relu#2"], 5))
    assert columns[3].channels == columns[4].channels == columns[5].channels == tuple(most_active(seen["relu1"], 5))
    connections = [connect(net, left, right, seen) for left, right in zip([None, *columns[:-1]], columns, strict=True)]
    assert [connection.one_to_one for connection in connections] == [False, True, False, False, True, True, False, True]
    assert [connection.skipped for connection in connections] == [2, 0, 46, 0, 0, 0, 0, 0]
    row, left = columns[3].channels[1], columns[2].channels[4]
    assert connections[3].weights[1, 4] == pytest.approx(net.conv1.weight[row, left].norm().item(), rel=1e-5)
    assert connections[2].weights is None  # more than one convolution lies between


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (("conv1", "base_model.layer2.0.conv2"), r"layer base_model.layer2.0.conv2: does not come after conv1"),
        (("conv1", "conv1"), r"layer conv1: does not come after conv1"),
        (("conv1", "kernels:conv1"), r"layer kernels:conv1: does not come after conv1"),
        (("base_model.layer1.0.bn3", "base_model.layer1.0.downsample.0"), r"lies on a shortcut"),
        (("relu1#2",), r"layer relu1#2: called only 1 times"),
    ],
)
def test_columns_must_follow_the_order_of_the_network(
    net: ActionNet, seen: dict[str, Tensor], specs: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_columns(net, specs, seen, rows=5)


def test_one_output_under_two_names_is_connected_one_to_one(net: ActionNet, seen: dict[str, Tensor]) -> None:
    columns = make_columns(net, ["base_model.layer4.2.relu#3", "base_model"], seen, rows=4)
    assert torch.equal(columns[0].maps, columns[1].maps)
    assert connect(net, *columns, seen).one_to_one
    assert contributions(net, columns[-1], seen) is None  # the head lies between it and the classes


def test_logit_contributions_add_up_to_the_logits(net: ActionNet, seen: dict[str, Tensor]) -> None:
    columns = make_columns(net, ["relu2"], seen, rows=256)
    logits = contributions(net, columns[-1], seen).sum(axis=1) + net.fc.bias.detach().numpy()
    assert logits == pytest.approx(seen["fc"][:, 0, 0].numpy(), abs=1e-5)
    assert contributions(net, make_columns(net, ["relu1"], seen, rows=5)[-1], seen) is None


def test_stages_of_the_drawing_hold_every_parameter_once(net: ActionNet) -> None:
    rows = stages(net, layer_shapes(net, torch.zeros(1, 3, 64, 64), stage_layers(net)))
    assert sum(row["parameters"] for row in rows) == sum(parameter.numel() for parameter in net.parameters())
    assert sum(row["trained"] for row in rows) == sum(parameter.numel() for parameter in net.trained_parameters()[0])
    by_name = {row["name"]: row for row in rows}
    assert by_name["base_model.layer4"]["output"] == [2048, 2, 2]
    assert by_name["base_model.layer4"]["trained"] == 0
    assert by_name["conv1"]["output"] == [512, 2, 2]
    assert by_name["conv1"]["parts"] == ["channel_dropout", "conv1", "bn1", "relu1"]
    assert by_name["fc"]["output"] == [7]
