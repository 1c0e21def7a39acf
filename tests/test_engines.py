"""What runs the frozen backbone: the same maps from every engine, and the choice between them."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from backbones.imagenet_weights import BackboneWeights
from dataset import EvalTransform, HarDataset, read_dataset
from features import engines
from features.engines import Int8Model, OpenVINOEngine, TorchEngine, make_engine, pick_engine_precision, split_on_oom
from model import build_model
from runtime.errors import InputError

CPU = torch.device("cpu")


def network_of(weights: BackboneWeights) -> nn.Module:
    return build_model(weights, 2).base_model.eval()


def pictures(sample: Path, count: int, size: int) -> Tensor:
    data = HarDataset(read_dataset(sample).train[:count], [], EvalTransform(size))
    return torch.stack([data[index][0] for index in range(count)])


def test_openvino_gives_pytorchs_maps(imagenet: BackboneWeights, sample: Path) -> None:
    network, images = network_of(imagenet), pictures(sample, 10, 96)
    maps = make_engine(network, CPU, "fp32", 96, count=10_000)(images)
    expected = make_engine(network, CPU, "fp32", 96, count=10)(images)
    assert maps.shape == (10, 2048, 3, 3)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4 * expected.max().item())


def test_int8_stays_near(imagenet: BackboneWeights, sample: Path, tmp_path: Path) -> None:
    network = network_of(imagenet)
    int8 = Int8Model(tmp_path, imagenet.sha256, "sample", 96)
    assert not int8.exists()
    samples = read_dataset(sample).train
    int8.calibrate(network, samples[40:])
    images = pictures(sample, 40, 96)
    maps, expected = int8.load(96)(images).mean((2, 3)), TorchEngine(network, CPU, torch.float32)(images).mean((2, 3))
    assert cosine_similarity(maps, expected).min() > 0.95
    assert not torch.equal(maps, expected)
    name = int8.name
    int8.calibrate(network, samples[:40])  # there already
    assert Int8Model(tmp_path, imagenet.sha256, "sample", 96).name == name


def test_the_choice(monkeypatch: pytest.MonkeyPatch, untrained: BackboneWeights) -> None:
    network = network_of(untrained)
    kinds = [type(make_engine(network, CPU, "fp32", 64, count)) for count in (10, 10_000)]
    assert kinds == [TorchEngine, OpenVINOEngine]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    assert [pick_engine_precision(CPU, "auto", count) for count in (10, 10_000)] == ["fp32", "int8"]
    assert pick_engine_precision(CPU, "fp32", 10_000) == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert pick_engine_precision(CPU, "auto", 10_000) == "fp32"
    with pytest.raises(InputError, match="--device cpu"):
        pick_engine_precision(torch.device("cuda"), "int8", 10)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert type(make_engine(network, CPU, "fp32", 64, 10_000)) is TorchEngine
    with pytest.raises(InputError, match="openvino"):
        pick_engine_precision(CPU, "int8", 10)
    with pytest.raises(InputError, match="nncf"):
        Int8Model(Path("nowhere"), "", "", 64).calibrate(network, [None])


def test_a_full_memory_halves_the_batch() -> None:
    """A GPU cannot be had here: a function that holds three pictures at once stands in for it."""

    def small(images: Tensor) -> Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images * 2

    images = torch.arange(11.0)[:, None]
    torch.testing.assert_close(split_on_oom(small, images), images * 2)
    with pytest.raises(torch.OutOfMemoryError):
        split_on_oom(lambda images: small(torch.zeros(9)), images)


@pytest.fixture
def small() -> nn.Module:
    torch._dynamo.reset()
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU()).eval()


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler on this machine")
def test_compiling(small: nn.Module) -> None:
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    expected = make_engine(small, CPU, "fp32", 64, 5)(images)
    torch.testing.assert_close(make_engine(small, CPU, "fp32", 64, 5, compiled=True)(images), expected)


def test_compiling_without_a_compiler(small: nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(InputError, match="--compile does not work here"):
        make_engine(small, CPU, "fp32", 64, 5, compiled=True)
