"""Scans images once: readability, size, SHA-256 and perceptual hash; groups duplicates."""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

from dataset import Sample
from runtime.errors import InputError
from runtime.files import read_known, write_text
from runtime.images import LARGE, decode_pixels, read_file, turn, upright_size
from runtime.status import track

CHUNK = 16  # images that a worker scans at a time
MAX_DISTANCE = 4  # images whose 64-bit difference hashes differ in at most this many bits are duplicates
BLOCK = 2**23  # distances computed at a time, 8 bytes each
HASHED_SIDE = 1024  # short side that is enough for the hash of a large image
SCAN_VERSION = 1  # raise it when the same file would give another scan


@dataclass(frozen=True)
class Scan:
    """Digest, perceptual hash and size in pixels of one image file; `error` is None if it can be read."""

    sha256: str
    dhash: int = 0
    width: int = 0
    height: int = 0
    error: str | None = None


def scan_file(path: Path) -> Scan:
    sha256 = ""
    try:
        data = read_file(path)
        sha256 = hashlib.sha256(data).hexdigest()
        width, height = upright_size(data)
        with turn(width, height):
            pixels = decode_pixels(data, HASHED_SIDE if width * height > LARGE else 0)
            return Scan(sha256, difference_hash(pixels), width, height)
    except OSError as error:
        return Scan(sha256, error=" ".join(str(error).split()) or type(error).__name__)


def difference_hash(pixels: np.ndarray) -> int:
    """64 bits: whether brightness grows from one pixel to the next in each row of a 9x8 thumbnail.

    Krawetz 2013, "Kind of Like That"; the library ImageHash computes the same bits.

    Args:
        pixels: (h, w, 3) uint8.
    """
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.LANCZOS))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def scan_key(path: Path) -> str:
    """Key of a stored scan: path, size and modification time of the file, and the scan's version."""
    try:
        stat = path.stat()
        return f"{SCAN_VERSION}|{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    except OSError:
        return f"{path} does not exist"


def scan_files(paths: Sequence[Path], cache_file: Path) -> list[Scan]:
    """Scans files, shows progress; files scanned before whose size and time are unchanged are not read again.

    Args:
        cache_file: JSON file that stores the scans.
    """
    known = stored_scans(cache_file)
    keys = {path: scan_key(path) for path in paths}
    todo = [path for path in keys if keys[path] not in known]
    if todo:
        with worker_pool(len(todo)) as pool:
            scans = track(pool.map(scan_file, todo, chunksize=CHUNK), "check images", len(todo))
            known |= {keys[path]: asdict(scan) for path, scan in zip(todo, scans, strict=True)}
        kept = {key: scan for key, scan in known.items() if scan["error"] is None}  # errors may be temporary
        write_text(cache_file, json.dumps({"sha256": checksum(kept), "scans": kept}))
    return [Scan(**known[keys[path]]) for path in paths]


def known_scans(paths: Sequence[Path], cache_file: Path) -> list[Scan]:
    """Those scans of readable files that `scan_files` stored; reads no image."""
    known = stored_scans(cache_file)
    return [Scan(**known[key]) for key in map(scan_key, paths) if key in known]


def stored_scans(cache_file: Path) -> dict[str, dict[str, Any]]:
    """The content of the cache; nothing of a file that is missing or damaged."""
    stored = read_known(cache_file)
    scans = stored.get("scans", stored)  # older versions stored scans alone
    if not isinstance(scans, dict) or stored.get("sha256", "") not in ("", checksum(scans)):
        return {}
    return {key: scan for key, scan in scans.items() if is_scan(scan)}


def checksum(scans: dict[str, Any]) -> str:
    """SHA-256 of scans as the cache stores them: a flipped bit in a hash or a size would go unnoticed."""
    return hashlib.sha256(json.dumps(scans).encode()).hexdigest()


