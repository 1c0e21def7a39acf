"""export.py: networks in other formats give PyTorch's probabilities."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import read_json, small

import export
import train
from dataset import EvalTransform, normalise
from exporting import write
from exporting.graph import Portable
from layouts.parts import EXAMPLES
from runtime.errors import InputError
from runtime.images import load_image
from training.checkpoint import load_model

FOLDER = Path("results/a/export")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two classes of example photographs and their mirror images."""
    folder = tmp_path_factory.mktemp("export")
    for name in ("drinking", "laughing"):
        image = load_image(EXAMPLES / f"{name}.jpg").resize((120, 100))
        (folder / "set" / name).mkdir(parents=True)
        for n in range(8):
            turned = image.rotate(9 * n)
            turned.save(folder / "set" / name / f"{n}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.main(small(data=Path("set"), run="a", epochs=1, channels=64, ignore_duplicates=True))
    return folder


@pytest.mark.parametrize(("form", "preprocessing"), [("onnx", True), ("onnx", False), ("program", True)])
def test_exported_network_gives_the_probabilities_of_the_run(
    runs: Path, monkeypatch: pytest.MonkeyPatch, form: str, preprocessing: bool
) -> None:
    monkeypatch.chdir(runs)
    export.main(export.Args(run="a", format=form, preprocessing=preprocessing))
    about = read_json(FOLDER / "export.json")
    ((name, row),) = about["files"].items()
    assert row["largest_difference"] < 1e-5
    assert about["compared_on"] == "2 test images"
    model, record, _ = load_model(Path("results/a"), torch.device("cpu"))
    assert about["classes"] == record["classes"]
    pixels = torch.stack([EvalTransform(64)(load_image(file)) for file in sorted(EXAMPLES.glob("*.jpg"))])
    with torch.inference_mode():
        expected = model.probabilities(model(normalise(pixels)))
    images = (pixels.permute(0, 2, 3, 1) if preprocessing else normalise(pixels)).contiguous()
    code = (FOLDER / "README.md").read_text(encoding="utf-8").split("```")[1].removeprefix("python\n")
    scope = {"images": images.numpy() if form == "onnx" else images}
    monkeypatch.chdir(FOLDER)
    exec(code, scope)  # the lines of the card, as they stand there
    torch.testing.assert_close(torch.as_tensor(scope["probabilities"]), expected, rtol=0, atol=1e-5)
    assert Path(name).stat().st_size == row["bytes"]


def test_int8_is_smaller_and_tested(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    export.main(export.Args(run="a", int8=True))
    whole, int8 = (read_json(FOLDER / "export.json")["files"][name] for name in ("model.onnx", "model_int8.onnx"))
    assert int8["bytes"] < 0.3 * whole["bytes"]
    assert whole["largest_difference"] < 1e-5 < int8["largest_difference"] < 0.2
    assert whole["test_images"] == int8["test_images"] == 2
    session = onnxruntime.InferenceSession(FOLDER / "model_int8.onnx")
    assert session.run(None, {"images": np.zeros((3, 3, 64, 64), np.float32)})[0].shape == (3, 2)


def test_a_network_that_differs_is_not_written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    reference = Portable.reference
    monkeypatch.setattr(write.Portable, "reference", lambda self, images: reference(self, images) + 0.01)
    before = sorted(path.name for path in Path("results/a").iterdir())
    with pytest.raises(InputError, match=r"model\.pt2: probabilities differ by 0\.01 from PyTorch's; not written"):
        export.main(export.Args(run="a", format="program"))
    assert sorted(path.name for path in Path("results/a").iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8": True, "format": "program"}, "--int8 goes with --format onnx"),
        ({"pretrained": "r", "int8": True}, "--pretrained goes without"),
        ({"run": "pretrained", "int8": True}, "the pretrained network comes without its images"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        export.main(export.Args(**options))
    assert not Path("results").exists()


def test_without_its_packages_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package onnx: pip install -r requirements-export.txt$"):
        export.check(export.Args())
