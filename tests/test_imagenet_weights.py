"""ImageNet weights: the conversion is exact, and no source leaves the program hanging or a partial file."""

import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import REPOSITORY
from torchvision.models import ResNet50_Weights

from backbones import imagenet_weights, keras_resnet
from backbones.imagenet_weights import BackboneWeights
from backbones.resnet import ResNet50
from dataset import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, normalise
from runtime.errors import InputError
from runtime.images import load_image


def random_keras(seed: int = 0) -> dict[str, np.ndarray]:
    """Random Keras arrays of the real shapes for every layer."""
    rng = np.random.default_rng(seed)
    shapes = {name: tuple(value.shape) for name, value in ResNet50("conv1").state_dict().items()}
    arrays = {"fc1000/kernel": rng.normal(size=(2048, 1000)), "fc1000/bias": rng.normal(size=1000)}
    for keras_conv, (keras_bn, conv, _) in keras_resnet.layer_names().items():
        out, into, height, width = shapes[f"{conv}.weight"]
        arrays[f"{keras_conv}/kernel"] = rng.normal(size=(height, width, into, out)) / np.sqrt(into * height * width)
        arrays[f"{keras_conv}/bias"] = rng.normal(size=out)
        for part in ("gamma", "moving_variance"):
            arrays[f"{keras_bn}/{part}"] = rng.uniform(0.5, 2, out)
        for part in ("beta", "moving_mean"):
            arrays[f"{keras_bn}/{part}"] = rng.normal(size=out)
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def test_importing_the_module_imports_no_torchvision() -> None:
    code = "import sys, backbones.imagenet_weights; sys.exit(not {'torchvision', 'timm'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_file_names_and_titles_of_torchvisions_weights_are_its_own(kind: str) -> None:
    member = ResNet50_Weights[imagenet_weights.TORCHVISION[kind]]
    assert imagenet_weights.torchvision_url(kind) == member.url
    assert member.url.endswith(f"/{imagenet_weights.TORCHVISION_FILES[kind]}")


