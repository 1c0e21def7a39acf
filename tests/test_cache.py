"""The feature cache: right rows, nothing stale, builds that continue, batches of cached features."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import blobs
from PIL import Image
from torch import Tensor, nn

from backbones.imagenet_weights import BackboneWeights
from dataset import EvalTransform, HarDataset, Sample, TrainTransform, normalise, read_dataset
from features.batches import downsample, feature_batches
from features.cache import FeatureStore, check_disk_space
from features.decode import ImageReader
from features.engines import Engine, make_engine
from features.spec import FeatureSpec, dataset_digest, transform_text
from model import build_model
from runtime.errors import InputError
from splits.scan import scan_files

SIZE, CPU = 64, torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(untrained: BackboneWeights) -> nn.Module:
    return build_model(untrained, 2).base_model.eval()


def digests_of(samples: list[Sample], folder: Path) -> list[str]:
    return [scan.sha256 for scan in scan_files([s.path for s in samples], folder / "scans.json")]


def store_in(folder: Path, view: int = 0, weights: str = "w", size: int = SIZE) -> FeatureStore:
    spec = FeatureSpec(weights, "none", "dataset", size)
    return FeatureStore(folder / "cache", spec, view, size, "fp32", (2048, size // 32))


def reference(backbone: nn.Module, samples: list[Sample]) -> Tensor:
    images = HarDataset(samples, [], EvalTransform(SIZE))
    with torch.inference_mode():
        return backbone(normalise(torch.stack([images[n][0] for n in range(len(samples))])))


def engine_of(backbone: nn.Module) -> Callable[[int, int], Engine]:
    return lambda count, size: make_engine(backbone, CPU, "fp32", size, count)


def assert_same_maps(rows: Tensor, computed: Tensor) -> None:
    stored = rows.unflatten(1, computed.shape[2:]).permute(0, 3, 1, 2)
    torch.testing.assert_close(stored.float(), computed, rtol=2**-8, atol=1e-3 * computed.abs().max().item())


def test_rows_are_the_backbones_feature_maps(kaggle: Path, tmp_path: Path, backbone: nn.Module) -> None:
    samples = read_dataset(kaggle).train
    digests = digests_of(samples, tmp_path)
    store = store_in(tmp_path)
    assert store.build(engine_of(backbone), samples, digests, ImageReader(CPU, 0), "build") == 20
    maps = store_in(tmp_path).read(digests)  # opened anew
    assert maps.shape == (20, 4, 2048)
    assert_same_maps(maps, reference(backbone, samples))
    assert store_in(tmp_path).build(engine_of(backbone), samples, digests, ImageReader(CPU, 0), "build") == 0


def test_other_weights_views_or_image_content_are_computed_anew(
    kaggle: Path, tmp_path: Path, backbone: nn.Module
) -> None:
    samples = read_dataset(kaggle).train
    store_in(tmp_path).build(engine_of(backbone), samples, digests_of(samples, tmp_path), ImageReader(CPU, 0), "build")
    assert not store_in(tmp_path, weights="others").rows
    assert not store_in(tmp_path, view=1).rows
    blobs(77).save(samples[4].path)  # same name, other content
    digests = digests_of(samples, tmp_path)
    store = store_in(tmp_path)
    assert store.build(engine_of(backbone), samples, digests, ImageReader(CPU, 0), "build") == 1
    assert_same_maps(store.read(digests[4:5]), reference(backbone, samples[4:5]))


def test_interrupted_build_continues_with_missing_rows(kaggle: Path, tmp_path: Path, backbone: nn.Module) -> None:
    samples = read_dataset(kaggle).train
    digests = digests_of(samples, tmp_path)
    store = store_in(tmp_path)
    store.build(engine_of(backbone), samples[:6], digests[:6], ImageReader(CPU, 0), "build")
    with store.maps_file.open("ab") as file:  # a row that a killed process wrote half, and one that it did not list
        file.write(b"\1" * (store.row_bytes + 1000))
    with store.rows_file.open("a") as file:
        file.write(digests[6][:30])
    again = store_in(tmp_path)
    assert len(again.rows) == 6
    assert again.build(engine_of(backbone), samples, digests, ImageReader(CPU, 0), "build") == 14
    assert_same_maps(store_in(tmp_path).read(digests), reference(backbone, samples))


def test_rows_without_features_on_disk_are_dropped(kaggle: Path, tmp_path: Path, backbone: nn.Module) -> None:
    samples = read_dataset(kaggle).train[:4]
    store = store_in(tmp_path)
    store.build(engine_of(backbone), samples, digests_of(samples, tmp_path), ImageReader(CPU, 0), "build")
    with store.maps_file.open("r+b") as file:
        file.truncate(2 * store.row_bytes + 5)
    assert len(store_in(tmp_path).rows) == 2


def test_full_disk_is_reported_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = [store_in(tmp_path, view) for view in (0, 1)]
    stores[0].append([f"{0:064d}"], torch.zeros(1, 4, 2048).bfloat16())
    names = [f"{n:064d}" for n in range(3)]
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=5 * stores[0].row_bytes))
    check_disk_space(stores, [names, names])  # five rows are missing
    with pytest.raises(InputError, match=r"0\.0 GB are free; give another disk with --cache"):
        check_disk_space(stores, [names, [*names, f"{3:064d}"]])


@pytest.fixture
def two_views(tmp_path: Path) -> list[FeatureStore]:
    """Two stores of ten rows: row n of view v is full of n + 100 v on its left half and 0 on its right."""
    stores = [store_in(tmp_path, view) for view in (0, 1)]
    for view, store in enumerate(stores):
        maps = torch.zeros(10, 2048, 2, 2)
        maps[..., 0] = (torch.arange(10) + 100 * view)[:, None, None]
        store.append([f"{n:064d}" for n in range(10)], maps.flatten(2).mT.bfloat16())
    return stores


def test_batches_without_generator_keep_the_order(two_views: list[FeatureStore]) -> None:
    names = [f"{n:064d}" for n in (3, 9, 1)]
    maps, targets = zip(*feature_batches(two_views, names, [5, 6, 7], batch_size=2), strict=True)
    assert torch.cat(targets).tolist() == [5, 6, 7]
    assert torch.cat(maps)[:, 0, 0].tolist() == [[3, 0], [9, 0], [1, 0]]


def test_batches_with_generator_mix_views_and_mirror(two_views: list[FeatureStore]) -> None:
    names = [f"{n:064d}" for n in range(10)]
    seen = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        order = []
        for maps, targets in feature_batches(two_views, names, list(range(10)), 4, generator):
            for row, target in zip(maps[:, 0, 0].tolist(), targets.tolist(), strict=True):
                value = max(row)
                assert value % 100 == target
                seen.add((value >= 100, row[1] > row[0]))
                order.append(target)
        assert sorted(order) == list(range(10))
    assert len(seen) == 4  # both views, mirrored and not


def test_features_before_a_stage_are_mirrored_as_images_only(tmp_path: Path) -> None:
    spec = FeatureSpec("w", "layer4", "dataset", SIZE)
    stores = [FeatureStore(tmp_path / "cache", spec, view, SIZE, "fp32", (8, 4)) for view in range(4)]
    name, ramp = f"{0:064d}", torch.arange(4.0).repeat(4)[:, None].expand(16, 8)
    for store in stores:
        store.append([name], ramp[None].bfloat16())
    for seed in range(20):
        ((maps, _),) = feature_batches(stores, [name], [0], 1, torch.Generator().manual_seed(seed))
        assert (maps.diff(dim=3) > 0).all()
    image = Image.new("RGB", (200, 100), "red")
    image.paste("blue", (100, 0, 200, 100))
    torch.manual_seed(0)
    seen = [{bool(store.transform(image)[0, 0, 0] > 0) for _ in range(20)} for store in stores]
    assert seen == [{True}, {True, False}, {False}, {True, False}]  # red at the left


def test_larger_maps_are_cropped_to_the_smallest_store(tmp_path: Path, two_views: list[FeatureStore]) -> None:
    """A third store with maps of 3x3 whose positions are numbered, beside one with maps of 2x2."""
    large, name = store_in(tmp_path, size=96), f"{0:064d}"
    large.append([name], torch.arange(9.0)[:, None].expand(9, 2048)[None].bfloat16())
    corners = {corner: [[corner, corner + 1], [corner + 3, corner + 4]] for corner in (0, 1, 3, 4)}
    crops = [*corners.values(), *([row[::-1] for row in window] for window in corners.values())]
    seen = []
    for seed in range(100):
        ((maps, _),) = feature_batches([large, two_views[1]], [name], [0], 1, torch.Generator().manual_seed(seed))
        assert maps.shape == (1, 2048, 2, 2)
        if maps.max() < 50:  # of the larger store
            assert maps[0, 0].tolist() in crops
            seen.append(maps[0, 0].tolist())
    assert all(window in seen for window in crops)
    ((maps, _),) = feature_batches([large, two_views[1]], [name], [0], 1)
    assert maps[0, 0].flatten().tolist() == list(range(9))


def test_low_resolution_batches_are_average_pooled(two_views: list[FeatureStore]) -> None:
    ((maps, _),) = feature_batches(two_views, [f"{4:064d}"], [0], 1, low_res=1)
    assert maps.shape == (1, 2048, 1, 1)
    assert maps.flatten()[0] == 2


def test_downsampling_mirrors_where_asked() -> None:
    """7 does not divide by 4: the cells overlap."""
    maps = torch.randn(2, 5, 7, 7)
    pooled = downsample(maps.flatten(2).mT, 4, torch.tensor([False, True])).mT.unflatten(2, (4, 4))
    expected = nn.functional.adaptive_avg_pool2d(torch.stack([maps[0], maps[1].flip(-1)]), 4)
    torch.testing.assert_close(pooled, expected)


def test_folder_names_of_existing_caches_stay() -> None:
    """Folders written by the version before FeatureSpec are found: digest of the same text."""
    spec = FeatureSpec("w", "none", "dataset", 320)
    text = spec.store_text(0, 320, EvalTransform(320), "int8 ab, 512 directions cd")
    assert text == (
        '{\n "format": 3,\n "weights": "w",\n "view": 0,\n "size": 320,\n'
        ' "transform": "EvalTransform(size=320, reach=1.0, mirrored=False)",\n'
        ' "precision": "int8 ab, 512 directions cd"\n}'
    )
    tuned = FeatureSpec("w", "layer4", "dataset", 320)
    assert json.loads(tuned.store_text(0, 320, EvalTransform(320), "fp32"))["weights"] == "w up to layer4"
    assert (
        transform_text(TrainTransform(256, 0.35, flip=False)) == "TrainTransform(size=256, smallest=0.35, flip=False)"
    )
    assert transform_text(EvalTransform(256, math.inf)) == "EvalTransform(size=256, reach=inf, mirrored=False)"


def test_models_of_a_dataset_are_found_by_its_content_alone(tmp_path: Path) -> None:
    """Two folders of one name and other images share nothing; two splits of the same images share all."""
    one = dataset_digest({"train": {"a": "1", "b": "2"}, "test": {"c": "3"}})
    resplit = dataset_digest({"train": {"x/c": "3", "x/a": "1"}, "val": {"x/b": "2"}})
    other = dataset_digest({"train": {"a": "1", "b": "2"}, "test": {"c": "4"}})
    specs = [FeatureSpec("w", "none", digest, 320) for digest in (one, resplit, other)]
    int8 = [spec.int8_folder(tmp_path) for spec in specs]
    projections = [spec.projection_file(tmp_path, 512) for spec in specs]
    assert int8[0] == int8[1] != int8[2]
    assert projections[0] == projections[1] != projections[2]
    assert specs[0].projection_file(tmp_path, 64) != projections[0]


def test_features_in_memory_are_those_on_disk_and_leave_nothing_there(
    kaggle: Path, tmp_path: Path, backbone: nn.Module
) -> None:
    samples = read_dataset(kaggle).train
    digests = digests_of(samples, tmp_path)
    stored, held = store_in(tmp_path / "disk"), store_in(tmp_path / "memory")
    for store, in_memory in ((stored, False), (held, True)):
        assert store.build(engine_of(backbone), samples, digests, ImageReader(CPU, 0), "build", in_memory) == 20
    order = [digests[row] for row in (7, 0, 7, 19)]
    assert torch.equal(held.read(order), stored.read(order))
    positions = torch.tensor([[0, 1], [3, 2], [1, 1], [2, 0]])
    assert torch.equal(held.read(order, positions), stored.read(order, positions))
    assert not (tmp_path / "memory").exists()
