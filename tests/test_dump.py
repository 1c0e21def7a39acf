"""hooks.dump on networks that are not ours: its numbers equal a forward pass, and training goes on as without it."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18

from hooks import dump
from runtime.errors import InputError


class Odd(nn.Module):
    """One input channel; layers with every kind of output that a plot could fail on."""

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[int, Tensor]:
            return 3, x * 2

    class Volume(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x, x + 1, x + 2], dim=2)  # (B, C, D, h, w)

    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, object]:
            return {"name": "x", "out": x[:, :, :1, 0], "more": x}  # (B, C, 1)

    class Whole(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (10 * x).long()

    class Empty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :0]

    class Loss(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().mean()

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.pair, self.volume, self.named, self.whole = self.Pair(), self.Volume(), self.Named(), self.Whole()
        self.empty, self.loss, self.broken, self.nan = self.Empty(), self.Loss(), self.Broken(), self.Broken()

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.conv(x))
        for layer in (self.volume, self.named, self.whole, self.empty, self.broken):
            layer(x)
        self.nan(0 * x.mean((2, 3)))
        return self.loss(self.pair(x)[1])


def not_blank(path: Path) -> None:
    with Image.open(path) as image:
        assert np.asarray(image.convert("L")).std() > 5, path


def test_numbers_are_those_of_the_first_image_of_the_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = resnet18(weights=None).eval(), torch.randn(2, 3, 64, 64)
    one_by_one = "layer2.0.downsample.0"
    with torch.inference_mode(), dump(model, ["conv1", "layer1_block1_relu2", one_by_one, "fc"], tmp_path) as acts:
        logits = model(images)
    assert acts["fc"].shape == (1, 1000)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == {
        "activation_pass0_layer_conv1", "activation_pass0_layer_layer1_block1_relu2", "activation_pass0_layer_fc",
        "activation_pass0_layer_layer2_block1_downsample_0", "kernels_pass0_layer_layer2_block1_downsample_0",
        "kernels_pass0_layer_conv1", "histograms_pass0",
    }  # fmt: skip
    for name in names:
        not_blank(tmp_path / f"{name}.png")
    with torch.inference_mode():
        first = model.conv1(images[:1])[0]
    np.testing.assert_allclose(np.load(tmp_path / "activation_pass0_layer_conv1.npy"), first, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "activation_pass0_layer_fc.npy")[:, 0, 0], logits[0], rtol=1e-5)
    kernels = np.load(tmp_path / "kernels_pass0_layer_conv1.npy")  # RGB
    np.testing.assert_array_equal(kernels, model.conv1.weight.detach().permute(0, 2, 3, 1))
    matrix = np.load(tmp_path / "kernels_pass0_layer_layer2_block1_downsample_0.npy")
    np.testing.assert_array_equal(matrix, model.get_submodule(one_by_one).weight.detach()[:, :, 0, 0])
    stats = json.loads((tmp_path / "histograms_pass0.json").read_text())
    assert list(stats) == ["conv1", "layer1.0.relu#2", one_by_one, "fc"]
    assert sum(stats["conv1"]["counts"]) == first.numel()
    assert stats["conv1"]["mean"] == pytest.approx(first.mean().item(), abs=1e-5)
    assert stats["layer1.0.relu#2"]["min"] == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_channels_of_a_convolution_are_those_of_its_relu_though_that_is_not_plotted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 5, 1), nn.ReLU(inplace=True), nn.Conv2d(5, 2, 1))
    model[0].weight.data, model[0].bias.data = torch.ones(5, 1, 1, 1), torch.tensor([-9.0, 1.0, -7.0, 3.0, -8.0])
    drawn = {}
    monkeypatch.setattr("figures.layers.activations", lambda path, *args: drawn.update(maps=args[3], order=args[4]))
    monkeypatch.setattr("figures.dump.draw_kernels", lambda *args: drawn.update(kernels=args[4]))
    with dump(model, ["0"], tmp_path, tiles=2, format="pdf") as acts:
        model(torch.ones(3, 1, 4, 4))
    assert acts["0"][0, :, 0, 0].tolist() == [-8, 2, -6, 4, -7]  # the largest absolute values are negative
    assert drawn == {"maps": [3, 1], "kernels": [3, 1], "order": "most active in 1 first"}
    assert [path.name for path in tmp_path.glob("histograms*")] == ["histograms_pass0.json", "histograms_pass0.pdf"]


def train(folder: Path | None) -> tuple[nn.Module, list[bool]]:
    """Five steps on random images; with a folder, dumped every second step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(2))
    images, targets = torch.randn(5, 4, 3, 8, 8), torch.randint(0, 2, (5, 4))
    model(images[0])
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.1)

    def steps() -> None:
        for batch, labels in zip(images, targets, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()

    if folder is None:
        steps()
    else:
        with dump(model, folder=folder, every=2, prefix="epoch0_batch{}", gradients=True) as acts:
            steps()
        assert {layer: gradient.shape for layer, gradient in acts.gradients.items()} == {
            layer: output.shape for layer, output in acts.items()
        }
    return model, [module.training for module in model.modules()]


def test_a_training_is_the_same_with_and_without_dump(tmp_path: Path) -> None:
    (plain, modes), (dumped, dumped_modes) = train(None), train(tmp_path)
    assert modes == dumped_modes
    for (name, one), other in zip(plain.state_dict().items(), dumped.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    for layer in range(5):
        files = sorted(path.name for path in tmp_path.glob(f"activation_*_layer_{layer}.npy"))
        assert files == [f"activation_epoch0_batch{step}_layer_{layer}.npy" for step in (0, 2, 4)]
    first, last = (np.load(tmp_path / f"kernels_epoch0_batch{step}_layer_0.npy") for step in (0, 4))
    assert not np.array_equal(first, last)  # the kernels of that step
    assert not list(tmp_path.glob(".*"))  # no temporary file


def test_transformer_tokens_are_plotted_in_their_places(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=64).eval()
    layers = ["patch_embed.proj", "blocks.0.attn", "blocks.11", "norm", "head"]  # depth 12
    with torch.inference_mode(), dump(model, layers, tmp_path, prefix="vit", tiles=8) as acts:
        model(torch.randn(1, 3, 64, 64))
    tokens = acts["blocks.11"][0]  # class token and 16 patches
    maps = np.load(tmp_path / "activation_vit_layer_blocks_11.npy")
    assert maps.shape == (192, 4, 4)
    np.testing.assert_array_equal(maps[:, 1, 2], tokens[1 + 1 * 4 + 2])
    not_blank(tmp_path / "activation_vit_layer_norm.png")
    not_blank(tmp_path / "kernels_vit_layer_patch_embed_proj.png")


def test_all_leaf_layers_of_a_transformer_are_plotted(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, depth=1).eval()
    with dump(model, folder=tmp_path, tiles=2) as acts:
        model(torch.randn(2, 3, 32, 32))
    plotted = {path.stem.partition("_layer_")[2] for path in tmp_path.glob("activation_*.png")}
    assert plotted == {layer.replace(".", "_").replace("#", "") for layer in acts}
    assert {"blocks_0_attn_qkv", "blocks_0_mlp_fc2", "patch_embed_proj", "norm", "head"} < plotted


def test_logits_carry_class_names_under_autocast(tmp_path: Path) -> None:
    """A linear layer with as many outputs on tokens is no classifier."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(27, 3))
    tokens = torch.randn(2, 9, 4)
    with torch.autocast("cpu", torch.bfloat16), dump(model, folder=tmp_path, classes=("run", "sit", "eat")):
        logits = model(tokens)
    assert logits.dtype == torch.bfloat16
    np.testing.assert_array_equal(np.load(tmp_path / "activation_pass0_layer_2.npy"), logits[0].detach().float())
    assert np.load(tmp_path / "activation_pass0_layer_0.npy").shape == (3, 3, 3)


def test_odd_layers_of_a_users_own_class_are_plotted(tmp_path: Path) -> None:
    """All layers without children, under autocast; depthwise kernels too."""
    model, images = Odd(), torch.randn(2, 1, 12, 10)
    with torch.autocast("cpu", torch.bfloat16), dump(model, folder=tmp_path):
        model(images)
    shapes = {path.stem.rpartition("_")[2]: np.load(path).shape for path in tmp_path.glob("activation_*.npy")}
    maps = (4, 12, 10)
    assert shapes == {
        "conv": maps, "depthwise": maps, "pair": maps, "volume": maps, "whole": maps, "broken": maps,
        "named": (1, 2, 2), "empty": (0, 12, 10), "nan": (4, 1, 1), "loss": (1, 1, 1),
    }  # fmt: skip
    first = np.load(tmp_path / "activation_pass0_layer_depthwise.npy")
    np.testing.assert_allclose(np.load(tmp_path / "activation_pass0_layer_pair.npy"), 2 * first)
    np.testing.assert_allclose(np.load(tmp_path / "activation_pass0_layer_volume.npy"), first + 1, atol=0.02)
    np.testing.assert_allclose(np.load(tmp_path / "activation_pass0_layer_whole.npy"), np.trunc(10 * first), atol=1)
    depthwise = np.load(tmp_path / "kernels_pass0_layer_depthwise.npz")
    np.testing.assert_array_equal(depthwise["slices"], model.depthwise.weight.detach())
    assert depthwise["inputs"].tolist() == [[0], [1], [2], [3]]
    stats = json.loads((tmp_path / "histograms_pass0.json").read_text())
    assert stats["broken"]["not_finite"] == 4 * 12 * 10
    assert (stats["nan"]["not_finite"], stats["empty"]["n"]) == (4, 0)
    assert {path.stem for path in tmp_path.glob("kernels_*.png")} == {
        "kernels_pass0_layer_conv", "kernels_pass0_layer_depthwise",
    }  # fmt: skip
    for path in tmp_path.glob("*.png"):
        not_blank(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"every=0, tiles=24: both must be 1 or more"),
        ({"tiles": 0}, r"every=1, tiles=0: both must be 1 or more"),
        ({"layers": []}, r"layers: none to plot; .* nn.Sequential"),
        ({"prefix": "a/b"}, r"prefix='a/b': must be part of a file name"),
        ({"format": "jpg"}, r"format='jpg': must be png, pdf or svg"),
        ({"layers": ["convolution"]}, r"layer convolution: .* similar: conv"),
    ],
)
def test_wrong_options_are_named_before_any_pass(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message), dump(Odd(), folder=tmp_path / "new", **options):
        pass
    assert not (tmp_path / "new").exists()


class Silent(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), Silent()), torch.ones(1, 1, 4, 4), r"layer 1: outputs NoneType .*leave it"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), torch.ones(0, 1, 4, 4), r"pass0: nothing to plot; .* a batch with images"),
    ],
)
def test_what_cannot_be_plotted_is_named(tmp_path: Path, model: nn.Module, images: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message), dump(model, folder=tmp_path / "new"):
        model(images)
    assert not (tmp_path / "new").exists()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
