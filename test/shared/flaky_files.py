"""File systems for tests of transport: memory, with lines that break; and an HTTP server with and without ranges."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem


class BreakingFile:
    """An open file that fails once it has given or taken so many bytes."""

    def __init__(self, file: Any, filesystem: FlakyFileSystem) -> None:
        self._file, self._filesystem = file, filesystem

    def __enter__(self) -> BreakingFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def seek(self, position: int) -> None:
        if not self._filesystem.ranges:
            raise ValueError("cannot seek")
        self._filesystem.seeks.append(position)
        self._file.seek(position)

    def read(self, most: int) -> bytes:
        content = self._file.read(min(most, 1000))
        self._filesystem.count(len(content))
        return bytes(content)

    def write(self, content: bytes) -> None:
        self._filesystem.count(len(content))
        self._file.write(content)


class FlakyFileSystem(MemoryFileSystem):
    """Memory under flaky://, of which ``breaks_after`` bytes get through (all where it is None)."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    breaks_after: ClassVar[int | None] = None
    ranges: ClassVar[bool] = True
    seeks: ClassVar[list[int]] = []
    passed: ClassVar[int] = 0

    @classmethod
    def mend(cls, breaks_after: int | None = None, ranges: bool = True) -> None:
        cls.breaks_after, cls.ranges, cls.passed = breaks_after, ranges, 0
        cls.seeks.clear()

    @classmethod
    def count(cls, size: int) -> None:
        if cls.breaks_after is not None and cls.passed + size > cls.breaks_after:
            raise ConnectionResetError("the line broke")
        cls.passed += size

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("flaky://").strip("/") if path.strip("/") else ""

    def open(self, path: str, mode: str = "rb", **how: Any) -> Any:
        return BreakingFile(super().open(path, mode, **how), self)


@dataclass
class Site:
    """What an HTTP server of a test offers, and what it was asked.

    Args:
        files: path -> content.
        ranges: whether it answers requests of ranges.
        breaks_after: bytes of an answer after which it drops the connection, once they have arrived.
        arrived: set by the test when they have.
        says_size: whether answers carry their length.
        asked: (method, range) of each request.
    """

    files: dict[str, bytes]
    ranges: bool = True
    breaks_after: int | None = None
    says_size: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    arrived: threading.Event = field(default_factory=threading.Event)


@contextmanager
def http_site(files: dict[str, bytes]) -> Iterator[Site]:
    """A real server on this machine."""
    site = Site(files)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, with_content: bool) -> None:
            wanted = self.headers.get("Range", "")
            site.asked.append((self.command, wanted))
            content = site.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            part, size = content, len(content)
            if wanted and site.ranges:
                first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
                part = content[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{size}")
            else:
                self.send_response(200)
            if site.says_size:
                self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", f'"{hash(content):x}"')
            self.end_headers()
            if with_content:
                self.wfile.write(part[: site.breaks_after])
                if site.breaks_after is not None and len(part) > site.breaks_after:
                    site.arrived.wait(120)
                    self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
