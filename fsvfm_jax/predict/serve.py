"""The verb `serve`: a page in the browser that scores pictures and short videos."""

import argparse
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fsvfm_jax import cli
from fsvfm_jax.errors import ConfigError, reason_of
from fsvfm_jax.predict import arguments
from fsvfm_jax.predict.upload import UploadOptions
from fsvfm_jax.prepare.extras import check_installed

LOOPBACK = "127.0.0.1"
PORT = 7860
LIMITS = {
    "max-mb": (50, "largest file, in millions of bytes"),
    "max-length": (60, "longest video, in seconds"),
    "max-time": (60, "longest time of an upload, and of the search for faces, in seconds"),
    "max-waiting": (64, "files that are uploaded, wait or are scored at the same time"),
}
# Connections beside the requests that wait, such as those that are refused.
_MORE_CONNECTIONS = 100

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the verb."""
    arguments.add_arguments(parser)
    arguments.add_face_arguments(parser)
    arguments.add_processes(parser)
    parser.add_argument(
        "--host",
        default=LOOPBACK,
        metavar="ADDRESS",
        help="address of this machine at which the page is served; default: 127.0.0.1, which only"
        " this machine reaches; 0.0.0.0 serves it to all machines that reach this one",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=PORT,
        metavar="N",
        help=f"port; 0 chooses a free one; default: {PORT}",
    )
    for name, (value, text) in LIMITS.items():
        parser.add_argument(
            f"--{name}",
            type=cli.count,
            default=value,
            metavar="N",
            help=f"{text}; default: {value}",
        )


def run(args: argparse.Namespace) -> None:
    """Runs the verb until a signal ends it.

    Raises:
        DataError: The model cannot be read, or is no detector.
        ConfigError: A library is missing, the flags do not fit the model, or the address is taken.
    """
    check_installed({"starlette", "uvicorn", "av"}, extra="demo")
    arguments.check_network(args)
    arguments.check_face_arguments(args)
    with _listen(args.host, args.port) as listening, _page(args, listening) as page:
        host, port = listening.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        print(f"The page is at http://{address}/ (Ctrl-C stops it)", flush=True)
        _serve(page, listening, connections=args.max_waiting + _MORE_CONNECTIONS)


@contextlib.contextmanager
def _page(args: argparse.Namespace, listening: socket.socket) -> Iterator[Any]:
    """Yields the page, whose processes end with the context."""
    # These import JAX, and the libraries of the extra.
    from fsvfm_jax.predict import opening
    from fsvfm_jax.predict.about import about
    from fsvfm_jax.predict.answer import Answerer
    from fsvfm_jax.predict.decision import decide_by
    from fsvfm_jax.predict.page import Limits, make_page

    network = opening.load_detector(args)
    options = UploadOptions(opening.face_options(network, args), args.max_length)
    check_installed({"dlib"} if options.faces.detector == "dlib" else set(), extra="demo")
    calibration = opening.find_calibration(network, args)
    decision = decide_by(network.score_name, args.threshold, calibration=calibration)
    logger.info("%s", decision.about)
    name = opening.model_name(args)
    with contextlib.ExitStack() as stack:
        answerer = Answerer(
            network, options, decision, processes=args.processes, max_seconds=args.max_time
        )
        stack.callback(answerer.close)
        yield make_page(
            answerer.answer,
            about=about(network, calibration, name=name),
            model=name,
            limits=Limits(args.max_mb * 10**6, args.max_length, args.max_time, args.max_waiting),
            hosts=_hosts(args.host, listening),
            executor=stack.enter_context(ThreadPoolExecutor(args.processes)),
        )


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at an address.

    Raises:
        ConfigError: The address is not one of this machine, or is taken.
    """
    if not 0 <= port < 2**16:
        raise ConfigError(f"--port={port} is not from 0 to {2**16 - 1}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"the page cannot be served at {host}:{port} ({reason_of(error)}): give another --host"
            " or --port"
        ) from error


def _hosts(host: str, listening: socket.socket) -> list[str] | None:
    """Returns the names under which requests may address the server; None allows all.

    An address that only this machine reaches has few names. Under any other name, a website that
    gives its own name this address could read the page's answers in the browser.
    """
    address = listening.getsockname()[0]
    if not ipaddress.ip_address(address).is_loopback:
        return None
    return [LOOPBACK, "localhost", "::1", address, host.lower()]


def _serve(page: object, listening: socket.socket, *, connections: int) -> None:
    """Answers requests until a signal ends the process."""
    import uvicorn

    from fsvfm_jax.predict.page import HEADERS

    config = uvicorn.Config(
        page,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=list(HEADERS.items()),
        limit_concurrency=connections,
    )
    uvicorn.Server(config).run(sockets=[listening])
