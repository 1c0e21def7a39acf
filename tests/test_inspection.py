"""Statistics of layers, attributions that find a known place, and connections between layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs
from torch import Tensor, nn

from backbones.imagenet_weights import BackboneWeights
from dataset import Sample
from figures.connections import connect, contributions, make_columns, shown_values
from figures.example import attribution_scale
from figures.network import stage_layers, stages
from figures.page import ASCENT, LINE, Page, Scale
from hooks import layer_shapes, record
from inspection import attribution
from inspection.channels import activity, most_active, ranking_layer
from inspection.examples import file_example, load_example
from inspection.layer_names import as_maps, leaf_layers
from inspection.layer_stats import histogram, kernel_slices, kernel_tiles, strongest_inputs
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


def test_strongest_slices_are_signed_weights() -> None:
    conv = nn.Conv2d(4, 2, 3)
    weight = torch.tensor([[1.0, -5.0, 0.0, 3.0], [2.0, 0.5, -4.0, 0.0]])
    conv.weight.data = weight[:, :, None, None].expand(-1, -1, 3, 3)
    assert strongest_inputs(conv, 3).tolist() == [[1, 3, 0], [2, 0, 1]]
    assert kernel_slices(conv, strongest_inputs(conv, 2))[:, :, 1, 1].tolist() == [[-5, 3], [-4, 2]]
    assert kernel_tiles(conv, "strongest")[:, 0, 0].tolist() == [-5, -4]
    assert strongest_inputs(conv, 9).shape == (2, 4)
    grouped = nn.Conv2d(4, 4, 1, groups=2)  # outputs 2 and 3 see the input channels 2 and 3
    grouped.weight.data = torch.tensor([[1.0, 2.0], [-2.0, 1.0], [1.0, -2.0], [2.0, 1.0]])[:, :, None, None]
    assert strongest_inputs(grouped, 1)[:, 0].tolist() == [1, 0, 3, 2]
    assert kernel_slices(grouped, strongest_inputs(grouped, 1)).flatten().tolist() == [2, -2, -2, 2]


def test_kernels_of_a_page_share_one_scale() -> None:
    """A kernel whose values differ by a few per cent stays nearly one colour, and 0 is white, or grey in RGB."""
    tiles = np.array([[[1.0, 1.07], [1.0, 1.0]], [[-2.0, 0.0], [2.0, 0.0]]])
    scale = Scale.of_kernels(tiles)
    assert (scale.low, scale.high, scale.zero) == (-2, 2, "white")
    assert scale.share(tiles[0]).flatten() == pytest.approx([0.75, 0.7675, 0.75, 0.75])
    assert scale.colour(tiles[1])[0, 1] == pytest.approx([0.97, 0.97, 0.97], abs=0.01)
    assert Scale.of_kernels(np.abs(tiles)).zero == "white"  # also where no weight shown is negative
    norms = Scale.of_kernels(np.abs(tiles), signed=False)
    assert (norms.low, norms.high, norms.zero) == (0, 2, "black")
    rgb = Scale.of_kernels(np.abs(np.stack([tiles] * 3, axis=-1)))
    assert (rgb.low, rgb.high, rgb.zero) == (-2, 2, "grey")
    assert rgb.share(np.zeros(1)) == 0.5


def test_most_active_channels_of_a_convolution_are_those_of_its_relu() -> None:
    """Channel 0 of the convolution has the largest absolute value and is zero behind the ReLU."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)).eval()
    model[0].weight.data, model[0].bias.data = torch.zeros(4, 1, 1, 1), torch.tensor([-9.0, 2.0, -1.0, 3.0])
    model[3].weight.data, model[3].bias.data = torch.zeros(2, 4, 1, 1), torch.tensor([1.0, -2.0])
    with torch.inference_mode(), record(model, leaf_layers(model)) as recorded:
        model(torch.ones(1, 1, 2, 2))
    acts = as_maps(recorded)
    assert activity(acts["0"]).tolist() == [9, 2, 1, 3]
    for layer in ("0", "1", "2"):
        assert ranking_layer(model, layer, acts) == "2"
        assert most_active(model, layer, acts, 2) == [3, 1], layer
    assert most_active(model, "3", acts, 2) == [1, 0]  # no ReLU follows
    assert make_columns(model, ["kernels:0"], acts, rows=2)[0].channels == (3, 1)


