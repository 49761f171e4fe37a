"""Servers that speak as much of the Hugging Face Hub and of Google Cloud Storage as their drivers need for one file."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_DATE = "2026-11-01T00:00:00.000Z"
_COMMIT = "c" * 40


@dataclass
class Remote:
    """A server's files and what it was asked.

    Args:
        files: name -> content.
        breaks_after: bytes of a download after which the line breaks, once.
        asked: method and path of each request, with the range of downloads.
        refuses: a pattern of requests that are forbidden (S3).
        uploads: parts of uploads that are under way (S3).
    """

    files: dict[str, bytes] = field(default_factory=dict)
    breaks_after: int | None = None
    asked: list[str] = field(default_factory=list)
    url: str = ""
    refuses: str = ""
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)


class Handler(BaseHTTPRequestHandler, ABC):
    """Reads requests, answers with JSON, bytes or a part of a file; subclasses say what."""

    remote: Remote
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.body = self._read_body()
        place = urlsplit(self.path)
        self.parts = [unquote(part) for part in place.path.strip("/").split("/")]
        self.query = {name: values[0] for name, values in parse_qs(place.query).items()}
        self.remote.asked.append(f"{self.command} {place.path} {self.headers.get('Range', '')}".strip())
        self.route()

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @abstractmethod
    def route(self) -> None:
        """Answer the request that was read."""

    def say(self, value: Any, status: int = 200, **headers: str) -> None:
        self.say_bytes(json.dumps(value).encode(), "application/json", status, **headers)

    def say_bytes(self, content: bytes, kind: str, status: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def give(self, content: bytes, **headers: str) -> None:
        """A file or the part of it that was asked for."""
        size, part, wanted = len(content), content, self.headers.get("Range", "")
        self.send_response(206 if wanted else 200)
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            part = content[int(first) : int(last) + 1 if last else size]
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{size}")
        self.send_header("Content-Length", str(len(part)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command == "HEAD":
            return
        limit, self.remote.breaks_after = self.remote.breaks_after, None
        self.wfile.write(part[:limit])
        if limit is not None and limit < len(part):
            self.wfile.flush()
            self.close_connection = True


class _Hub(Handler):
    """One data set ``me/adapters`` with one branch, for small files."""

    def route(self) -> None:
        files = self.remote.files
        match self.parts:
            case ["api", "datasets", "me", "adapters", *rest]:
                self._api(rest)
            case ["datasets", "me", "adapters", "resolve", _, *name] if "/".join(name) in files:
                content = files["/".join(name)]
                self.give(content, ETag=f'"{_sha1(content)}"', X_Repo_Commit=_COMMIT)
            case _:
                self.say({"error": "not found"}, 404, X_Error_Code="EntryNotFound")

    def _api(self, rest: list[str]) -> None:
        files = self.remote.files
        match rest:
            case [] | ["revision", _]:
                self.say({"id": "me/adapters", "sha": _COMMIT, "private": False, "tags": [], "siblings": []})
            case ["paths-info", _]:
                wanted = (
                    json.loads(self.body)["paths"]
                    if self.body[:1] == b"{"
                    else parse_qs(self.body.decode())["paths"]
                )
                self.say([_entry(name, files[name]) for name in wanted if name in files])
            case ["tree", _, *_folder]:
                self.say([_entry(name, content) for name, content in files.items()])
            case ["preupload", _]:
                asked = json.loads(self.body)["files"]
                told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
                self.say({"files": told})
            case ["commit", _]:
                for line in self.body.splitlines():
                    said = json.loads(line)
                    if said["key"] == "file":
                        files[said["value"]["path"]] = base64.b64decode(said["value"]["content"])
                url = f"{self.remote.url}/datasets/me/adapters/commit/{_COMMIT}"
                self.say({"commitUrl": url, "commitOid": _COMMIT, "success": True})
            case _:
                self.say({"error": "not found"}, 404)


class _Bucket(Handler):
    """One bucket of Cloud Storage: the JSON interface for objects."""

    def route(self) -> None:
        files, name = self.remote.files, self.query.get("name", "")
        match self.parts:
            case ["upload", "storage", "v1", "b", bucket, "o"]:
                if not name:
                    head, content = _multipart(self.body, self.headers.get("Content-Type", ""))
                    name = json.loads(head)["name"]
                else:
                    content = self.body
                files[name] = content
                self.say(_object(bucket, name, content))
            case ["download", "storage", "v1", "b", _, "o", *rest] if "/".join(rest) in files:
                self.give(files["/".join(rest)])
            case ["storage", "v1", "b", bucket, "o", *rest] if rest:
                name = "/".join(rest)
                if name not in files:
                    self.say({"error": {"code": 404, "message": "not found"}}, 404)
                elif self.query.get("alt") == "media":
                    self.give(files[name])
                else:
                    self.say(_object(bucket, name, files[name]))
            case ["storage", "v1", "b", bucket, "o"]:
                start = self.query.get("prefix", "")
                self.say(
                    {
                        "kind": "storage#objects",
                        "items": [_object(bucket, n, c) for n, c in files.items() if n.startswith(start)],
                    }
                )
            case ["storage", "v1", "b", bucket, *_]:
                self.say({"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "EU"})
            case _:
                self.say({"error": {"code": 404, "message": "not found"}}, 404)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    commit = {"id": _COMMIT, "title": "export", "date": _DATE}
    return {"type": "file", "path": name, "size": len(content), "oid": _sha1(content), "lastCommit": commit}


def _object(bucket: str, name: str, content: bytes) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/1",
        "name": name,
        "bucket": bucket,
        "size": str(len(content)),
        "generation": str(int(_sha1(content)[:12], 16)),
        "md5Hash": base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode(),
        "timeCreated": _DATE,
        "updated": _DATE,
    }


def _multipart(body: bytes, kind: str) -> tuple[bytes, bytes]:
    boundary = kind.partition("boundary=")[2].strip("\"'").encode()
    _, head, content, _ = body.split(b"--" + boundary)
    # The parts' own headers end at an empty line.
    return tuple(_unwrapped(part) for part in (head, content))  # type: ignore[return-value]


def _unwrapped(part: bytes) -> bytes:
    line = b"\r\n" if b"\r\n\r\n" in part else b"\n"
    return part.partition(line * 2)[2].removesuffix(line)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def hub() -> Iterator[Remote]:
    """A Hub on this machine; clients find it by HF_ENDPOINT."""
    with served(_Hub) as remote:
        yield remote


@contextmanager
def cloud_storage() -> Iterator[Remote]:
    """Cloud Storage on this machine; clients find it by STORAGE_EMULATOR_HOST."""
    with served(_Bucket) as remote:
        yield remote


@contextmanager
def served(kind: type[Handler]) -> Iterator[Remote]:
    """A server with such a handler for the time of the block."""
    remote = Remote()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (kind,), {"remote": remote}))
    server.daemon_threads = True
    remote.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield remote
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
