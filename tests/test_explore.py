"""The web page's server: limits, strangers, changes, the index."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Script
from PIL import Image
from starlette.testclient import TestClient

from dataset import EvalTransform, normalise
from explorer.index import IndexMaker, save
from explorer.server import listen, make_app
from explorer.visitors import MAX_BYTES, Visitors
from runtime.errors import InputError
from runtime.images import load_image
from runtime.options import RunOptions
from training.trained_run import TrainedRun, load_run

LOCAL = "http://127.0.0.1"


@pytest.fixture(scope="module")
def run(trained: Path) -> TrainedRun:
    options = RunOptions(results=trained / "results", cache=trained / "data/cache", data=trained / "data/sample")
    return load_run(options, torch.device("cpu"))


@pytest.fixture(scope="module")
def visitors(run: TrainedRun) -> Visitors:
    return Visitors(run, kept=3)


@pytest.fixture(scope="module")
def index(visitors: Visitors, tmp_path_factory: pytest.TempPathFactory) -> IndexMaker:
    maker = IndexMaker(visitors.run, visitors.chain, images=12)
    maker.path = tmp_path_factory.mktemp("index") / "index.npz"
    assert list(maker.make())[-1] == 12
    return maker


@pytest.fixture(scope="module")
def client(visitors: Visitors, index: IndexMaker) -> TestClient:
    return TestClient(make_app(visitors, index, []), base_url=LOCAL)


@pytest.fixture(scope="module")
def photograph(run: TrainedRun) -> Path:
    return run.samples("test")[0].path


def png(width: int, height: int) -> bytes:
    """An image file that says to have that size, and ends after a few pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100)))]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def add(client: TestClient, path: Path, like: str = "") -> dict:
    answer = client.post("/api/images", params={"name": path.name, "like": like}, content=path.read_bytes())
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_probabilities_are_those_of_the_run(client: TestClient, run: TrainedRun, photograph: Path) -> None:
    found = add(client, photograph)
    example = run.file_example(photograph)
    with torch.no_grad():
        expected = run.prediction(example, run.model(example.input[None])).probabilities
    assert np.allclose(found["probabilities"], expected, atol=1e-5)
    assert found["original"] == found["probabilities"]
    assert [column["name"] for column in found["columns"]][-1] == "relu2"
    assert len(found["columns"][-1]["channels"]) == 8
    activity = found["columns"][2]["activity"]
    assert activity == sorted(activity, reverse=True)
    pixels = client.get(f"/api/images/{found['id']}/input.png").content
    assert np.allclose(np.asarray(Image.open(io.BytesIO(pixels))) / 255, example.input_pixels, atol=0.003)


def test_a_channel_its_class_and_what_switching_it_off_does(
    client: TestClient, run: TrainedRun, photograph: Path
) -> None:
    found = add(client, photograph)
    path = f"/api/images/{found['id']}"
    best = int(np.argmax(found["probabilities"]))
    speaks = client.get(f"{path}/class", params={"class": best}).json()
    assert np.isclose(speaks["bias"], run.model.fc.bias[best].item(), atol=2e-4)
    channel = speaks["for"]["channels"][0]
    known = {"column": "relu2", "channel": channel}
    before = client.get(f"{path}/channel", params=known).json()
    classes = client.get(f"{path}/added", params=known).json()["classes"]
    (added,) = (row["logit"] for row in classes if row["class"] == best)
    assert np.isclose(added, speaks["for"]["values"][0], atol=2e-4)
    changes = {"scales": {"relu2": {str(channel): 0}}, "cover": None}
    changed = client.post(f"{path}/changes", json=changes).json()
    assert changed["original"] == found["probabilities"]
    assert np.isclose(found["logits"][best] - changed["logits"][best], added, atol=3e-4)
    assert changed["probabilities"][best] < found["probabilities"][best]
    assert client.get(f"{path}/channel", params=known).json()["histogram"] == before["histogram"]
    covered = client.post(f"{path}/changes", json={"scales": {}, "cover": [0.2, 0.2, 0.9, 0.9]}).json()
    assert covered["probabilities"] not in (found["probabilities"], changed["probabilities"])
    back = client.post(f"{path}/changes", json={"scales": {}, "cover": None}).json()
    assert back["probabilities"] == found["probabilities"]
    assert [column["maps"]["data"] for column in back["columns"]] == [
        column["maps"]["data"] for column in found["columns"]
    ]