def is_scan(value: Any) -> bool:
    """Whether a value of the cache is the scan of a readable file."""
    if not isinstance(value, dict) or value.keys() != set(Scan.__dataclass_fields__) or value["error"] is not None:
        return False
    numbers = [value[name] for name in ("dhash", "width", "height")]
    return isinstance(value["sha256"], str) and all(type(number) is int and 0 <= number < 2**64 for number in numbers)


def sizes(scans: Iterable[Scan]) -> dict[str, dict[str, float]]:
    """Smallest, median and largest width and height in pixels; zeros if there is no scan."""
    scans = list(scans)
    sides = {side: [getattr(scan, side) for scan in scans] or [0] for side in ("width", "height")}
    return {side: {"min": min(v), "median": median(v), "max": max(v)} for side, v in sides.items()}


def worker_pool(images: int) -> Executor:
    """A process per core where a process starts at once, as a fork; threads elsewhere, and for a few images.

    Threads would share Python's lock, which reading headers and hashing holds for half of the time.
    """
    if sys.platform != "linux" or images < 4 * CHUNK:
        return ThreadPoolExecutor(os.cpu_count())
    return ProcessPoolExecutor(os.cpu_count(), get_context("fork"), initializer=begin_worker, initargs=(os.getpid(),))


def begin_worker(parent: int) -> None:
    """Makes a worker leave Ctrl-C and SIGTERM to its parent, and end where that was killed: it would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    Thread(target=end_after, args=(parent,), daemon=True).start()


def end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def check_images(samples: Sequence[Sample], cache_file: Path, skip_bad: bool) -> dict[str, Scan]:
    """Scans the images of samples. Returns the scans of readable images by sample name.

    Raises: InputError listing every unreadable image, unless `skip_bad`.
    """
    found = scan_files([sample.path for sample in samples], cache_file)
    scans = {sample.name: scan for sample, scan in zip(samples, found, strict=True)}
    bad = [f"  {sample.path}: {scans[sample.name].error}" for sample in samples if scans[sample.name].error]
    if bad and not skip_bad:
        raise InputError(f"{len(bad)} unreadable image(s); replace them, or skip them with --skip-bad:", *bad)
    return {name: scan for name, scan in scans.items() if scan.error is None}


def group_duplicates(scans: Sequence[Scan], max_distance: int = MAX_DISTANCE) -> np.ndarray:
    """Numbers groups of duplicates: equal bytes, or difference hashes at most `max_distance` bits apart.

    With `max_distance` below 0 only equal bytes count. The hash compares neighbouring pixels of a 9x8 thumbnail
    (Krawetz 2013, "Kind of Like That").

    Returns: (N,) group numbers; two images share one if a chain of duplicates connects them.
    """
    from scipy.sparse import coo_array  # takes half a second
    from scipy.sparse.csgraph import connected_components

    if not scans:
        return np.empty(0, dtype=int)
    digest_of = np.unique([scan.sha256 for scan in scans], return_inverse=True)[1]
    hashes, hash_of = np.unique(np.array([scan.dhash for scan in scans], np.uint64), return_inverse=True)
    # Nodes of the graph are digests and hashes: an image connects its digest to its hash, a small distance two hashes.
    offset = len(scans)
    left, right = [digest_of], [hash_of + offset] if max_distance >= 0 else [digest_of]
    step = max(1, BLOCK // len(hashes))
    for start in range(0, len(hashes) if max_distance > 0 else 0, step):
        distance = np.bitwise_count(hashes[start : start + step, None] ^ hashes[None, start:])
        rows, columns = np.nonzero(distance <= max_distance)
        left.append(rows + start + offset)
        right.append(columns + start + offset)
    edges = np.concatenate(left), np.concatenate(right)
    nodes = offset + len(hashes)
    graph = coo_array((np.ones(len(edges[0]), dtype=bool), edges), shape=(nodes, nodes))
    groups = connected_components(graph, directed=False)[1]
    return np.unique(groups[digest_of], return_inverse=True)[1]
