"""Thumbnails of images for a page, as data URIs."""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataset import middle
from runtime.images import load_image

SIDE = 144  # pixels
QUALITY = 70  # of WebP
BUDGET = 4_000_000  # characters of all thumbnails of a page: about 900 photographs
MOST = 1500  # images that are decoded


def thumbnails(paths: Sequence[Path]) -> list[str]:
    """Data URIs of the first images, as many as fit into `BUDGET`."""
    found, size = [], 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for uri in pool.map(thumbnail, paths[:MOST]):
            size += len(uri)
            if size > BUDGET:
                break
            found.append(uri)
    return found


def thumbnail(path: Path) -> str:
    """The centre crop that the network sees, SIDE × SIDE."""
    image = load_image(path, SIDE)
    image = image.resize((SIDE, SIDE), box=middle(*image.size))
    data = io.BytesIO()
    image.save(data, "webp", quality=QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"
