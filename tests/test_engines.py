"""Engines of the frozen backbone: OpenVINO and int8 agree with PyTorch; which one is chosen."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from backbones.imagenet_weights import BackboneWeights
from dataset import EvalTransform, HarDataset, read_dataset
from features import engines
from features.engines import (
    Int8Model,
    OpenVINOEngine,
    TorchEngine,
    choose_precision,
    find_int8,
    make_engine,
    split_on_oom,
)
from model import build_model
from runtime.device import cpu_has
from runtime.errors import InputError

CPU = torch.device("cpu")


def network_of(weights: BackboneWeights) -> nn.Module:
    return build_model(weights, 2).base_model.eval()


def pixels_of(sample: Path, count: int, size: int) -> Tensor:
    images = HarDataset(read_dataset(sample).train[:count], [], EvalTransform(size))
    return torch.stack([images[index][0] for index in range(count)])


def test_openvino_agrees_with_pytorch(imagenet: BackboneWeights, sample: Path) -> None:
    network, images = network_of(imagenet), pixels_of(sample, 10, 96)
    features = make_engine(network, CPU, "fp32", 96, count=10_000)(images)
    expected = make_engine(network, CPU, "fp32", 96, count=10)(images)
    assert features.shape == (10, 2048, 3, 3)
    assert features.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4 * expected.max().item())


def test_int8_features_are_close_to_float32_and_calibrated_once(
    imagenet: BackboneWeights, sample: Path, tmp_path: Path
) -> None:
    network = network_of(imagenet)
    int8 = Int8Model(tmp_path / "int8-1")
    assert not int8.exists()
    samples = read_dataset(sample).train
    int8.calibrate(network, samples[40:], 96)
    images = pixels_of(sample, 40, 96)
    pooled = int8.load(96)(images).mean((2, 3))
    expected = TorchEngine(network, CPU, torch.float32)(images).mean((2, 3))
    # Without int8 dot products (VNNI), which "auto" requires, OpenVINO adds products in 16 bits that saturate.
    least = 0.95 if cpu_has("avx512_vnni", "avx_vnni", "amx_int8") else 0.9
    assert cosine_similarity(pooled, expected).min() > least
    assert not torch.equal(pooled, expected)
    name = int8.name
    int8.calibrate(network, samples[:40], 96)  # does nothing, since the model exists
    assert Int8Model(tmp_path / "int8-1").name == name
    shutil.copytree(tmp_path / "int8-1", tmp_path / "int8-0")
    (tmp_path / "int8-0/model.bin").write_bytes(b"another calibration")
    assert find_int8(tmp_path, name).folder == tmp_path / "int8-1"
    assert find_int8(tmp_path, "int8 of another dataset") is None
    weights = bytearray((tmp_path / "int8-1/model.bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / "int8-1/model.bin").write_bytes(weights)
    assert not int8.exists()  # and so is calibrated again
    weights[len(weights) // 2] ^= 1
    (tmp_path / "int8-1/model.bin").write_bytes(weights)
    assert int8.exists()
    (tmp_path / "int8-1/model.sha256").write_bytes(b"\xff")
    assert not int8.exists()


def test_auto_takes_openvino_and_int8_for_many_images_only(
    monkeypatch: pytest.MonkeyPatch, untrained: BackboneWeights
) -> None:
    network = network_of(untrained)
    kinds = [type(make_engine(network, CPU, "fp32", 64, count)) for count in (10, 10_000)]
    assert kinds == [TorchEngine, OpenVINOEngine]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    assert [choose_precision(CPU, "auto", count).backbone for count in (0, 10, 10_000)] == ["fp32", "fp32", "int8"]
    assert choose_precision(CPU, "fp32", 10_000).backbone == "fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True, "avx512_bf16": True})
    assert choose_precision(CPU, "int8") == engines.Precision("int8", torch.bfloat16)  # int8 is the backbone's alone
    assert choose_precision(CPU, "auto") == engines.Precision("bf16", torch.bfloat16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert choose_precision(CPU, "auto", 10_000).backbone == "fp32"
    with pytest.raises(InputError, match="--device cpu"):
        choose_precision(torch.device("cuda"), "int8", 10)
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert type(make_engine(network, CPU, "fp32", 64, 10_000)) is TorchEngine
    with pytest.raises(InputError, match="openvino"):
        choose_precision(CPU, "int8", 10)
    with pytest.raises(InputError, match="nncf"):
        Int8Model(Path("nowhere")).calibrate(network, [None], 64)


def test_full_gpu_memory_halves_the_batch() -> None:
    """Without a GPU: a function that holds three images at once stands in for it."""

    def small(images: Tensor) -> Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images * 2

    images = torch.arange(11.0)[:, None]
    torch.testing.assert_close(split_on_oom(small, images), images * 2)
    with pytest.raises(torch.OutOfMemoryError):
        split_on_oom(lambda images: small(torch.zeros(9)), images)
