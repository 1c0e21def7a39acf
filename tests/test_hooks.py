"""hooks.py: recordings and dumps equal a forward pass by hand, and leave nothing behind."""

import gc
import re
import weakref
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from backbones.imagenet_weights import BackboneWeights
from hooks import activation_frequency, record
from inspection.layer_names import as_maps, existing_layers, find_layer, friendly, leaf_layers
from model import ActionNet, build_model
from runtime.errors import InputError


@pytest.fixture(scope="module")
def net(untrained: BackboneWeights) -> ActionNet:
    torch.manual_seed(0)
    return build_model(untrained, num_classes=7).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Twice(nn.Module):
    """One in-place ReLU called twice, as in ResNet's blocks, behind a frozen convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 1).requires_grad_(False)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(x)))).mean((2, 3))


@torch.inference_mode()
def test_recording_equals_a_forward_pass_by_hand(net: ActionNet, images: Tensor) -> None:
    with record(net, leaf_layers(net)) as acts:
        net(images)
    base, block = net.base_model, net.base_model.layer1[0]
    by_hand = {"base_model.conv1": base.conv1(images)}
    by_hand["base_model.bn1"] = base.bn1(by_hand["base_model.conv1"])
    by_hand["base_model.relu"] = relu(by_hand["base_model.bn1"])
    x = by_hand["base_model.maxpool"] = base.maxpool(by_hand["base_model.relu"])
    name = "base_model.layer1.0."
    shortcut = by_hand[f"{name}downsample.1"] = block.downsample(x)
    for number, conv, norm in ((1, block.conv1, block.bn1), (2, block.conv2, block.bn2), (3, block.conv3, block.bn3)):
        by_hand[f"{name}conv{number}"] = conv(x)
        by_hand[f"{name}bn{number}"] = norm(conv(x))
        x = by_hand[f"{name}relu#{number}"] = relu(norm(conv(x)) + (shortcut if number == 3 else 0))
    maps = base(images)
    by_hand["conv1"] = net.conv1(maps)
    by_hand["bn1"] = net.bn1(by_hand["conv1"])
    by_hand["relu1"] = relu(by_hand["bn1"])
    by_hand["conv2"] = net.conv2(by_hand["relu1"])
    by_hand["relu2"] = relu(net.bn2(by_hand["conv2"]))
    by_hand["avgpool"] = by_hand["relu2"].mean((2, 3), keepdim=True)
    by_hand["fc"] = net.fc(by_hand["avgpool"].flatten(1))
    for layer, expected in by_hand.items():
        assert torch.allclose(acts[layer], expected, atol=1e-5), layer
    assert list(acts)[:7] == [
        "base_model.conv1", "base_model.bn1", "base_model.relu", "base_model.maxpool", f"{name}conv1", f"{name}bn1",
        f"{name}relu#1",
    ]  # fmt: skip


def test_in_place_relu_does_not_overwrite_the_recording_before_it(net: ActionNet, images: Tensor) -> None:
    before, after = "base_model.layer1.0.bn1", "base_model.layer1.0.relu"
    with record(net, [before, after]) as acts:
        net(images)
    assert list(acts) == [before, f"{after}#1", f"{after}#2", f"{after}#3"]
    assert (acts[before] < 0).any()
    assert torch.equal(acts[f"{after}#1"], acts[before].clamp(min=0))
    assert not torch.equal(acts[f"{after}#1"], acts[f"{after}#2"])


def test_one_call_of_a_reused_layer_can_be_recorded(net: ActionNet, images: Tensor) -> None:
    with record(net, ["base_model.layer1.0.relu#2"]) as acts:
        net(images)
    assert list(acts) == ["base_model.layer1.0.relu#2"]
    assert acts["base_model_layer1_block1_relu2"] is acts["base_model.layer1.0.relu#2"]
    with pytest.raises(InputError, match=r"relu#4: called only 3 times"), record(net, ["base_model.layer1.0.relu#4"]):
        net(images)


def test_every_forward_pass_fills_the_recording_anew(images: Tensor) -> None:
    model = Twice()
    with record(model, ["relu"]) as acts:
        model(images[:, :1])
        first = dict(acts)
        model(2 * images[:, :1])
    assert list(acts) == list(first) == ["relu#1", "relu#2"]
    assert not torch.equal(acts["relu#1"], first["relu#1"])


def test_gradients_pass_frozen_layers_and_in_place_relus() -> None:
    torch.manual_seed(3)
    model, labels = Twice(), torch.tensor([1])
    image = torch.randn(1, 1, 4, 4, requires_grad=True)
    with record(model, ["first", "relu", "second"], gradients=True) as acts:
        cross_entropy(model(image), labels).backward()
    steps = [model.first(image)]
    steps.append(relu(steps[0]))
    steps.append(model.second(steps[1]))
    steps.append(relu(steps[2]))
    expected = torch.autograd.grad(cross_entropy(steps[3].mean((2, 3)), labels), steps)
    for layer, gradient in zip(("first", "relu#1", "second", "relu#2"), expected, strict=True):
        assert gradient.abs().sum() > 0, layer
        assert torch.allclose(acts.gradients[layer], gradient, atol=1e-7), layer
    assert acts.gradients["relu2"] is acts.gradients["relu#2"]
    assert acts.gradients["second#1"] is acts.gradients["second"]


def test_no_hook_stays_after_the_block_or_an_exception(images: Tensor) -> None:
    model = Twice().train()
    model.first.eval()  # a frozen part in another mode than the rest
    modes = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), record(model, ["relu", "second"], gradients=True) as acts:
        model.eval()
        model(images[:, :1])
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    kept = acts["relu#1"].clone()
    model(5 * images[:, :1])
    assert torch.equal(acts["relu#1"], kept)
    assert acts["second"].grad_fn is None


def test_passes_between_the_recorded_ones_change_neither_outputs_nor_gradients(images: Tensor) -> None:
    model, seen = Twice(), []
    with record(model, ["second"], gradients=True, every=2) as acts:
        for step in range(4):
            outputs = model((step + 1) * images[:, :1])
            outputs.square().sum().backward()
            seen.append((acts.step, acts["second"], acts.gradients["second"]))
        first = model(images[:, :1])
        model(images[:, :1]).sum()
        model(images[:, :1])
        first.sum().backward()  # of pass 4, while pass 6 is the recorded one
        assert not acts.gradients
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    for earlier, later in (0, 1), (2, 3):
        assert seen[earlier][1] is seen[later][1]
        assert seen[earlier][2] is seen[later][2]
    assert seen[0][2].shape == seen[0][1].shape == (2, 2, 64, 64)
    assert not torch.equal(seen[0][1], seen[2][1])
    assert not torch.equal(seen[0][2], seen[2][2])


def tensors_in_use() -> int:
    gc.collect()
    return sum(issubclass(type(item), Tensor) for item in gc.get_objects())


def memory_in_use() -> int:
    """Resident bytes on Linux; elsewhere 0, and the test rests on the tensors."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * 4096 if pages.exists() else 0


