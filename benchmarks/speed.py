"""Measures speed beside other libraries' ways of doing the same work.

    python -m benchmarks.speed                                      the dataset in data/, or the built-in sample
    python -m benchmarks.speed --data DIR --parts backbone head
    python -m benchmarks.speed --data DIR --device cuda             writes results/benchmark_gpu.json

Candidates run interleaved, each in its own process; figures are medians, and ratios are taken within one round. ONNX
Runtime takes part where it is installed (pip install -r requirements-benchmark.txt). Writes results/benchmark.json, and
keeps in it the parts that were measured earlier on the same machine and dataset.
"""

import tempfile
from pathlib import Path

import torch

from benchmarks import gpu, scripts, start
from benchmarks.bench import Args, Bench, compare, known_parts, machine
from benchmarks.interleave import run_interleaved
from dataset import find_root, read_dataset
from runtime.console import parse_arguments, run_script
from runtime.device import pick_device
from runtime.errors import InputError
from runtime.options import require_range
from sample.build import ensure_sample

GROUPS = {  # parts that only compare candidates, with the candidates' groups
    "backbone": ["backbone"],
    "head": ["head, feature maps of 5x5", "head, feature maps of 10x10"],
    "decoding": ["decoding, dataset images", "decoding, 12 megapixels"],
}
MEASUREMENTS = {
    "start": start.measure_start,
    "training": scripts.measure_training,
    "fast": scripts.measure_fast_training,
    "predict": scripts.measure_prediction,
    "visualize": scripts.measure_visualization,
    "looking": scripts.measure_visualization,  # its former name
    "scale": scripts.measure_scale,
}
ON_GPU = {
    "start": start.measure_start,
    "loop": gpu.measure_loop,
    "decoding": gpu.measure_decoding,
    "backbone": gpu.measure_backbone,
    "head": gpu.measure_head,
    "finetuning": gpu.measure_finetuning,
    "training": scripts.measure_training,
    "predict": scripts.measure_prediction,
    "visualize": scripts.measure_visualization,
}
DEFAULT_PARTS = ("start", "backbone", "head", "decoding", "training", "fast", "predict", "visualize", "scale")


def main(args: Args) -> None:
    require_range("rounds", args.rounds, 1)
    device = pick_device(args.device)
    folder = args.data or Path("data")
    if args.data is None and find_root(folder) is None:
        folder = Path("data/sample")
        ensure_sample(folder)
    data = read_dataset(folder.resolve())
    with tempfile.TemporaryDirectory(prefix="benchmark") as scratch:
        about = {"machine": machine(), "dataset": data.name}
        bench = Bench(args, data, Path(scratch), known_parts(args.file, about) | about)
        run_parts(bench, device)
    print(f"\nwritten: {args.file}")


def run_parts(bench: Bench, device: torch.device) -> None:
    on_gpu = device.type != "cpu"
    for part in bench.args.parts or (tuple(ON_GPU) if on_gpu else DEFAULT_PARTS):
        if on_gpu and part not in ON_GPU:
            raise InputError(f"--parts {part}: is measured on a CPU only; parts of a GPU: {', '.join(ON_GPU)}")
        for group in [] if on_gpu else GROUPS.get(part, []):
            bench.save(group, compare(*run_interleaved(group, bench.work, bench.args.rounds)))
        if on_gpu:
            ON_GPU[part](bench, device)
        elif part not in GROUPS:
            MEASUREMENTS[part](bench, device)


if __name__ == "__main__":
    run_script(main, parse_arguments(Args, __doc__))
