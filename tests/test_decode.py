import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blobs
from PIL import Image
from torchvision.transforms import v2

import features.decode
from dataset import EvalTransform, Sample, TrainTransform, Transform, random_crop
from features.decode import DecodedImages, ImageReader, resize_crops
from runtime.errors import InputError
from runtime.images import decode_pixels, plain_jpeg_size

CPU = torch.device("cpu")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Images of every kind that takes a way of its own."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = blobs(1, (90, 40))
    wide.save(tmp_path / "0.jpg")
    blobs(2, (33, 70)).save(tmp_path / "1.jpg", progressive=True)
    blobs(3).convert("L").save(tmp_path / "2.jpg")
    wide.save(tmp_path / "3.jpg", exif=exif)
    blobs(4).convert("CMYK").save(tmp_path / "4.jpg")
    wide.save(tmp_path / "5.jpg", keep_rgb=True)
    blobs(5).save(tmp_path / "6.png")
    blobs(6, (700, 500)).save(tmp_path / "7.jpg")  # decoded at reduced size
    return [Sample(path.name, path, None) for path in sorted(tmp_path.iterdir())]


def decoded(samples: list[Sample], transform: Transform, images: DecodedImages | None = None) -> torch.Tensor:
    images = images or DecodedImages(CPU, threads=2, room=2**30)
    rows, seeds = [[0, 1, 2, 3, 4], [7, 6, 5]], list(range(len(samples)))
    return torch.cat(list(images.batches(samples, transform, rows, seeds)))


@pytest.mark.parametrize("transform", [EvalTransform(64), EvalTransform(64, 5 / 4, True), TrainTransform(64)])
def test_gpu_path_gives_the_crops_of_the_data_loader(samples: list[Sample], transform: Transform) -> None:
    rows, seeds = [[0, 1, 2, 3, 4], [7, 6, 5]], list(range(len(samples)))
    expected = torch.cat(list(ImageReader(CPU, 0).batches(samples, transform, rows, seeds)))
    found = decoded(samples, transform)
    assert found.shape == expected.shape == (8, 3, 64, 64)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_crops_do_not_depend_on_the_batch_they_are_in(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = decoded(samples, TrainTransform(32))
    monkeypatch.setattr(features.decode, "PADDED_PIXELS", 100)  # every image alone
    assert torch.equal(decoded(samples, TrainTransform(32)), expected)


def test_pixels_are_kept_while_there_is_room(samples: list[Sample]) -> None:
    roomy, tight = DecodedImages(CPU, 2, room=2**30), DecodedImages(CPU, 2, room=90 * 40 * 3 + 5)
    first, small = decoded(samples[:7] + samples[:1], EvalTransform(64), roomy), [[0], [1]]
    assert len(list(tight.batches(samples, EvalTransform(64), small, None))) == 2
    for sample in samples:
        sample.path.unlink()
    assert torch.equal(decoded(samples[:7] + samples[:1], EvalTransform(64), roomy), first)
    assert len(list(tight.batches(samples, EvalTransform(64), small[:1], None))) == 1
    with pytest.raises(InputError, match=r"1\.jpg: cannot be read"):
        list(tight.batches(samples, EvalTransform(64), small, None))


@pytest.mark.parametrize("reason", ["nvjpegDecode failed: 3", "nvjpeg is not available"])
def test_what_the_gpu_does_not_decode_threads_decode(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    import torchcodec.decoders

    expected, on_cpu = decoded(samples, EvalTransform(64)), torchcodec.decoders.decode_jpeg

    def refuse(source: object, **options: object) -> object:
        if isinstance(source, list):
            raise RuntimeError(reason)
        return on_cpu(source, **options)

    monkeypatch.setattr(torchcodec.decoders, "decode_jpeg", refuse)
    assert torch.equal(decoded(samples, EvalTransform(64)), expected)


def test_resized_crops_are_pillows_up_to_rounding() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(5, 300, (40, 2))
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    ends = [np.sort(rng.uniform(0, 1, (2, 2)), axis=0) * size[::-1] for size in sizes]
    boxes = [(*low, *np.maximum(high, low + 1e-3)) for low, high in ends]
    tensors, mirrored = [torch.from_numpy(image) for image in images], torch.arange(40) % 2 == 1
    found = resize_crops(tensors, torch.tensor(np.array(boxes)).float(), mirrored, 32)
    for number, (image, box) in enumerate(zip(images, boxes, strict=True)):
        pixels = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR, box)).transpose(2, 0, 1)
        expected = pixels[:, :, ::-1] if number % 2 else pixels
        assert np.abs(found[number].numpy().astype(int) - expected).max() <= 1, (number, image.shape, box)