def test_a_thousand_recordings_leak_no_memory() -> None:
    """Neither tensors that Python knows of nor other memory; each use records about a megabyte."""
    model, alive, images = Twice(), [], torch.randn(1, 1, 256, 256)
    for use in range(1000):
        with record(model, ["first", "relu", "second"], gradients=True) as acts:
            model(images.requires_grad_()).sum().backward()
        if use % 100 == 0:
            alive.append(weakref.ref(acts["relu#1"]))
        if use == 100:
            settled, memory = tensors_in_use(), memory_in_use()
    assert tensors_in_use() <= settled
    del acts
    gc.collect()
    assert memory_in_use() < memory + 100e6
    assert not any(reference() is not None for reference in alive)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("base_model_layer1_block1_conv1", ("base_model.layer1.0.conv1", 0)),
        ("base_model.layer4.2.bn3", ("base_model.layer4.2.bn3", 0)),
        ("base_model_layer2_block1_downsample_0", ("base_model.layer2.0.downsample.0", 0)),
        ("base_model_layer3_block6_relu2", ("base_model.layer3.5.relu", 2)),
        ("base_model.layer1.0.relu#3", ("base_model.layer1.0.relu", 3)),
        ("conv1", ("conv1", 0)),
        ("relu1", ("relu1", 0)),
        ("avgpool", ("avgpool", 0)),
        ("base_model", ("base_model", 0)),
    ],
)
def test_layers_are_found_by_dotted_and_friendly_names(net: ActionNet, name: str, layer: tuple[str, int]) -> None:
    assert find_layer(net, name) == layer