def test_conversion_covers_every_tensor() -> None:
    state = keras_resnet.convert(random_keras(), 1e-3)
    net = ResNet50("conv1")
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def test_first_layer_folds_colour_scale_bias_and_epsilon() -> None:
    arrays = random_keras(1)
    net = ResNet50("conv1").eval()
    net.load_state_dict(keras_resnet.convert(arrays, 1e-3), strict=False)
    rgb = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    ours = net.double().bn1(net.conv1((rgb - mean) / std))[..., 2:-2, 2:-2]  # zero padding differs by < 0.5/255

    keras = {name: torch.from_numpy(value).double() for name, value in arrays.items()}
    bgr = 255 * rgb.flip(1) - torch.tensor([103.939, 116.779, 123.68], dtype=torch.float64)[:, None, None]
    kernel = keras["conv1/kernel"].permute(3, 2, 0, 1)
    theirs = torch.nn.functional.conv2d(bgr, kernel, keras["conv1/bias"], stride=2, padding=3)
    bn = [keras[f"bn_conv1/{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta")]
    theirs = torch.nn.functional.batch_norm(theirs, *bn, eps=1e-3)[..., 2:-2, 2:-2]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_inner_layer_folds_bias_and_epsilon() -> None:
    arrays = random_keras(2)
    state = keras_resnet.convert(arrays, 1e-3)
    x = torch.randn(4, 256)
    kernel = torch.from_numpy(arrays["res3a_branch1/kernel"][0, 0])  # (256, 512)
    mean, variance, gamma, beta = (
        torch.from_numpy(arrays[f"bn3a_branch1/{part}"]) for part in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    theirs = (x @ kernel + torch.from_numpy(arrays["res3a_branch1/bias"]) - mean) / (
        variance + 1e-3
    ).sqrt() * gamma + beta
    bn = {part: state[f"layer2.0.downsample.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")}
    ours = x @ state["layer2.0.downsample.0.weight"][:, :, 0, 0].T
    ours = torch.nn.functional.batch_norm(ours, bn["running_mean"], bn["running_var"], bn["weight"], bn["bias"])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_photographs_get_their_imagenet_class(imagenet: BackboneWeights) -> None:
    """Photographs that scikit-image and scikit-learn bundle and that ImageNet has a class for."""
    right = {
        "skimage/data/chelsea.png": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
        "skimage/data/coffee.png": {967},  # espresso
        "skimage/data/motorcycle_left.png": {665, 670},  # moped, motor scooter
        "sklearn/datasets/images/china.jpg": {698},  # palace
    }
    packages = Path(pytest.importorskip("skimage").__file__).parent.parent
    net = ResNet50(imagenet.stride_on).eval()
    net.load_state_dict(imagenet.state, strict=False)
    images = torch.stack([normalise(EvalTransform(224)(load_image(packages / name))) for name in right])
    with torch.inference_mode():
        found = net(images).argmax(1).tolist()
    assert [index in classes for index, classes in zip(found, right.values(), strict=True)] == [True] * 4, found


def serve(response: bytes | None, stop_after: int | None = None) -> tuple[str, http.server.ThreadingHTTPServer]:
    """A local server. `response` None: accepts and stays silent. `stop_after`: sends so many bytes, then waits."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if response is None:
                time.sleep(60)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(response)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write((response or b"")[:stop_after])
            self.wfile.flush()
            if stop_after is not None:
                time.sleep(60)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}", server


def test_silent_server_is_abandoned_within_ten_seconds(tmp_path: Path) -> None:
    url, server = serve(None)
    start = time.perf_counter()
    with pytest.raises(OSError, match=r"no answer within|timed out"):
        imagenet_weights.fetch_url(f"{url}/net-00000000.pth", tmp_path / "net-00000000.pth")
    assert time.perf_counter() - start < 10
    assert not list(tmp_path.iterdir())
    server.shutdown()


def test_download_is_complete_or_absent(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    url, server = serve(content)
    digest = hashlib.sha256(content).hexdigest()[:8]
    with pytest.raises(OSError, match="is damaged"):
        imagenet_weights.fetch_url(f"{url}/net-00000000.pth", tmp_path / "net-00000000.pth")
    assert not list(tmp_path.iterdir())
    imagenet_weights.fetch_url(f"{url}/net-{digest}.pth", tmp_path / f"net-{digest}.pth")
    assert (tmp_path / f"net-{digest}.pth").read_bytes() == content
    server.shutdown()


def test_killed_download_leaves_no_usable_file(tmp_path: Path) -> None:
    url, server = serve(os.urandom(3_000_000), stop_after=1_000_000)
    path = tmp_path / "net-12345678.pth"
    code = "import pathlib, sys; from backbones import imagenet_weights as weights; "
    code += f"weights.fetch_url({url + '/' + path.name!r}, pathlib.Path({str(path)!r}))"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(file.stat().st_size > 100_000 for file in tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.kill()
    assert any(tmp_path.iterdir())  # the temporary file, under another name
    assert not path.exists()
    server.shutdown()


def test_without_any_source_remedies_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"  # nobody listens there
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", closed)
    monkeypatch.setenv("http_proxy", closed)
    monkeypatch.setenv("https_proxy", closed)
    start = time.perf_counter()
    with pytest.raises(
        imagenet_weights.WeightsUnavailable,
        match=r"torchvision V1: .*\(1\) .*\(2\) .*resnet50-0676ba61.pth.*\(3\) .*pretrained.*\(4\)",
    ):
        imagenet_weights.load_weights("v1")
    with pytest.raises(imagenet_weights.WeightsUnavailable, match="npm: "):
        imagenet_weights.load_weights("npm")
    assert time.perf_counter() - start < 2 * 10


def test_damaged_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrained: BackboneWeights) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / imagenet_weights.NPM_FILE
    path.parent.mkdir(parents=True)
    safetensors.torch.save_file(untrained.state, path, {"name": "x", "stride_on": "conv1", "sha256": "0" * 64})
    with pytest.raises(InputError, match=r"damaged; delete it and run again"):
        imagenet_weights.load_weights()


def test_state_dict_files_are_read_and_checked(tmp_path: Path, untrained: BackboneWeights) -> None:
    torch.save({"state_dict": {f"module.{k}": v for k, v in untrained.state.items()}}, tmp_path / "net.pth")
    loaded = imagenet_weights.load_weights(str(tmp_path / "net.pth"))
    assert loaded.name == "file net.pth"
    assert loaded.sha256 == untrained.sha256
    safetensors.torch.save_file(untrained.state, tmp_path / "net.safetensors", {"stride_on": "conv1"})
    moved = imagenet_weights.load_weights(str(tmp_path / "net.safetensors"))
    assert moved.stride_on == "conv1"
    assert moved.sha256 != untrained.sha256
    more = {k: v.bfloat16() for k, v in untrained.state.items()} | {"extra": torch.zeros(1)}
    torch.save(more, tmp_path / "more.pth")
    state = imagenet_weights.load_weights(str(tmp_path / "more.pth")).state
    assert "extra" not in state
    assert state["conv1.weight"].dtype == torch.float32
    short = {k: v for k, v in untrained.state.items() if k != "layer3.2.bn1.bias"}
    torch.save(short, tmp_path / "short.pth")
    with pytest.raises(InputError, match=r"short.pth: layer3.2.bn1.bias is missing"):
        imagenet_weights.load_weights(str(tmp_path / "short.pth"))
    (tmp_path / "empty.pth").touch()
    with pytest.raises(InputError, match=r"empty.pth: not a readable state dict"):
        imagenet_weights.load_weights(str(tmp_path / "empty.pth"))
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(InputError, match=r"text.pth: not a readable state dict"):
        imagenet_weights.load_weights(str(tmp_path / "text.pth"))
    with pytest.raises(InputError, match=r"no such file"):
        imagenet_weights.load_weights(str(tmp_path / "nowhere.pth"))
