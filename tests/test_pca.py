"""Maps with fewer channels: the right ones, found once, and a head that is one for all channels."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dataset import Sample, read_dataset
from features.engines import Backbone
from features.pca import Projection, along
from model import ActionNet
from runtime.errors import InputError


def made_of(columns: Tensor) -> Callable[[int, int], Backbone]:
    """A backbone whose maps (B, C, 2, 2) are the pixels' cells, mixed by columns (C, 12)."""

    def backbone(images: Tensor) -> Tensor:
        cells = (
            torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, 4).unflatten(2, (2, 2)).unflatten(4, (2, 2))
        )
        return torch.einsum("ck,bkhw->bchw", columns, cells.permute(0, 1, 3, 5, 2, 4).flatten(1, 3))

    return lambda count, size: backbone


def test_directions_hold_what_the_maps_vary_in_and_are_found_once(kaggle: Path, tmp_path: Path) -> None:
    samples = read_dataset(kaggle).train
    mixed = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    make = made_of(mixed)
    directions = Projection(tmp_path, "w", "kaggle", 64, 12)
    directions.fit(make, samples)
    columns, name = directions.load(), directions.name
    torch.testing.assert_close(columns.T @ columns, torch.eye(12), rtol=0, atol=1e-5)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    whole, narrow = make(3, 64)(images), along(make, columns)(3, 64)(images)
    assert narrow.shape == (3, 12, 2, 2)
    torch.testing.assert_close(torch.einsum("ck,bkhw->bchw", columns, narrow), whole, rtol=1e-3, atol=1e-4)
    energy = narrow.square().sum((0, 2, 3))
    assert energy.max() < 0.5 * energy.sum()  # no direction alone holds most: dropout would find it
    directions.file.write_bytes(b"half")
    with pytest.raises(InputError, match=r"directions-.*: damaged .*; delete it"):
        directions.load()
    directions.file.unlink()
    directions.fit(make, samples)
    assert directions.name == name  # whatever process wrote the file
    directions.fit(make, samples[:1])  # there is nothing left to do
    assert Projection(tmp_path, "w", "kaggle", 64, 12).name == name
    assert not Projection(tmp_path, "other weights", "kaggle", 64, 12).file.exists()


@pytest.mark.parametrize("count", [300, 767])
def test_directions_are_those_of_pictures_from_the_whole_list(kaggle: Path, tmp_path: Path, count: int) -> None:
    """Pictures may lie in the order of their classes."""
    red, blue = (tmp_path / f"{colour}.png" for colour in ("red", "blue"))
    for path in (red, blue):
        Image.new("RGB", (64, 64), path.stem).save(path)
    samples = [Sample("", red, "a")] * (count - 40) + [Sample("", blue, "b")] * 40
    directions = Projection(tmp_path, "w", "sorted", 64, 2)
    directions.fit(made_of(torch.eye(12)), samples)
    maps = made_of(torch.eye(12))(1, 64)(torch.tensor([0, 0, 255]).view(1, 3, 1, 1).expand(1, 3, 64, 64))
    columns = directions.load()
    kept = torch.einsum("bchw,ck,dk->bdhw", maps, columns, columns)
    torch.testing.assert_close(kept, maps, rtol=1e-3, atol=1e-3)  # what is blue is not lost


def test_a_narrow_head_is_a_head_for_all_channels() -> None:
    torch.manual_seed(0)
    model, wide = ActionNet(3).eval(), ActionNet(3).eval()
    start = model.conv1.weight.clone()
    columns = torch.linalg.qr(torch.randn(2048, 16)).Q
    model.narrow(columns)
    assert model.conv1.weight.shape == (512, 16, 3, 3)
    state = model.wide(model.state_dict())
    torch.testing.assert_close(
        state["conv1.weight"], torch.einsum("ochw,ck,dk->odhw", start, columns, columns), rtol=0, atol=1e-6
    )
    wide.load_state_dict(state)
    maps = torch.randn(2, 2048, 3, 3)
    along_columns = torch.einsum("ck,bchw->bkhw", columns, maps)
    with torch.inference_mode():
        torch.testing.assert_close(model.rest(along_columns), wide.rest(maps), rtol=1e-4, atol=1e-5)
