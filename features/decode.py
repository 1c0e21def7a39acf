"""Reads batches of resized crops: with a DataLoader on a CPU; on a GPU files are decoded and resized there.

A GPU decodes plain JPEGs (nvJPEG), threads decode everything else; pixels stay in the GPU's memory while it holds them,
so that every further view or epoch only crops. Crops are resized by Pillow's filter: a GPU gives the pixels of a CPU up
to rounding, and to nvJPEG's colours, which it repeats instead of interpolating.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dataset import HarDataset, Sample, Transform
from runtime.errors import InputError, first_line
from runtime.images import JPEG_START, decode_pixels, plain_jpeg_size, read_file

PADDED_PIXELS = 2**25  # of a batch of images of different sizes
NO_DECODER = ("not compiled with", "Failed to initialize", "Failed to create")  # in torchcodec's messages
AHEAD = 2  # batches that are decoded while another is used
Rows = Sequence[Sequence[int]]


class ImageReader:
    """Reads images for one device.

    Args:
        workers: on a CPU, processes that decode (0: threads); on a GPU, threads for what it does not decode itself.
    """

    def __init__(self, device: torch.device, workers: int) -> None:
        self.device, self.workers = device, workers
        self.pixels = None
        if device.type == "cuda":
            self.pixels = DecodedImages(device, workers, room=torch.cuda.mem_get_info(device)[0] // 4)

    def batches(
        self, samples: Sequence[Sample], transform: Transform, rows: Rows, seeds: Sequence[int] | None = None
    ) -> Iterator[Tensor]:
        """Yields for each batch of `rows` the crops of those samples, (B, 3, S, S) uint8.

        Args:
            seeds: one number per sample makes random crops repeatable.

        Raises: InputError naming a file that cannot be read.
        """
        if self.pixels is not None:
            return self.pixels.batches(samples, transform, rows, seeds)
        images = HarDataset(samples, [], transform, seeds)
        return (crops for crops, _ in DataLoader(images, batch_sampler=rows, num_workers=self.workers))


class DecodedImages:
    """Pixels of image files in a device's memory, kept from their first use on while `room` bytes hold them."""

    def __init__(self, device: torch.device, threads: int, room: int) -> None:
        self.device, self.threads, self.room = device, max(1, threads), room
        self.kept: dict[Path, Tensor] = {}
        self.has_decoder = True
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def batches(
        self, samples: Sequence[Sample], transform: Transform, rows: Rows, seeds: Sequence[int] | None
    ) -> Iterator[Tensor]:
        """See `ImageReader.batches`; decodes ahead in a thread, on a stream of its own."""
        with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(self.threads) as pool:
            paths = [[samples[row].path for row in batch] for batch in rows]
            coming = [ahead.submit(self.decode, batch, transform.min_side, pool) for batch in paths[:AHEAD]]
            for number, batch in enumerate(rows):
                images = coming.pop(0).result()
                if number + AHEAD < len(paths):
                    coming.append(ahead.submit(self.decode, paths[number + AHEAD], transform.min_side, pool))
                crops = [draw(transform, image, seeds and seeds[row]) for image, row in zip(images, batch, strict=True)]
                boxes, mirrored = (torch.tensor(values) for values in zip(*crops, strict=True))
                if self.stream:  # else memory of images not kept could be reused while the resize still runs
                    for image in images:
                        image.record_stream(torch.cuda.current_stream(self.device))
                yield resize_crops(images, boxes.float(), mirrored, transform.size)

    def decode(self, paths: Sequence[Path], min_side: int, pool: ThreadPoolExecutor) -> list[Tensor]:
        """Pixels (h, w, 3) uint8 of each file. Raises: InputError naming a file that cannot be read."""
        missing = [path for path in paths if path not in self.kept]
        with torch.cuda.stream(self.stream):
            contents = [read_bytes(path) for path in missing]
            sizes = [plain_jpeg_size(content) for content in contents]
            here = [number for number, size in enumerate(sizes) if size and not 0 < 2 * min_side <= min(size)]
            found = dict(zip(here, self.decode_on_gpu([contents[number] for number in here]), strict=False))
            others = [number for number in range(len(missing)) if number not in found]
            decoded = pool.map(lambda number: decode_named(missing[number], contents[number], min_side), others)
            found |= {number: pixels.to(self.device) for number, pixels in zip(others, decoded, strict=True)}
        if self.stream:
            self.stream.synchronize()
        for number, pixels in found.items():
            # An image at reduced size, which only larger JPEGs have, would not do for every transform.
            is_full = number in here or contents[number][:2] != JPEG_START or min(pixels.shape[:2]) < min_side
            if is_full and self.room >= pixels.nbytes:
                self.room -= pixels.nbytes
                self.kept[missing[number]] = pixels
        by_path = {missing[number]: pixels for number, pixels in found.items()}
        return [by_path[path] if path in by_path else self.kept[path] for path in paths]

    def decode_on_gpu(self, contents: list[bytes]) -> list[Tensor]:
        """Pixels (h, w, 3) uint8 of JPEGs; none where nvJPEG is missing or refuses one of them."""
        if not (contents and self.has_decoder):
            return []
        from torchcodec.decoders import decode_jpeg

        try:
            return [pixels.permute(1, 2, 0) for pixels in decode_jpeg(contents, mode="RGB", device=self.device)]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.has_decoder = not any(words in str(error) for words in NO_DECODER)  # else it refused an image
            return []


