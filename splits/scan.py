"""Looks at every picture once: is it readable, how large is it, and which others show the same?"""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import imagehash
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from dataset import Sample, load_image
from runtime.errors import InputError
from runtime.files import write_text

NEAR_BITS = 4  # pictures whose 64-bit difference hashes differ in so few bits count as one
BLOCK = 2**23  # distances held at a time, 8 bytes each
SCAN_VERSION = 1  # to be raised when the same file would give another scan


@dataclass(frozen=True)
class Scan:
    """What one picture file turned out to be; `error` is None where it can be read."""

    sha256: str
    dhash: int = 0
    width: int = 0
    height: int = 0
    error: str | None = None


def scan_file(path: Path) -> Scan:
    sha256 = ""
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        image = load_image(path)
        return Scan(sha256, int(str(imagehash.dhash(image)), 16), *image.size)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError and their own
        return Scan(sha256, error=" ".join(str(error).split()) or type(error).__name__)


def stamp(path: Path) -> str:
    """What a remembered scan is found by: the file, its size and time, and how it was scanned."""
    try:
        stat = path.stat()
        return f"{SCAN_VERSION}|{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    except OSError:
        return f"{path} is gone"


def scan_files(paths: Sequence[Path], memory: Path) -> list[Scan]:
    """Scans files, with a progress bar; what was seen before, and has its size and time still, is not read again.

    Args:
        memory: a JSON file that keeps the scans from run to run.
    """
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    keys = {path: stamp(path) for path in paths}
    todo = [path for path in keys if keys[path] not in known]
    if todo:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding the interpreter
            scans = tqdm(pool.map(scan_file, todo), "check pictures", len(todo), unit=" images")
            known |= {keys[path]: asdict(scan) for path, scan in zip(todo, scans, strict=True)}
        kept = {key: scan for key, scan in known.items() if scan["error"] is None}  # a failure may pass
        write_text(memory, json.dumps(kept))
    return [Scan(**known[keys[path]]) for path in paths]


def check_images(samples: Sequence[Sample], memory: Path, skip_bad: bool) -> dict[str, Scan]:
    """Scans the pictures of samples. Returns the readable ones' scans by sample name.

    Raises: InputError listing every unreadable picture, unless `skip_bad`.
    """
    scans = dict(zip((sample.name for sample in samples), scan_files([s.path for s in samples], memory), strict=True))
    bad = [f"  {sample.path}: {scans[sample.name].error}" for sample in samples if scans[sample.name].error]
    if bad and not skip_bad:
        lines = "\n".join(bad)
        raise InputError(f"{len(bad)} unreadable picture(s); replace them, or leave them out with --skip-bad:\n{lines}")
    return {name: scan for name, scan in scans.items() if scan.error is None}


def group_duplicates(scans: Sequence[Scan], near_bits: int = NEAR_BITS) -> np.ndarray:
    """Numbers groups of pictures that are copies: equal bytes, or difference hashes at most `near_bits` apart.

    With `near_bits` below 0 only equal bytes count. The hash compares neighbouring pixels of a 9x8 thumbnail
    (Krawetz 2013, "Kind of Like That").

    Returns: (N,) group numbers; two pictures share one if a chain of copies leads from one to the other.
    """
    bytes_of = np.unique([scan.sha256 for scan in scans], return_inverse=True)[1]
    hashes, hash_of = np.unique(np.array([scan.dhash for scan in scans], np.uint64), return_inverse=True)
    # A graph of all digests and all hashes: a picture joins its digest to its hash, nearness joins hashes.
    offset = len(scans)
    left, right = [bytes_of], [hash_of + offset] if near_bits >= 0 else [bytes_of]
    step = max(1, BLOCK // len(hashes))
    for start in range(0, len(hashes) if near_bits > 0 else 0, step):
        distance = np.bitwise_count(hashes[start : start + step, None] ^ hashes[None, start:])
        rows, columns = np.nonzero(distance <= near_bits)
        left.append(rows + start + offset)
        right.append(columns + start + offset)
    edges = np.concatenate(left), np.concatenate(right)
    nodes = offset + len(hashes)
    graph = coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(nodes, nodes))
    groups = connected_components(graph, directed=False)[1]
    return np.unique(groups[bytes_of], return_inverse=True)[1]
