"""Prepares the batch source of a training: cached feature maps with their projection, or images."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dataset import TrainTransform
from features.cache import FeatureStore, check_disk_space, fits_gpu
from features.decode import ImageReader
from features.engines import Engine, Int8Model, engine_factory, find_int8
from features.pca import Projection, find_projection, project_head, projected
from features.spec import FeatureSpec, arithmetic_name, dataset_digest
from model import ActionNet
from runtime import distributed
from runtime.device import pick_workers, release_freed_memory
from training.feeds import CachedSource, ImageSource
from training.run import PreparedRun


@dataclass(frozen=True)
class PreparedSource:
    """The batch source of a run, and what its cached features were made with.

    Attributes:
        arithmetic: of the backbone; of an int8 model its digest too.
        projection: name of the PCA projection, "" without one.
        basis: of the projection (C, K), None without one.
        stores: folder names of the feature stores, which digest everything that made them.
    """

    batches: CachedSource | ImageSource
    arithmetic: str
    projection: str = ""
    basis: torch.Tensor | None = None
    stores: tuple[str, ...] = ()


def prepare_source(run: PreparedRun, model: ActionNet) -> PreparedSource:
    """Builds the batch source, and with it the feature cache; brings the head to projected channels."""
    args, split, classes, recipe = run.args, run.split, run.data.classes, run.recipe
    reader = ImageReader(run.device, pick_workers(run.device, args.workers))
    balanced = recipe.balance == "sampling"
    if recipe.views == 0:
        transform = TrainTransform(run.image_size, recipe.min_crop)
        options = (transform, recipe.batch_size, reader, args.seed, balanced)
        return PreparedSource(ImageSource(model, split.train, split.val, classes, *options), run.precision.backbone)
    spec = FeatureSpec(run.weights.sha256, args.unfreeze, dataset_digest(run.digests), run.image_size)
    int8 = find_int8(args.cache, run.interrupted["precision"]) if run.interrupted else None
    int8 = int8 or Int8Model(spec.int8_folder(args.cache))
    make_engine, arithmetic = engine_factory(
        model.frozen, run.device, run.precision.backbone, int8, lambda: split.train, run.image_size
    )
    projection = prepare_projection(run, spec, model, make_engine)
    name, basis, channels = "", None, model.feature_shape(run.image_size)[0]
    if projection:
        name, basis, channels = projection.name, projection.load(), projection.channels
        project_head(model, basis)
        make_engine = projected(make_engine, basis)
    stores = build_stores(run, spec, model, make_engine, reader, arithmetic_name(arithmetic, name), channels)
    rows = [
        (list(run.digests[part].values()), [classes.index(sample.label) for sample in samples])
        for part, samples in (("train", split.train), ("val", split.val))
    ]
    low_res_epochs = recipe.low_res_epochs(run.epochs)
    options = (recipe.batch_size, low_res_epochs, args.seed, run.precision.head, balanced)
    batches = CachedSource(model, stores, *rows, *options)
    return PreparedSource(batches, arithmetic, name, basis, tuple(store.folder.name for store in stores))


def prepare_projection(
    run: PreparedRun, spec: FeatureSpec, model: ActionNet, make_engine: Callable[[int, int], Engine]
) -> Projection | None:
    """The fitted PCA projection to the recipe's channels; None where it keeps all."""
    channels = run.recipe.channels
    if not 0 < channels < model.feature_shape(run.image_size)[0]:
        return None
    known = run.interrupted.get("projection")
    projection = find_projection(run.args.cache, known, run.image_size) if known else None
    projection = projection or Projection(spec.projection_file(run.args.cache, channels), run.image_size, channels)
    with distributed.main_process_first():
        projection.fit(make_engine, run.split.train)
    distributed.require_same(projection.name, "the PCA projection (--cache)")
    return projection


def build_stores(
    run: PreparedRun,
    spec: FeatureSpec,
    model: ActionNet,
    make_engine: Callable[[int, int], Engine],
    reader: ImageReader,
    arithmetic: str,
    channels: int,
) -> list[FeatureStore]:
    """One store per view, complete for this split: in a GPU's memory where that holds all of them, else on disk."""
    stores, parts = [], []
    for view in range(run.recipe.views):
        size = model.crop_size(run.image_size) if view else run.image_size
        shape = (channels, model.feature_shape(size)[1])
        stores.append(FeatureStore(run.args.cache, spec, view, size, arithmetic, shape))
        digests = [*run.digests["train"].values(), *(run.digests["val"].values() if view == 0 else ())]
        parts.append((run.split.train + (run.split.val if view == 0 else []), digests))
    need = sum(store.row_bytes * len(digests) for store, (_, digests) in zip(stores, parts, strict=True))
    fits = fits_gpu(need, run.device)
    in_memory = run.in_memory and fits
    if not in_memory:
        check_disk_space(stores, [digests for _, digests in parts])
    for view, (store, (samples, digests)) in enumerate(zip(stores, parts, strict=True), 1):
        label = f"feature maps, view {view} of {len(stores)}"
        store.build(make_engine, samples, digests, reader, label, in_memory)
        release_freed_memory()
    if fits and not in_memory:
        for store, (_, digests) in zip(stores, parts, strict=True):
            store.pin(digests, run.device)
    return stores