def test_every_view_answers(client: TestClient, photograph: Path) -> None:
    found = add(client, photograph)
    path = f"/api/images/{found['id']}"
    columns = client.get("/api/network").json()["columns"]
    for column in columns[1:]:
        name, last = column["name"], column["channels"] - 1
        shares = np.array(client.get(f"{path}/edges", params={"column": name}).json()["shares"])
        assert shares.shape[0] == 8
        assert np.abs(shares).sum(1).max() <= 1.001
        about = client.get(f"{path}/channel", params={"column": name, "channel": last}).json()
        assert about["map"]["height"] == column["side"]
        assert about["histogram"]["n"] == column["side"] ** 2
        kernel = about["kernel"]
        assert np.shape(kernel["rgb"])[0] == 3 if name == "base_model.relu" else len(kernel["slices"]) == 8
        assert client.get(f"{path}/cam", params={"column": name, "class": 1}).json()["map"]["width"] == column["side"]
    assert client.get(f"{path}/occlusion", params={"class": 0}).json()["map"]["width"] == 40
    classes = len(found["probabilities"])
    assert np.shape(client.get(f"{path}/class_edges").json()["shares"]) == (classes, 8)


def test_compared_photographs_show_the_same_channels(client: TestClient, run: TrainedRun) -> None:
    one, other = (sample.path for sample in run.samples("test")[1:3])
    first = add(client, one)
    second = add(client, other, like=first["id"])
    assert [column["channels"] for column in second["columns"]] == [column["channels"] for column in first["columns"]]
    assert second["probabilities"] != first["probabilities"]


def test_everything_follows_channels_that_are_switched_off(client: TestClient, photograph: Path) -> None:
    path = f"/api/images/{add(client, photograph)['id']}"
    off = {"relu2": {str(channel): 0 for channel in range(256)}}
    client.post(f"{path}/changes", json={"scales": off, "cover": None})
    for what in ("cam?column=base_model.layer4&class=0", "occlusion?class=0"):
        assert client.get(f"{path}/{what}").json()["map"]["high"] == 0
    channel = client.get(f"{path}/added", params={"column": "relu1", "channel": 0}).json()
    assert [row["logit"] for row in channel["classes"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"no image at all", 400, "garbage.bin: cannot be read (not an image that Pillow opens)"),
        (b"", 400, "the file is empty"),
        (png(20_000, 20_000), 400, "far more than 64 million pixels"),
        (png(9_000, 9_000), 400, "9000 × 9000 pixels, more than 64 million"),
        (png(500, 500), 400, "truncated"),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
            400,
            "EPS: a format that is not read",
        ),
        (b"\0\0\1\0\1\0" + bytes(40), 400, "an icon, not a photograph"),
        (b"\xff\xd8\xff\xe0" + bytes(MAX_BYTES), 413, "more than 25 MB"),
    ],
)
def test_bad_uploads_are_one_line(client: TestClient, content: bytes, status: int, message: str) -> None:
    answer = client.post("/api/images", params={"name": "garbage.bin"}, content=content)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert "object at" not in answer.json()["error"]


