"""Tests the command over HTTP: no answer is lost or mixed up, and no upload is kept."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from commands import ROOT
from golden_files import need
from hostile_files import saved, write_hostile_files
from labelled_faces import write_detector
from patience import PATIENCE
from PIL import Image
from scenes import TWO_FACES

from fsvfm_jax.data.rendered.synthetic import render_face
from fsvfm_jax.errors import UserError
from fsvfm_jax.predict import networks, serve
from fsvfm_jax.predict.__main__ import _parser

UPLOADS = 50


class Server(NamedTuple):
    """A running server, and the folder that it uses for uploads."""

    process: subprocess.Popen
    port: int
    folder: Path
    model: Path

    def put(self, name: str, content: bytes) -> tuple[int, dict[str, Any]]:
        """Returns status and answer for an upload."""
        status, _, body = self.ask("PUT", f"/score?name={quote(name, safe='')}", content)
        return status, json.loads(body)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def kept(self) -> list[Path]:
        """Returns the files in the folder for temporary files."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def received(self) -> int:
        """Returns the number of bytes of uploads that the server holds in files without a name."""
        total = 0
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(entry).startswith(str(self.folder)):
                    total += entry.stat().st_size
        return total


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a tiny detector with random weights."""
    return write_detector(tmp_path_factory.mktemp("models") / "<b>detector")


def start(model: Path, folder: Path, *flags: str) -> Server:
    """Starts the command and waits until it answers."""
    need("starlette", "demo")
    command = [sys.executable, "-m", "fsvfm_jax.predict", "serve", f"--model={model}", "--port=0"]
    folder.mkdir()
    process = subprocess.Popen(
        [*command, "--batch-size=1", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    process.stdout.close()
    assert line.startswith("The page is at http://127.0.0.1:"), line
    return Server(process, int(line.split(":")[2].split("/")[0]), folder, model)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served") / "tmp"
    flags = ["--face-detector=none", "--processes=2", "--max-mb=10", "--faces=all"]
    running = start(model, folder, *flags)
    yield running
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(PATIENCE)


def pngs(count: int) -> list[bytes]:
    return [
        saved(Image.fromarray(render_face(number, image_size=96)[0]), "PNG")
        for number in range(count)
    ]


@pytest.mark.e2e
def test_of_50_uploads_at_once_none_is_lost_or_mixed_up(server: Server) -> None:
    pictures = {f"face {number}.png": content for number, content in enumerate(pngs(UPLOADS))}
    network = networks.load(server.model, batch_size=1)
    with ThreadPoolExecutor(UPLOADS) as executor:
        answers = list(executor.map(server.put, pictures, pictures.values()))
    assert server.kept() == []
    expected = {}
    for number in range(UPLOADS):
        # The crop has 224 pixels, as those of `prepare detect`.
        face = Image.fromarray(render_face(number, image_size=96)[0])
        expected[f"face {number}.png"] = network.predict(face.resize((224, 224), 3)).item()
    assert len(set(expected.values())) == UPLOADS
    for name, (status, answer) in zip(pictures, answers, strict=True):
        assert status == 200 and answer["record"]["path"] == name
        assert answer["record"]["p_fake"] == pytest.approx(expected[name], abs=1e-6, rel=0)


@pytest.mark.e2e
def test_every_hostile_file_gets_a_sentence_and_is_not_kept(server: Server, tmp_path: Path) -> None:
    need("av", "prepare")
    from video_files import write_video

    harmless = write_hostile_files(tmp_path / "src")
    paths = [x for x in (tmp_path / "src").rglob("*") if x.is_file() and not x.is_symlink()]
    files = {str(x.relative_to(tmp_path / "src")): x.read_bytes() for x in paths}
    write_video(tmp_path / "long.mkv", 3, times=(0, 40, 10 * 3_600_000))
    picture, video = pngs(1)[0], (tmp_path / "long.mkv").read_bytes()
    files |= {
        "ten hours.mkv": video,
        "<script>alert(1)</script>.png": picture,
        "picture and archive.png": picture + b"PK\x03\x04" + b"<script>alert(1)</script>",
        "video.png": video,
        "picture.mkv": picture,
        "large.png": picture + bytes(10_000_001),
        "../../name.png": picture,
    }
    scored = {*harmless, "<script>alert(1)</script>.png", "../../name.png"}
    scored.add("picture and archive.png")
    with ThreadPoolExecutor(4) as executor:
        answers = dict(zip(files, executor.map(server.put, files, files.values()), strict=True))
    for name, (status, answer) in answers.items():
        error = answer.get("error") or answer["record"]["error"]
        assert (error is None) == (name in scored), (name, answer)
        assert status == 200 or error, name
    assert answers["ten hours.mkv"][1]["record"]["error"] == "it is longer than 60 s"
    assert answers["large.png"] == (413, {"error": "the file has over 10 MB"})
    assert "over 50000000" in answers["bomb.png"][1]["record"]["error"]
    assert answers["svg.svg"][0] == 415
    assert server.kept() == []
    assert server.put("after.png", picture)[0] == 200


@pytest.mark.e2e
def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    status, headers, page = server.ask("GET", "/")
    assert status == 200 and b"http:" not in page and b"https:" not in page and b"//" not in page
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert json.loads(server.ask("GET", "/facts")[2])["model"] == "<b>detector"
    about = server.ask("GET", "/about")
    assert about[1]["content-type"].startswith("text/plain")
    assert b"proves" in page and b"## Known failures" in about[2]
    assert server.ask("GET", "/", Host="evil.example")[0] == 400


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow), (signal.SIGKILL, -9)],
)
def test_no_end_leaves_an_upload(model: Path, tmp_path: Path, number: int, code: int) -> None:
    server = start(model, tmp_path / "tmp", "--cropped", "--processes=1")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.putrequest("PUT", "/score?name=a.png")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"the first part")
    deadline = time.monotonic() + PATIENCE
    while not server.received():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert server.kept() == []
    server.process.send_signal(number)
    assert server.process.wait(PATIENCE) == code
    assert server.kept() == []
    connection.close()


def test_mistakes_end_with_a_sentence(model: Path, tmp_path: Path) -> None:
    need("starlette", "demo")

    def run(*argv: str) -> str:
        words = ["serve", f"--model={model}", *argv]
        args = _parser(words).parse_args(words)
        with pytest.raises(UserError) as error:
            args.run(args)
        return str(error.value)

    assert "does not say how its faces were found" in run()
    assert "cannot be served at 192.0.2.1:0" in run("--cropped", "--host=192.0.2.1", "--port=0")
    assert "--port=65536 is not from 0 to 65535" in run("--cropped", "--port=65536")
    assert "takes too much memory" in run("--cropped", "--frames=1000000")
    assert "names a threshold of a calibration" in run("--cropped", "--threshold=fpr_1")
    with pytest.raises(UserError, match="is no number from 1 up"):
        run("--max-mb=0")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", {"127.0.0.1", "localhost", "::1"}),
        ("LOCALHOST", {"127.0.0.1", "localhost", "::1"}),
        ("127.0.0.2", {"127.0.0.1", "127.0.0.2", "localhost", "::1"}),
        ("0.0.0.0", None),
    ],
)
def test_only_a_page_for_other_machines_answers_to_any_name(
    host: str, names: set[str] | None
) -> None:
    with serve._listen(host, 0) as listening:
        found = serve._hosts(host, listening)
    assert (None if found is None else set(found)) == names


@pytest.mark.slow
def test_the_page_starts_in_a_browser(server: Server, tmp_path: Path) -> None:
    """Needs only Chromium, which prints the page after its script has run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    flags += ["--virtual-time-budget=10000", "--dump-dom"]
    command = [chromium(), *flags, f"http://127.0.0.1:{server.port}/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert "10 MB" in done.stdout and "&lt;b&gt;detector" in done.stdout, done.stderr


@pytest.mark.slow
def test_the_page_in_a_browser(server: Server, tmp_path: Path) -> None:
    """Needs Chromium, and `pip install playwright`."""
    pytest.importorskip("playwright", reason="pip install playwright to choose files in the page")
    from playwright.sync_api import sync_playwright

    picture = tmp_path / "<img src=x onerror=alert(1)>.png"
    Image.fromarray(TWO_FACES).save(picture)
    (tmp_path / "empty.jpg").write_bytes(b"")
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        hosts, said = set(), []
        page.on("request", lambda request: hosts.add(request.url.split("/")[2][:30]))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append("a dialog"))
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.locator("#limits:not(:empty)").wait_for()
        page.set_input_files("#files", [picture, tmp_path / "empty.jpg"])
        page.locator("article", has_text="empty.jpg").get_by_text("cannot be scored").wait_for()
        scored = page.locator("article", has_text="<img src=x onerror=alert(1)>.png")
        scored.get_by_text("p_fake = 0.").wait_for()
        assert scored.locator("tbody tr").count() == 1
        for image in (".picture", ".masks"):
            assert scored.locator(image).evaluate("image => image.naturalWidth") > 100
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        browser.close()
    assert said == [] and hosts <= {f"127.0.0.1:{server.port}", "image", ""}, (said, hosts)


def chromium() -> str:
    """Returns the path of Chromium; skips the test if there is none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium")
    return path
