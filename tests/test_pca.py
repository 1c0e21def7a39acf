"""The PCA projection of feature maps: it keeps the variance, is fitted once, and its head is one for all channels."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dataset import Sample, read_dataset
from features.engines import Engine
from features.pca import Projection, find_projection, full_state, project_head, projected
from model import ActionNet
from runtime.errors import InputError


def engine_mixing(columns: Tensor) -> Callable[[int, int], Engine]:
    """An engine whose feature maps (B, C, 2, 2) are the image's cells, mixed by columns (C, 12)."""

    def engine(images: Tensor) -> Tensor:
        cells = nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).unflatten(2, (2, 2)).unflatten(4, (2, 2))
        return torch.einsum("ck,bkhw->bchw", columns, cells.permute(0, 1, 3, 5, 2, 4).flatten(1, 3))

    return lambda count, size: engine


def test_projection_keeps_the_variance_and_is_fitted_once(kaggle: Path, tmp_path: Path) -> None:
    samples = read_dataset(kaggle).train
    make_engine = engine_mixing(torch.randn(40, 12, generator=torch.Generator().manual_seed(0)))
    projection = Projection(tmp_path / "projection-1.pt", 64, 12)
    projection.fit(make_engine, samples)
    basis, name = projection.load(), projection.name
    torch.testing.assert_close(basis.T @ basis, torch.eye(12), rtol=0, atol=1e-5)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    full, few = make_engine(3, 64)(images), projected(make_engine, basis)(3, 64)(images)
    assert few.shape == (3, 12, 2, 2)
    torch.testing.assert_close(torch.einsum("ck,bkhw->bchw", basis, few), full, rtol=1e-3, atol=1e-4)
    energy = few.square().sum((0, 2, 3))
    assert energy.max() < 0.5 * energy.sum()  # no channel holds most of it: dropout of that channel would lose it
    projection.file.write_bytes(b"half")
    with pytest.raises(InputError, match=r"projection-1.pt: damaged .*; delete it"):
        projection.load()
    projection.file.unlink()
    projection.fit(make_engine, samples)
    assert projection.name == name  # the same whichever process wrote the file
    projection.fit(make_engine, samples[:1])  # does nothing, since the file exists
    assert Projection(projection.file, 64, 12).name == name


def test_projection_is_found_by_name_also_under_its_file_name_of_older_versions(tmp_path: Path) -> None:
    samples = [Sample("", tmp_path / "red.png", "a")]
    Image.new("RGB", (64, 64), "red").save(samples[0].path)
    for file, seed in (("projection-1.pt", 1), ("directions-2.pt", 2)):
        mixed = torch.randn(40, 12, generator=torch.Generator().manual_seed(seed))
        projection = Projection(tmp_path / file, 64, 2)
        projection.fit(engine_mixing(mixed), samples)
        assert find_projection(tmp_path, projection.name, 64).file == tmp_path / file
    assert find_projection(tmp_path, "2 directions of another one", 64) is None


@pytest.mark.parametrize("count", [300, 767])
def test_projection_is_fitted_on_images_from_the_whole_list(tmp_path: Path, count: int) -> None:
    """Images may be listed in the order of their classes."""
    red, blue = (tmp_path / f"{colour}.png" for colour in ("red", "blue"))
    for path in (red, blue):
        Image.new("RGB", (64, 64), path.stem).save(path)
    samples = [Sample("", red, "a")] * (count - 40) + [Sample("", blue, "b")] * 40
    projection = Projection(tmp_path / "projection.pt", 64, 2)
    projection.fit(engine_mixing(torch.eye(12)), samples)
    blue_pixels = torch.tensor([0, 0, 255]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    features = engine_mixing(torch.eye(12))(1, 64)(blue_pixels)
    basis = projection.load()
    kept = torch.einsum("bchw,ck,dk->bdhw", features, basis, basis)
    torch.testing.assert_close(kept, features, rtol=1e-3, atol=1e-3)


def test_head_on_projected_channels_is_a_head_for_all_channels() -> None:
    torch.manual_seed(0)
    model, full = ActionNet(3).eval(), ActionNet(3).eval()
    start = model.conv1.weight.clone()
    basis = torch.linalg.qr(torch.randn(2048, 16)).Q
    project_head(model, basis)
    assert model.conv1.weight.shape == (512, 16, 3, 3)
    state = full_state(model.state_dict(), basis)
    expected = torch.einsum("ochw,ck,dk->odhw", start, basis, basis)
    torch.testing.assert_close(state["conv1.weight"], expected, rtol=0, atol=1e-6)
    full.load_state_dict(state)
    features = torch.randn(2, 2048, 3, 3)
    with torch.inference_mode():
        logits = model.from_features(torch.einsum("ck,bchw->bkhw", basis, features))
        torch.testing.assert_close(logits, full.from_features(features), rtol=1e-4, atol=1e-5)
