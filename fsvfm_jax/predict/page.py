"""The page of `serve`: it takes one file per request, and answers with JSON.

An upload is the body of a PUT request, which other websites cannot send to this server without its
consent. Text of a file's name is only ever shown as text.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import IO, Any, NamedTuple

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from fsvfm_jax.data.images import IMAGE_SUFFIXES
from fsvfm_jax.data.listing import suffix_of
from fsvfm_jax.errors import UserError, reason_of
from fsvfm_jax.prepare.files import MAX_NAME, VIDEO_SUFFIXES, MediaFile

HEADERS = {
    # The browser loads nothing from elsewhere, and runs no script but that of this folder.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
Body = AsyncIterator[bytes]
_DESCRIPTORS = Path("/proc/self/fd")  # the open files of this process, on Linux
_FILES = Path(__file__).with_name("static")
_TOO_LARGE, _UNKNOWN, _BUSY, _SLOW, _FAILED = 413, 415, 503, 408, 500


class Limits(NamedTuple):
    """The limits of a request.

    Attributes:
        max_bytes: The largest file.
        max_length: The longest video, in seconds.
        max_seconds: The longest time for the upload, and again for finding the faces.
        max_waiting: Number of requests that are answered or wait at the same time.
    """

    max_bytes: int
    max_length: float | int
    max_seconds: float | int
    max_waiting: int


class _Refused(Exception):
    """A request is refused; the arguments are status and sentence."""


def make_page(
    answer: Callable[[MediaFile], dict[str, Any]],
    *,
    about: str,
    model: str,
    limits: Limits,
    hosts: Sequence[str],
    executor: Executor,
) -> Starlette:
    """Returns the application.

    Args:
        answer: Takes a file and returns what `json` can write.
        about: What is known of the model, in Markdown.
        model: Name of the model.
        limits: The limits of a request.
        hosts: Names of this server in the addresses of requests; "*" allows all.
        executor: Runs `answer`.
    """
    waiting = 0

    async def score(request: Request) -> Response:
        nonlocal waiting
        name, body = request.query_params.get("name", ""), request.stream()
        try:
            if waiting >= limits.max_waiting:
                raise _Refused(_BUSY, f"{waiting} files are waiting already; try again later")
            waiting += 1
            try:
                return JSONResponse(await _scored(name, body, answer, limits, executor))
            finally:
                waiting -= 1
        except ClientDisconnect:
            return Response(status_code=400)
        except _Refused as refused:
            status, sentence = refused.args
            await _read_rest(body, limits)
            return JSONResponse({"error": sentence}, status)

    facts = {
        "model": model,
        "limits": limits._asdict(),
        "accept": ",".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)),
    }
    return Starlette(
        routes=[
            Route("/score", score, methods=["PUT"]),
            Route("/facts", lambda request: JSONResponse(facts)),
            Route("/about", lambda request: PlainTextResponse(about)),
            Mount("/", StaticFiles(directory=_FILES, html=True)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )


async def _scored(
    name: str,
    body: Body,
    answer: Callable[[MediaFile], dict[str, Any]],
    limits: Limits,
    executor: Executor,
) -> dict[str, Any]:
    """Returns the answer to a request; the upload is deleted before.

    Raises:
        _Refused: The file is not taken.
        ClientDisconnect: The upload ended too early.
    """
    suffix = suffix_of(name)
    if suffix not in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) or len(name) > MAX_NAME:
        known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise _Refused(_UNKNOWN, f"the name ends in none of {known}, or is too long")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_upload_file())
            async with asyncio.timeout(limits.max_seconds):
                await _receive(body, file, max_bytes=limits.max_bytes)
        except TimeoutError:
            sentence = f"the upload took over {limits.max_seconds:g} s"
            raise _Refused(_SLOW, sentence) from None
        except OSError as error:
            sentence = f"the server cannot store the upload ({reason_of(error)})"
            raise _Refused(_FAILED, sentence) from error
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(executor, answer, MediaFile(name, _path_of(file)))
        except UserError as error:
            raise _Refused(_FAILED, str(error)) from error


def _upload_file() -> IO[bytes]:
    """Returns a new file that is gone when this process ends, however it ends."""
    # Without /proc only a file with a name can be opened by the other processes.
    make = tempfile.TemporaryFile if _DESCRIPTORS.exists() else tempfile.NamedTemporaryFile
    return make(buffering=0)


def _path_of(file: IO[bytes]) -> str:
    """Returns a path by which other processes of this user can open the file."""
    descriptors = _DESCRIPTORS.resolve()  # It contains the number of this process.
    return str(descriptors / str(file.fileno())) if _DESCRIPTORS.exists() else file.name


async def _receive(body: Body, file: IO[bytes], *, max_bytes: int) -> None:
    """Writes the body of a request to a file; raises _Refused if it is too large."""
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > max_bytes:
            raise _Refused(_TOO_LARGE, f"the file has over {max_bytes / 1e6:g} MB")
        rest = memoryview(chunk)
        while rest:
            rest = rest[file.write(rest) :]


async def _read_rest(body: Body, limits: Limits) -> None:
    """Reads the rest of a body up to the limits: many clients read no answer before they are done.

    Args:
        body: The chunks that are left.
        limits: The limits of a request.
    """
    left = limits.max_bytes
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(limits.max_seconds):
            async for chunk in body:
                left -= len(chunk)
                if left < 0:
                    return