def test_random_crops_are_those_of_torchvision() -> None:
    for seed in range(300):
        width, height = np.random.default_rng(seed).integers(2, 600, 2).tolist()
        width *= 1 + 6 * (seed % 5 == 0)  # too wide for any crop
        torch.manual_seed(seed)
        shape = torch.empty(()).expand(3, height, width)
        top, left, tall, wide = v2.RandomResizedCrop.get_params(shape, [0.08, 1.0], [3 / 4, 4 / 3])
        after = torch.rand(())
        torch.manual_seed(seed)
        assert random_crop(width, height, 0.08) == (left, top, left + wide, top + tall)
        assert torch.rand(()) == after


def test_every_image_has_pillows_pixels(samples: list[Sample]) -> None:
    for sample in samples:
        with Image.open(sample.path) as file:
            upright = file.transpose(Image.Transpose.ROTATE_270) if sample.name == "3.jpg" else file
            expected = np.asarray(upright.convert("RGB"))
        assert np.array_equal(decode_pixels(sample.path.read_bytes()), expected), sample.name


def test_plain_jpegs_are_told_from_their_header(samples: list[Sample]) -> None:
    sizes = [plain_jpeg_size(sample.path.read_bytes()) for sample in samples]
    assert sizes == [(90, 40), (33, 70), (40, 32), None, None, None, None, (700, 500)]
    data = samples[0].path.read_bytes()
    for length in range(0, 200):
        assert plain_jpeg_size(data[:length]) in (None, (90, 40))


def test_damaged_jpegs_raise_an_error_that_says_so(samples: list[Sample]) -> None:
    data = samples[0].path.read_bytes()
    for damaged in (data[:-200], data[:30], b"", b"\xff\xd8\xff\xe0\x00\x00" + bytes(20)):
        with pytest.raises(OSError):
            decode_pixels(damaged)
    buffer = io.BytesIO()
    blobs(0).save(buffer, "PNG")
    with pytest.raises(OSError):
        decode_pixels(buffer.getvalue()[:-60])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_cuda_gives_the_crops_of_the_cpu(samples: list[Sample]) -> None:
    cuda = torch.device("cuda")
    found = decoded(samples, TrainTransform(64), DecodedImages(cuda, 2, room=2**30))
    difference = (found.cpu().int() - decoded(samples, TrainTransform(64)).int()).abs().float()
    assert found.is_cuda
    assert difference.mean() < 5  # nvJPEG rounds, and repeats colours instead of interpolating them


def test_images_too_large_to_decode_are_left_to_pillow_which_refuses_them(tmp_path: Path) -> None:
    """A header that claims 400 megapixels takes no memory."""
    blobs(0).save(tmp_path / "a.jpg")
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (20_000).to_bytes(2, "big") * 2
    assert plain_jpeg_size(bytes(data)) is None
    with pytest.raises(OSError, match="more than 268 million pixels"):
        decode_pixels(bytes(data))
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.jpg: cannot be read"):
        list(ImageReader(CPU, 0).batches([Sample("a", tmp_path / "a.jpg", None)], EvalTransform(64), [[0]]))