def test_convolutions_of_resnet_are_ranked_by_the_relu_after_them(net: ActionNet, seen: dict[str, Tensor]) -> None:
    block = "base_model.layer2.0"
    for layer, relu in (
        ("base_model.conv1", "base_model.relu"),
        (f"{block}.conv1", f"{block}.relu#1"),
        (f"{block}.bn2", f"{block}.relu#2"),
        (f"{block}.conv3", f"{block}.relu#3"),  # behind the addition of the shortcut
        (f"{block}.downsample.0", f"{block}.relu#3"),
        ("base_model.layer2.1.conv3", "base_model.layer2.1.relu#3"),
        ("conv1", "relu1"),
        ("conv2", "relu2"),
        ("base_model.maxpool", "base_model.maxpool"),
        ("base_model", "base_model"),
    ):
        assert ranking_layer(net, layer, seen) == relu
    shown = most_active(net, "conv1", seen, 24)
    assert shown == seen["relu1"].mean((1, 2)).argsort(descending=True)[:24].tolist()
    assert shown != activity(seen["conv1"]).argsort(descending=True)[:24].tolist()


def test_scales_clip_few_outliers() -> None:
    assert Scale.of(np.array([0.0, 1.0, 4.0])) == Scale("magma", 0, 4)
    assert Scale.of(np.array([-1.0, 4.0])) == Scale("RdBu_r", -4, 4)
    assert (Scale.of(np.zeros(3)).high, Scale.of(np.zeros(3)).range) == (1, "max 0")
    assert Scale.of(np.array([-1.0, 4.0])).range == "±4"
    clipped = Scale.of(np.array([0.5] * 9_999 + [100.0]))
    assert (clipped.high, clipped.range) == (0.5, "over 0.5")


def test_attribution_colours_end_below_single_large_pixels() -> None:
    """1 % of the pixels are a hundred times as large as the others; those still get colours."""
    values = np.tile(np.linspace(-1, 1, 100), 100)
    values[::100] = 100
    scale = attribution_scale(values.reshape(100, 100))
    assert scale.high == pytest.approx(1, abs=0.05)
    assert (scale.low, scale.largest) == (-scale.high, 100)
    assert (attribution_scale(np.eye(100)).low, attribution_scale(np.eye(100)).high) == (0, 1)  # 99 % are 0
    assert attribution_scale(np.zeros((4, 4))).high == 1


def test_titles_stand_at_one_height() -> None:
    page = Page(4, 2)
    for x, words in enumerate(("relu2", "base_model", "gradients (12)", "two\nlines")):
        page.text(x, 1, words)
    first, second = 1 + ASCENT * 9 / 72, 1 + (ASCENT + LINE) * 9 / 72
    assert [text.get_position()[1] for text in page.axes.texts] == pytest.approx([first] * 4 + [second])
    assert {text.get_va() for text in page.axes.texts} == {"baseline"}


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
    assert columns[0].channels == columns[1].channels == tuple(most_active(net, "base_model.layer1.0.relu#2", seen, 5))
    assert {column.channels for column in columns[3:6]} == {tuple(most_active(net, "relu1", seen, 5))}
    connections = [connect(net, left, right, seen) for left, right in zip([None, *columns[:-1]], columns, strict=True)]
    assert [connection.one_to_one for connection in connections] == [False, True, False, False, True, True, False, True]
    assert [connection.skipped for connection in connections] == [2, 0, 46, 0, 0, 0, 0, 0]
    row, left = columns[3].channels[1], columns[2].channels[4]
    assert connections[3].weights[1, 4] == pytest.approx(net.conv1.weight[row, left].norm().item(), rel=1e-5)
    assert connections[2].weights is None  # more than one convolution lies between
    norms = net.conv1.weight[columns[3].channels[0]].flatten(1).norm(dim=1)
    assert columns[3].labels[0] == f"{columns[3].channels[0]} ← {norms.argmax().item()}"
    slices = net.conv1.weight.detach()[list(columns[3].channels), columns[3].inputs[list(columns[3].channels), 0]]
    assert torch.equal(shown_values(columns[3], columns[3].maps), slices)


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


def test_test_images_are_named_by_their_index_and_other_files_by_their_path(tmp_path: Path) -> None:
    path = tmp_path / "train" / "run" / "a b.jpg"
    path.parent.mkdir(parents=True)
    blobs(1).save(path)
    tested = load_example(Sample("train/run/a b.jpg", path, "run"), 12, 64)
    assert (tested.label, tested.reference) == ("test image 12", "test image 12 (--index 12)")
    assert (tested.folder, tested.id, tested.name) == ("test_12_a_b", "12", "train/run/a b.jpg")
    other = file_example(path, 64)
    assert (other.label, other.reference, other.folder, other.id) == ("run/a b.jpg", str(path), "a_b", "a_b")
