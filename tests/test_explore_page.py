"""The web page in a real browser: drops a photograph, clicks channels, switches them off, compares, saves."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from browser import delay, drop, saved
from conftest import REPOSITORY
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from explorer.server import UPLOADS

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a webcam
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt-get install chromium")
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def server(trained: Path) -> Iterator[str]:
    """Address of the page, served by a process of its own."""
    command = [sys.executable, str(REPOSITORY / "explore.py"), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, cwd=trained, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0]
                break
        process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)


@pytest.fixture(scope="module")
def photographs(trained: Path) -> list[Path]:
    return sorted((trained / "data/sample").rglob("*.jpg"))[:2] or sorted((trained / "data/sample").rglob("*.png"))[:2]


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """A fresh visit; fails on errors of the page, and on requests to any other host."""
    visit = browser.new_context(accept_downloads=True).new_page()
    errors, hosts = [], set()
    visit.on("pageerror", lambda error: errors.append(error))
    visit.on("request", lambda request: hosts.add(request.url.split("/")[2] if "://" in request.url else ""))
    visit.goto(server)
    expect(visit.locator("#run")).not_to_be_empty()
    yield visit
    visit.context.close()
    assert not errors
    assert {host for host in hosts if host} == {server.split("/")[2]}


def shares(page: Page) -> list[str]:
    return [bar.get_attribute("style") for bar in page.locator(".class .bar i").all()]


def bars_follow_values(page: Page) -> bool:
    """Whether the bars of all lists in the panel are on one scale."""
    rows = page.locator("#detail .row").all()
    values = [abs(float(row.locator(".value").inner_text().replace("−", "-"))) for row in rows]
    widths = [float(re.search(r"[\d.]+", row.locator("i").get_attribute("style"))[0]) for row in rows]
    return widths == pytest.approx([100 * value / max(values) for value in values], abs=1.5)


def tile(page: Page, column: str) -> Locator:
    return page.locator(f".column[data-column='{column}'] .tile").first


def test_drop_click_and_switch_off(page: Page, photographs: list[Path]) -> None:
    drop(page, photographs[0])
    expect(page.locator("#verdict strong")).not_to_be_empty()
    expect(page.locator(".column")).to_have_count(7)
    expect(page.locator(".tile")).to_have_count(56)
    expect(page.locator("#edges path").first).to_be_attached()
    before = shares(page)
    page.locator(".class").first.click()
    page.locator("#detail .card", has_text="Channels for it").locator("button.row").first.click()
    expect(page.locator("#detail h3", has_text="Made of")).to_be_visible()
    expect(page.locator("#added button")).to_have_count(3)
    page.click("#switch")
    expect(page.locator("#changes")).to_contain_text("off")
    assert shares(page) != before
    page.click("#reset")
    expect(page.locator("#changes")).to_be_hidden()
    assert shares(page) == before


def test_keys_reach_channels_and_cover_a_region(page: Page, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    first = tile(page, "base_model.layer1")
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#detail h2")).to_contain_text("layer2")
    assert page.locator(".tile[aria-pressed=true]").get_attribute("data-column") == "base_model.layer2"
    before = shares(page)
    page.locator("#cover").press("Enter")
    page.locator("#view").press("ArrowRight")
    page.locator("#view").press("Enter")
    expect(page.locator("#changes")).to_contain_text("region covered")
    assert shares(page) != before


def test_overlays_comparison_and_threshold(page: Page, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    plain = page.locator("#view").screenshot()
    page.check("[name=overlay][value=cam]")
    expect(page.locator("#overlay-note")).to_contain_text("gradient")
    assert page.locator("#view").screenshot() != plain
    page.locator("#threshold").fill("100")
    expect(page.locator("#verdict strong")).to_have_text("not sure")
    page.locator("#threshold").fill("0")
    expect(page.locator("#verdict strong")).not_to_have_text("not sure")
    page.click("#compare")
    page.set_input_files("#file", photographs[1])
    expect(page.locator("#verdict strong")).to_have_count(2)
    expect(page.locator(".tile canvas")).to_have_count(112)
    assert page.locator("#walk").evaluate("walk => walk.scrollWidth <= walk.clientWidth")  # all classes are seen
    expect(page.locator("#line-scale")).to_contain_text(re.compile("layer1.*layer4.*head 1.*head 2.*classes"))
    page.locator(".class").first.click()
    expect(page.locator("#detail h2")).to_contain_text("B: logit")
    assert bars_follow_values(page)
    assert b'class="report comparing"' in saved(page, "report")  # small tiles there too
    page.click("#compare")
    expect(page.locator(".tile canvas")).to_have_count(56)


def test_an_answer_that_comes_late_changes_nothing(page: Page, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    delay(page, "column=relu1", 800)
    tile(page, "relu1").click()
    tile(page, "relu2").click()
    expect(page.locator("#detail h2")).to_contain_text("head 2")
    page.wait_for_timeout(1000)
    expect(page.locator("#detail h2")).to_contain_text("head 2")


def test_lines_of_an_older_photograph_are_not_shown_with_a_new_one(page: Page, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    expect(page.locator("#line-scale")).to_contain_text("classes")
    delay(page, "edges", 600)
    page.set_input_files("#file", photographs[1])
    expect(page.locator("#view")).to_have_attribute("aria-label", re.compile(photographs[1].name))
    assert page.locator("#edges path").count() == 0
    assert page.locator("#line-scale").inner_text() == ""
    expect(page.locator("#edges path").first).to_be_attached()


def test_quick_changes_count_both(page: Page, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    delay(page, "changes", 1500)
    for number in range(2):
        (chosen := page.locator(".column[data-column='relu2'] .tile").nth(number)).click()
        expect(page.locator("#number")).to_have_value(chosen.get_attribute("data-channel"))
        page.click("#switch")
    expect(page.locator("#changes .chip")).to_have_count(2)
    assert page.locator(".tile.off").count() == 2


def test_forgotten_photographs_come_back_on_the_same_channels(page: Page, server: str, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    page.click("#compare")
    page.set_input_files("#file", photographs[1])
    expect(page.locator("#verdict strong")).to_have_count(2)
    expect(page.locator("#line-scale")).to_contain_text("of A")
    page.wait_for_load_state("networkidle")
    for _ in range(12):  # as many as the server keeps
        httpx.post(f"{server}/api/images", content=photographs[0].read_bytes(), timeout=60)
    sent = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.check("[name=overlay][value=cam]")
    tile(page, "relu2").click()
    expect(page.locator("#detail h3", has_text="Map on B")).to_be_visible()
    expect(page.locator("#overlay-note")).to_contain_text("on A")
    assert [("like=" in address) for address in sent].count(False) == 1  # A, once
    assert "like=" in sent[-1]  # B after it, with the channels of A
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_channel_that_does_not_exist_is_not_selected(page: Page, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    tile(page, "relu2").click()
    expect(number := page.locator("#number")).to_be_visible()
    before = page.locator(".tile[aria-pressed=true]").get_attribute("id")
    for wrong in ("1.5", "", "9999"):
        number.fill(wrong)
        number.press("Enter")
        assert page.locator(".tile[aria-pressed=true]").get_attribute("id") == before
        assert page.evaluate("document.querySelector('#number').validity.valid") is False
    page.click("#switch")
    expect(page.locator("#changes .chip")).to_have_count(1)


def test_focus_and_tab_stops(page: Page, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    expect(page.locator(".tile").first).to_be_visible()
    assert page.locator("#columns [tabindex='0']").count() == 1
    tile(page, "relu2").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.className") == "class"
    assert page.locator("#columns [tabindex='0']").get_attribute("class") == "class"
    tile(page, "relu2").click()
    page.locator("#detail .card", has_text="Made of").locator("button.row").first.press("Enter")
    expect(page.locator("#announcement")).to_contain_text("head 1, channel")
    assert page.evaluate("document.activeElement.id") == "detail"
    page.locator("#cover").press("Enter")
    for _ in range(30):
        page.locator("#view").press("ArrowLeft")
    assert page.locator("#cover-box").inner_text().startswith("From 0 % to 30 % of the width")


def test_garbage_is_one_line_and_the_photograph_stays(page: Page, photographs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("no image")
    page.set_input_files("#file", photographs[0])
    expect(page.locator("#verdict strong")).not_to_be_empty()
    drop(page, tmp_path / "notes.jpg")
    expect(page.get_by_role("alert")).to_contain_text("notes.jpg: cannot be read")
    assert page.locator(".tile").count() == 56
    tile(page, "relu1").click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_pasted_and_webcam_photographs_and_the_index(page: Page, photographs: list[Path]) -> None:
    drop(page, photographs[0], "new ClipboardEvent('paste', {clipboardData: files})")
    expect(page.locator("#view")).to_have_attribute("aria-label", re.compile(photographs[0].name))
    page.click("#webcam")
    page.locator("#camera video").evaluate("video => new Promise(done => video.requestVideoFrameCallback(done))")
    page.click("#shoot")
    expect(page.locator("#view")).to_have_attribute("aria-label", re.compile("webcam"))
    page.click("#alike #make-index")
    expect(page.locator("#alike figure")).to_have_count(8)
    tile(page, "relu2").click()
    expect(page.locator("#detail .thumbs figure")).to_have_count(9)
    expect(page.locator("#detail .card.wide .note")).to_contain_text(re.compile(r"active in \d+ of \d+ images"))
    distances = [row["distance"] for row in json.loads(saved(page, "json"))["alike"]]
    assert len(distances) == 8
    assert distances == sorted(distances)
    assert page.locator("#alike img").first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 160


def test_saved_files_hold_what_is_on_screen(page: Page, photographs: list[Path]) -> None:
    page.set_input_files("#file", photographs[0])
    tile(page, "relu1").click()
    page.click("#switch")
    expect(page.locator("#changes .chip")).to_be_visible()
    page.check("[name=overlay][value=cam]")
    expect(page.locator("#overlay-note")).to_contain_text("gradient")
    expect(page.locator("#line-scale")).to_contain_text("layer1")
    image, numbers = saved(page, "png"), json.loads(saved(page, "json"))
    assert image.startswith(b"\x89PNG")
    assert len(image) > 50_000
    assert len(numbers["photographs"][0]["probabilities"]) == 15
    overlay = numbers["overlay"]
    assert (overlay["kind"], overlay["column"]) == ("cam", "base_model.layer4")
    assert len(overlay["values"]) == len(overlay["values"][0]) == 2
    text = saved(page, "report").decode()
    assert text.count("data:image/png") > 56
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert not re.search(r"<(button|input|select)", text)
    assert " off</span>" in text  # what was changed


def test_a_narrow_screen_needs_no_sideways_scrolling(page: Page, photographs: list[Path]) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.set_input_files("#file", photographs[0])
    tile(page, "base_model.relu").click()
    expect(page.locator("#detail .card").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_fifty_requests_at_once(server: str, photographs: list[Path]) -> None:
    content = photographs[0].read_bytes()

    def ask(number: int) -> tuple[int, str]:
        answer = httpx.post(f"{server}/api/images", params={"name": f"{number}.jpg"}, content=content, timeout=60)
        return answer.status_code, answer.json()["name"]

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(ask, range(50))) == [(200, f"{number}.jpg") for number in range(50)]


def test_stalled_uploads_do_not_block_others(server: str, photographs: list[Path]) -> None:
    host = server.split("/")[2]
    start = f"POST /api/images HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\na first part".encode()
    for connection in (stalled := [socket.create_connection(host.split(":")) for _ in range(UPLOADS)]):
        connection.sendall(start)
    assert httpx.post(f"{server}/api/images", content=photographs[0].read_bytes(), timeout=30).status_code == 200
    assert all(b"stopped for" in connection.recv(4096) for connection in stalled)
