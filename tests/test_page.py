"""Tests the page's limits, and that nothing is kept, without a network."""

import asyncio
import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from golden_files import need

from fsvfm_jax.errors import DataError
from fsvfm_jax.prepare.files import MediaFile

need("starlette", "demo")
from fsvfm_jax.predict import page  # noqa: E402
from fsvfm_jax.predict.page import Limits, make_page  # noqa: E402

LIMITS = Limits(max_bytes=1000, max_length=60, max_seconds=1800, max_waiting=2)


class Answers:
    """Stands in for the answers, and notes what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[MediaFile, bytes]] = []

    def __call__(self, media: MediaFile) -> dict[str, Any]:
        self.seen.append((media, Path(media.file).read_bytes()))
        if media.name == "fail.png":
            raise DataError("it is not finite")
        return {"name": media.name}


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def make(tmp_path: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns a function that makes the page with limits; temporary files are in tmp_path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ThreadPoolExecutor(2) as executor:

        def make(limits: Limits = LIMITS) -> Any:
            return make_page(
                answers,
                about="# m",
                model="m",
                limits=limits,
                hosts=["localhost"],
                executor=executor,
            )

        yield make


async def ask(
    app: Any,
    path: str = "/score",
    *,
    name: str = "a.png",
    method: str = "PUT",
    chunks: Sequence[bytes] = (b"x",),
    last: dict[str, Any] | None = None,
    host: str = "localhost:1",
) -> tuple[int, bytes]:
    """Returns status and body of a response; without `last` the body of the request is complete."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": urlencode({"name": name}).encode(),
        "headers": [(b"host", host.encode())],
    }
    messages = [{"type": "http.request", "body": x, "more_body": True} for x in chunks]
    messages.append(last or {"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if messages and messages[0].get("wait"):
            await asyncio.Event().wait()
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(x.get("body", b"") for x in sent)


def error_of(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[1])["error"]


def test_an_upload_is_read_under_its_name_and_deleted(
    make: Any, answers: Answers, tmp_path: Path
) -> None:
    for name in ("a.png", "<img src=x onerror=alert(1)>.JPG", "../../etc/x\x1b\n.mp4", "é/x.webm"):
        status, body = asyncio.run(ask(make(), name=name, chunks=[b"ab", b"c"]))
        assert status == 200 and json.loads(body) == {"name": name}
        media, content = answers.seen.pop()
        assert media.name == name and content == b"abc"
        # Nothing of the name is in the path, and the file has no name of its own.
        assert re.fullmatch(rf"/proc/{os.getpid()}/fd/\d+", media.file)
        assert not Path(media.file).exists() and list(tmp_path.iterdir()) == []


def test_without_proc_an_upload_has_a_name_until_it_is_answered(
    make: Any, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_DESCRIPTORS", tmp_path / "none")
    assert asyncio.run(ask(make(), chunks=[b"ab", b"c"]))[0] == 200
    ((media, content),) = answers.seen
    assert Path(media.file).parent == tmp_path and content == b"abc"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "request_", "limits", "refusal"),
    [
        ("a.png", {"chunks": [b"x" * 600] * 2}, {}, (413, "the file has over 0.001 MB")),
        ("a.png", {"last": {"wait": True}}, {"max_seconds": 0.01}, (408, "took over 0.01 s")),
        ("a.txt", {}, {}, (415, "the name ends in none of .png, .jpg")),
        ("a", {}, {}, (415, "the name ends in none of .png, .jpg")),
        ("x" * 2000 + ".png", {}, {}, (415, "or is too long")),
        ("a.png", {}, {"max_waiting": 0}, (503, "0 files are waiting already; try again later")),
        ("fail.png", {}, {}, (500, "it is not finite")),
    ],
)
def test_every_refusal_is_a_sentence(
    make: Any, tmp_path: Path, name: str, request_: dict, limits: dict, refusal: tuple[int, str]
) -> None:
    app = make(LIMITS._replace(**limits))
    status, sentence = error_of(asyncio.run(ask(app, name=name, **request_)))
    assert status == refusal[0] and refusal[1] in sentence
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_ends_too_early_is_deleted(
    make: Any, answers: Answers, tmp_path: Path
) -> None:
    last = {"type": "http.disconnect"}
    assert asyncio.run(ask(make(), last=last))[0] == 400
    assert list(tmp_path.iterdir()) == [] and not answers.seen


def test_a_place_in_the_queue_is_given_back(make: Any) -> None:
    async def collect() -> list[int]:
        app = make(LIMITS._replace(max_seconds=1))
        waiting = [asyncio.create_task(ask(app, last={"wait": True})) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await ask(app)
        done = [(await one)[0] for one in waiting]
        return [refused[0], *done, (await ask(app))[0]]

    assert asyncio.run(collect()) == [503, 408, 408, 200]


def test_other_requests(make: Any) -> None:
    def get(path: str, **others: Any) -> tuple[int, bytes]:
        return asyncio.run(ask(make(), path, **({"method": "GET"} | others)))

    assert get("/about") == (200, b"# m")
    facts = json.loads(get("/facts")[1])
    assert facts["model"] == "m" and facts["limits"]["max_bytes"] == 1000
    assert ".mp4" in facts["accept"]
    assert b"<!doctype html>" in get("/")[1] and b"textContent" in get("/page.js")[1]
    assert get("/../page.py")[0] == get("/none")[0] == 404
    # Another website can send POST without asking, and reach this server under its own name.
    assert get("/score", method="POST")[0] == 405
    assert get("/", host="evil.example")[0] == 400


def test_a_disk_without_space_is_reported(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(buffering: int) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert error_of(asyncio.run(ask(make()))) == (
        500,
        "the server cannot store the upload (No space left on device)",
    )
    assert list(tmp_path.iterdir()) == []