def test_strangers_are_refused(client: TestClient, visitors: Visitors, photograph: Path) -> None:
    first = add(client, photograph)["id"]
    assert len(first) >= 20
    for place in ("/api/images/0/class?class=0", f"/api/images/{first[:-1]}/input.png", "/api/images/"):
        assert client.get(place).status_code in (404, 405, 410)
    for _ in range(3):
        add(client, photograph)
    assert len(visitors.looks) == 3
    gone = client.get(f"/api/images/{first}/class", params={"class": 0})
    assert gone.status_code == 410
    assert "drop it again" in gone.json()["error"]
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "127.0.0.1:8000"}).status_code == 200
    assert client.post("/api/images", content=b"", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/api/images", content=b"", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post(f"/api/images/{first}/changes", content=bytes(2_000_000)).status_code in (410, 413)
    for place in (
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        "/api/examples/0",
        "/api/examples/../../best.pt",
    ):
        assert client.get(place).status_code in (400, 404)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("channel?column=nowhere&channel=0", "column nowhere: the network has input"),
        ("channel?column=relu2&channel=256", "relu2 has the channels 0 to 255"),
        ("channel?column=relu2&channel=-1", "channel -1"),
        ("channel?column=input&channel=0", "is the image"),
        ("class?class=99", "class 99: the run knows"),
        ("class?class=x", "class 'x': give its number"),
        ("class?class=" + "9" * 5000, "give its number"),
        ("channel?column=relu2&channel=" + "9" * 5000, "relu2 has the channels 0 to 255"),
        ("cam?column=relu2", "class '': give its number"),
    ],
)
def test_wrong_questions_are_one_line(client: TestClient, photograph: Path, what: str, message: str) -> None:
    answer = client.get(f"/api/images/{add(client, photograph)['id']}/{what}")
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    "changes",
    [b"{", b"[]", b'{"scales": 3, "cover": null}', b'{"scales": {"relu2": {"0": 9}}, "cover": null}',
     b'{"scales": {"relu2": {"999": 0}}, "cover": null}', b'{"scales": {}, "cover": [0.5, 0.5, 0.5, 0.5]}',
     b'{"scales": {"relu2": {"0": 1' + 400 * b"0" + b"}}, \"cover\": null}", 200_000 * b"[",
     b'{"scales": {}, "cover": [1, 2]}', b'{"scales": {"relu2": {"0": "x"}}, "cover": null}'],
)  # fmt: skip
def test_wrong_changes_change_nothing(client: TestClient, photograph: Path, changes: bytes) -> None:
    found = add(client, photograph)
    path = f"/api/images/{found['id']}"
    answer = client.post(f"{path}/changes", content=changes)
    assert answer.status_code == 400
    assert answer.json()["error"]
    same = client.post(f"{path}/changes", json={"scales": {}, "cover": None}).json()
    assert same["probabilities"] == found["probabilities"]


def test_policy_allows_nobody_else(client: TestClient) -> None:
    answer = client.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_index_finds_what_excites_a_channel(client: TestClient, visitors: Visitors, index: IndexMaker) -> None:
    inputs = [normalise(EvalTransform(64)(load_image(sample.path))) for sample in index.samples]
    outputs, _ = visitors.chain.outputs(torch.stack(inputs))
    peaks = outputs["relu1"].amax((2, 3))  # (N, C)
    channel = int(peaks.sum(0).argmax())
    found = index.channel("relu1", channel)
    assert found["images"] == 12
    assert found["active"] == int((peaks[:, channel] > 0).sum())
    best = int(peaks[:, channel].argmax())
    assert found["top"][0]["image"] == best
    assert np.isclose(found["top"][0]["peak"], peaks[best, channel].item(), rtol=1e-3)
    values = [row["peak"] for row in found["top"]]
    assert values == sorted(values, reverse=True)
    assert len(values) == min(9, found["active"])
    look = add(client, index.samples[5].path)
    nearest = client.get(f"/api/images/{look['id']}/nearest").json()["images"]
    assert nearest[0]["image"] == 5
    assert nearest[0]["distance"] < 1e-3
    assert client.get("/api/index/5.jpg").headers["content-type"] == "image/jpeg"
    assert client.get("/api/index/12.jpg").status_code == 400


def test_index_is_read_again_and_needs_the_dataset(visitors: Visitors, index: IndexMaker, tmp_path: Path) -> None:
    run = replace(visitors.run, cache=tmp_path)
    maker = IndexMaker(run, visitors.chain, images=7)
    assert maker.state() == {"state": "none", "done": 0, "images": 7, "error": ""}
    assert maker.channel("relu1", 0) is None
    save(index.index, maker.path)
    again = IndexMaker(run, visitors.chain)
    assert again.state()["state"] == "ready"
    assert again.channel("relu1", 3) == index.channel("relu1", 3)
    alone = IndexMaker(replace(run, data=tmp_path), visitors.chain)
    assert alone.state()["state"] == "impossible"


def test_a_port_in_use_and_wrong_options_are_one_line(script: Script, tmp_path: Path) -> None:
    listener = listen("127.0.0.1", 0)
    with listener, pytest.raises(InputError, match="give another --port"):
        listen("127.0.0.1", listener.getsockname()[1])
    done = script(tmp_path, "explore.py", "--host", "0.0.0.0")
    assert done.returncode == 2
    assert "needs --name" in done.stderr