def read_bytes(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from error


def decode_named(path: Path, content: bytes, min_side: int) -> Tensor:
    try:
        return torch.tensor(decode_pixels(content, min_side))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from error


def draw(transform: Transform, image: Tensor, seed: int | None) -> tuple[tuple[float, float, float, float], bool]:
    """The transform's crop of an image (h, w, 3), and whether it is mirrored; the same for the same seed."""
    height, width = image.shape[:2]
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPU too, and its dropout
        return transform.crop(width, height)


def resize_crops(images: Sequence[Tensor], boxes: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Resizes a crop of each image to (B, 3, size, size) uint8, as Pillow's `resize(…, BILINEAR, box)` does.

    Bilinear with antialiasing: the triangle filter is as wide as the crop's scale where it shrinks. Two
    matrix products, of rows and of columns.

    Args:
        images: B times (h, w, 3) uint8, of any sizes.
        boxes: (B, 4), left, top, right and bottom of the crop in pixels.
        mirrored: (B,) bool, which crops are flipped horizontally.
    """
    height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    if len(images) > 1 and len(images) * height * width > PADDED_PIXELS:
        half = len(images) // 2
        parts = (slice(0, half), slice(half, None))
        return torch.cat([resize_crops(images[part], boxes[part], mirrored[part], size) for part in parts])
    device = images[0].device
    padded = torch.zeros(len(images), height, width, 3, dtype=torch.uint8, device=device)
    for row, image in zip(padded, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    sizes = torch.tensor([image.shape[:2] for image in images], device=device)
    left, top, right, bottom = boxes.to(device).unbind(1)
    rows = triangle_filter(top, bottom, sizes[:, 0], size, height)  # (B, size, height)
    columns = triangle_filter(left, right, sizes[:, 1], size, width)
    columns = torch.where(mirrored.to(device)[:, None, None], columns.flip(1), columns)  # (B, size, width)
    crops = rows @ padded.flatten(2).float()  # (B, size, width * 3)
    crops = crops.view(len(images), size, width, 3).permute(0, 1, 3, 2).flatten(1, 2)  # (B, size * 3, width)
    crops = (crops @ columns.mT).view(len(images), size, 3, size)  # (B, row, channel, column)
    return crops.round_().clamp_(0, 255).byte().transpose(1, 2)


def triangle_filter(start: Tensor, end: Tensor, length: Tensor, size: int, padded: int) -> Tensor:
    """Weights (B, size, padded) of the pixels of rows of `length` (B,) in `size` pixels from `start` to `end`."""
    scale = ((end - start) / size)[:, None, None]
    centres = start[:, None, None] + (torch.arange(size, device=start.device)[None, :, None] + 0.5) * scale
    positions = torch.arange(padded, device=start.device)[None, None, :] + 0.5
    weights = (1 - (positions - centres).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * (positions < length[:, None, None])
    return weights / weights.sum(2, keepdim=True)
