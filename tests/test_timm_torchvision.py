"""Backbones of timm and torchvision: the library's own feature maps, in their places."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torchvision.models import get_model

import predict5
import train
import visualize_activations
import visualize_single_example
from backbones.imagenet_weights import BackboneWeights, WeightsUnavailable
from backbones.timm_torchvision import LibraryBackbone, load_library_weights
from features.engines import OpenVINOEngine, TorchEngine, make_engine
from model import ActionNet, build_model
from runtime.errors import InputError

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.mark.parametrize(
    ("name", "channels", "side", "half", "layout"),  # half: whether it normalises by mean and deviation 0.5
    [
        ("resnet18", 512, 2, False, "maps"),
        ("convnext_atto", 320, 2, False, "maps"),
        ("vit_tiny_patch16_224", 192, 4, True, "tokens"),
        ("deit3_small_patch16_224", 384, 4, False, "tokens"),
        ("swin_tiny_patch4_window7_224", 768, 2, False, "rows"),
    ],
)
def test_feature_maps_equal_timms_own(name: str, channels: int, side: int, half: bool, layout: str) -> None:
    backbone = LibraryBackbone(name, 64)
    assert (backbone.channels, backbone.side) == (channels, side)
    with torch.inference_mode():
        maps = backbone((IMAGES - MEAN) / STD)
        own = backbone.body.forward_features((IMAGES - 0.5) / 0.5 if half else (IMAGES - MEAN) / STD)
    assert maps.shape == (2, channels, side, side)
    for row, column in ((0, 0), (0, 1), (side - 1, 0)):
        place = {"tokens": 1 + row * side + column, "rows": (row, column), "maps": (slice(None), row, column)}[layout]
        there = own[(slice(None), *(place if isinstance(place, tuple) else (place,)))]
        torch.testing.assert_close(maps[:, :, row, column], there, rtol=1e-4, atol=1e-5)


def test_timms_resnet50_gives_the_feature_maps_of_torchvisions(untrained: BackboneWeights, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(untrained.state, path)
    ours, images = build_model(untrained, 3).eval(), (IMAGES - MEAN) / STD
    for name in ("resnet50.tv_in1k", "torchvision/resnet50"):
        weights = load_library_weights(name, str(path), 64)
        assert weights.backbone == name
        assert weights.sha256 != untrained.sha256
        other = build_model(weights, 3, size=64).eval()
        with torch.inference_mode():
            torch.testing.assert_close(other.base_model(images), ours.base_model(images), rtol=1e-3, atol=1e-4)
        assert not any(parameter.requires_grad for parameter in other.base_model.parameters())


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_openvino_agrees_with_pytorch_on_other_backbones(name: str) -> None:
    backbone, cpu = LibraryBackbone(name, 64), torch.device("cpu")
    images = (IMAGES * 255).byte()
    ways = [make_engine(backbone, cpu, "fp32", 64, count) for count in (1, 1000)]
    assert [type(way) for way in ways] == [TorchEngine, OpenVINOEngine]
    one, other = (way(images) for way in ways)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3 * one.abs().max().item())


def test_pytorch_runs_what_openvino_cannot_convert(capsys: pytest.CaptureFixture) -> None:
    class Odd(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(images).real

    assert type(make_engine(Odd(), torch.device("cpu"), "fp32", 64, 1000)) is TorchEngine
    assert "note: OpenVINO cannot convert the backbone (" in capsys.readouterr().out


def test_torchvisions_transformer_gives_its_patch_tokens() -> None:
    backbone = LibraryBackbone("torchvision/vit_b_32", 224)
    own, images = get_model("vit_b_32").eval(), torch.rand(1, 3, 224, 224)
    own.load_state_dict({**own.state_dict(), **backbone.body.state_dict()})
    with torch.inference_mode():
        tokens = own.encoder(torch.cat([own.class_token, own._process_input(images)], 1))
        torch.testing.assert_close(backbone(images)[0, :, 2, 3], tokens[0, 1 + 2 * 7 + 3], rtol=1e-4, atol=1e-5)


def test_random_weights_are_repeatable_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (load_library_weights("resnet18", "random", 64) for _ in range(2))
    assert one.sha256 == other.sha256
    assert one.name == "random weights (resnet18, untrained, seed 0)"
    like, unlike = (load_library_weights(f"{kind}_tiny_patch16_224", "random", 64) for kind in ("vit", "deit"))
    assert all(torch.equal(value, unlike.state[key]) for key, value in like.state.items())
    assert like.sha256 != unlike.sha256  # they normalise colours differently, and so have other feature maps

    def refuse(*arguments: object, pretrained: bool, **options: object) -> None:
        if pretrained:
            raise OSError("no route to the hub\nand more")
        return create(*arguments, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        WeightsUnavailable, match=r"^weights for resnet18 are not available \(no route to the hub\)\. .*FILE"
    ):
        load_library_weights("resnet18", "auto", 64)


@pytest.mark.parametrize(
    ("name", "source", "size", "words"),
    [
        ("resnet1", "random", 64, r"--backbone resnet1: timm has no model of that name; similar: "),
        ("torchvision/resnet1", "random", 64, r"torchvision/resnet1: torchvision has no such model"),
        ("torchvision/fcn_resnet50", "random", 64, r"torchvision has no such model"),
        ("torchvision/vit_b_32", "random", 64, r"cannot take images of 64 pixels \(Wrong image height"),
        ("resnet18", "random", 32, r"outputs \(512, 1, 1\); square feature maps are needed"),
        ("resnet18", "v2", 64, r"--weights v2: is for ResNet-50"),
        ("resnet18", "nowhere.pth", 64, r"nowhere.pth: no such file"),
    ],
)
def test_unavailable_backbones_are_named(name: str, source: str, size: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_library_weights(name, source, size)


def test_state_dict_of_another_network_is_refused(untrained: BackboneWeights, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(untrained.state, path)
    with pytest.raises(
        InputError, match=r"net.pth: layer1.0.conv1.weight has shape \(64, 64, 1, 1\), not \(64, 64, 3, 3\)"
    ):
        load_library_weights("resnet18", str(path), 64)
    with pytest.raises(InputError, match=r"net.pth: cls_token is missing"):
        load_library_weights("vit_tiny_patch16_224", str(path), 64)
    with pytest.raises(InputError, match=r"--unfreeze layer4: is for ResNet-50"):
        train.main(train.Args(backbone="resnet18", unfreeze="layer4"))


def test_other_backbone_trains_predicts_and_is_visualised(
    kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    about = {"weights": "random", "backbone": "vit_tiny_patch16_224", "image_size": 64, "precision": "fp32"}
    train.main(train.Args(data=kaggle, run="a", epochs=2, views=1, **about))
    predict5.main(predict5.Args())
    assert (tmp_path / "results/a/test/metrics.json").exists()
    visualize_single_example.main(visualize_single_example.Args(index=0, attribution="none"))
    visualize_activations.main(visualize_activations.Args(index=(0,)))
    visualize_activations.main(visualize_activations.Args(network=True, run="a"))
    assert len(list((tmp_path / "activations").glob("*/*.png"))) > 8
    assert list((tmp_path / "activations").glob("grid_*.png"))
    model = ActionNet(2, backbone="vit_tiny_patch16_224", size=64)
    assert model.feature_shape(64) == (192, 4)