def test_friendly_names_are_unique(net: ActionNet) -> None:
    for layer in leaf_layers(net):
        assert find_layer(net, friendly(layer)) == (layer, 0)


def test_unknown_names_suggest_similar_ones(net: ActionNet, images: Tensor) -> None:
    with pytest.raises(
        InputError, match=r"layer base_model_layer1_block1_con1: .*similar: base_model_layer1_block1_conv1"
    ):
        find_layer(net, "base_model_layer1_block1_con1")
    with pytest.raises(InputError, match=r"layer relu#0: "):
        find_layer(net, "relu#0")
    with record(net, ["fc"]) as acts:
        net(images)
    with pytest.raises(InputError, match=r"layer conv2: not recorded; recorded layers: fc"):
        acts["conv2"]


def test_dead_channels_have_frequency_zero(net: ActionNet, images: Tensor) -> None:
    """Two channels of relu1 get a bias that no input can overcome."""
    killed = build_like(net)
    with torch.no_grad():
        killed.bn1.weight[[3, 40]], killed.bn1.bias[[3, 40]] = 0.0, -1.0
        killed.bn2.weight[7], killed.bn2.bias[7] = 0.0, 0.5
    counts, seen = activation_frequency(killed, images.split(1), ["relu1", "relu2"])
    assert seen == 2
    alive, _ = activation_frequency(net, images.split(1), ["relu1"])
    assert alive["relu1"][[3, 40]].tolist() == [2, 2]
    assert counts["relu1"][[3, 40]].tolist() == [0, 0]
    others = [channel for channel in range(512) if channel not in (3, 40)]
    assert torch.equal(counts["relu1"][others], alive["relu1"][others])
    assert counts["relu2"][7] == 2


def test_python_examples_of_the_documents(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of Python in these documents runs; what it computed, recorded or dumped has the right shape."""
    monkeypatch.chdir(trained)
    image = next(Path("data/sample/train").glob("*.jpg"))
    names = {}
    for document in ("README.md", "docs/design.md", "docs/export.md"):
        text = (REPOSITORY / document).read_text(encoding="utf-8")
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(code.replace("results/RUN", "results/a").replace("A.jpg", image.as_posix()), names)
    assert names["probabilities"].sum().item() == pytest.approx(1)
    assert names["probabilities"].shape == (1, len(names["record"]["classes"]))
    for layer, shape in (("base_model_layer1_block1_relu2", (1, 64, 16, 16)), ("relu2", (1, 256, 2, 2))):
        assert names["acts"][layer].shape == names["acts"].gradients[layer].shape == shape
    assert np.load("activations/activation_pass0_layer_layer4.npy").shape == (512, 7, 7)
    assert Path("activations/kernels_pass0_layer_conv1.png").exists()


def build_like(net: ActionNet) -> ActionNet:
    copy = ActionNet(7, net.stride_on)
    copy.load_state_dict(net.state_dict())
    return copy.eval()


def test_activation_frequency_counts_images() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU())
    model[0].weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    images = torch.stack([torch.full((1, 2, 2), value) for value in (1.0, 2.0, -1.0, 0.0)])
    counts, seen = activation_frequency(model, [images[:3], images[3:]], ["1"])
    assert (counts["1"].tolist(), seen) == ([2, 1], 4)


def test_patch_tokens_become_maps_in_their_places() -> None:
    tokens = torch.arange(11 * 4.0).reshape(1, 11, 4)  # two other tokens before nine patches
    maps = as_maps({"blocks": tokens, "fc": tokens[:, 0], "conv": torch.ones(1, 4, 3, 2)})
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "blocks": (4, 3, 3),
        "fc": (4, 1, 1),
        "conv": (4, 3, 2),
    }
    assert torch.equal(maps["blocks"][:, 1, 2], tokens[0, 2 + 1 * 3 + 2])


def test_default_layers_are_those_that_the_model_has() -> None:
    names = ("base_model.layer1", "kernels:conv1", "relu1", "base_model.layer1.0.relu#2")
    assert existing_layers(ActionNet(2), names) == names
    assert existing_layers(nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 4, 3), relu1=nn.ReLU())), names) == names[1:3]
