"""Serves a bucket on this machine: the part of Google Cloud Storage's JSON API that we use.

An object is written as a whole and replaces the one before; no object can be extended, renamed or
copied. TensorStore, gcsfs and google-cloud-storage use this server if `environment` is set.
"""

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


class ObjectStore(ThreadingHTTPServer):
    """Serves the single bucket `gs://bucket` from `__enter__` to `__exit__`.

    Attributes:
        objects: Generation, counted from 1 over the bucket, and content of every object, by name.
        before_write: Takes the name of each object before it is written; if it raises an error, the
            connection is closed and nothing is written.
        denied: Permissions that the client does not have, such as "storage.buckets.get".
        unknown: Requests that this server does not implement.
        age: Age of the objects that the server reports, in seconds.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("localhost", 0), _Request)
        self.objects: dict[str, tuple[int, bytes]] = {}
        self.before_write: Callable[[str], None] = lambda name: None
        self.denied: set[str] = set()
        self.unknown: list[str] = []
        self.writes = 0
        self.age = 0.0
        self.lock = threading.Lock()

    def __enter__(self) -> "ObjectStore":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, address: object) -> None:
        """Ignores the errors of clients that were killed or have closed their connection early."""

    @property
    def environment(self) -> dict[str, str]:
        """Returns variables that make clients use this server and look for no credentials."""
        url = f"http://localhost:{self.server_port}"
        return {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # for TensorStore
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # without this, gcsfs would use gRPC
        }

    def names(self, prefix: str = "") -> set[str]:
        """Returns the names of the objects below a prefix, without the prefix."""
        return {name.removeprefix(prefix) for name in self.objects if name.startswith(prefix)}

    def read_text(self, name: str) -> str:
        return self.objects[name][1].decode()

    def download(self, prefix: str, folder: Path) -> None:
        """Copies the objects below a prefix to the files of a folder."""
        for name in self.names(prefix):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.objects[prefix + name][1])


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # Sends an answer in one packet: a second one would wait for a receipt.
    server: ObjectStore

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        for permission, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {url.path}")
            if match is None:
                continue
            if match["bucket"] != "bucket":
                return self._answer(404)
            if permission in self.server.denied:
                return self._answer(403, {"error": {"message": f"{permission} is denied"}})
            with self.server.lock:
                return action(self, *map(unquote, match.groups()[1:]))
        self._refuse()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    def _bucket(self) -> None:
        self._answer(200, {"kind": "storage#bucket", "id": "bucket", "name": "bucket"})

    def _list(self) -> None:
        prefix, items, prefixes = self.query.get("prefix", ""), [], set()
        for name in sorted(self.server.names(prefix)):
            head, delimiter, _ = name.partition(self.query.get("delimiter", "\0"))
            if delimiter:
                prefixes.add(prefix + head + delimiter)
            else:
                items.append(self._resource(prefix + name))
        self._answer(200, {"items": items, "prefixes": sorted(prefixes)})

    def _get(self, name: str) -> None:
        generation, content = self.server.objects.get(name, (0, b""))
        if generation == 0:
            return self._answer(404)
        if self.query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304)
        if self.query.get("alt") != "media":
            return self._answer(200, self._resource(name))
        headers = {"x-goog-generation": str(generation)}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            return self._answer(200, content, headers)
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], headers)

    def _delete(self, name: str) -> None:
        generation, _ = self.server.objects.get(name, (0, b""))
        if self.query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self._answer(412)
        self._answer(204 if self.server.objects.pop(name, None) else 404)

    def _upload(self) -> None:
        if self.query["uploadType"] == "multipart":
            about, self.content = _parts(self.content)
            self.query["name"] = json.loads(about)["name"]
            del self.headers["Content-Range"]
        name = self.query["name"]
        if self.query["uploadType"] == "resumable" and "upload_id" not in self.query:
            place = self.server.environment["STORAGE_EMULATOR_HOST"] + self.path
            return self._answer(200, headers={"Location": f"{place}&upload_id=1"})
        size = str(len(self.content))
        if self.headers.get("Content-Range", size).rpartition("/")[2] != size:
            return self._refuse()  # The upload has only a part of the object.
        generation, _ = self.server.objects.get(name, (0, b""))
        if self.query.get("ifGenerationMatch", str(generation)) != str(generation):
            return self._answer(412)
        self.server.before_write(name)
        self.server.writes += 1
        self.server.objects[name] = (self.server.writes, self.content)
        self._answer(200, self._resource(name))

    def _resource(self, name: str) -> dict[str, str]:
        generation, content = self.server.objects[name]
        written = datetime.now(UTC) - timedelta(seconds=self.server.age)
        about = {"name": name, "bucket": "bucket", "size": str(len(content))}
        about["updated"] = written.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return about | {"generation": str(generation), "metageneration": "1"}

    def _refuse(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self._answer(501)

    def _answer(self, code: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(code)
        for header, value in (headers or {}).items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *message: object) -> None:
        pass


def _parts(body: bytes) -> list[bytes]:
    """Returns the two parts of a multipart body without their headers."""
    parts = body.split(body.partition(b"\r\n")[0])[1:3]
    return [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]


_B, _O = r"/storage/v1/b/(?P<bucket>[^/]+)", r"/o/([^/]+)"
_ROUTES = [
    ("storage.buckets.get", f"GET {_B}", _Request._bucket),
    ("storage.objects.list", f"GET {_B}/o", _Request._list),
    ("storage.objects.get", f"GET (?:/download)?{_B}{_O}", _Request._get),
    ("storage.objects.delete", f"DELETE {_B}{_O}", _Request._delete),
    ("storage.objects.create", f"POST /upload{_B}/o", _Request._upload),
]
