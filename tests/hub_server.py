"""A hub on the loopback interface: as much of the Hugging Face API as its client's `snapshot_download` asks for."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "1234" * 10


@dataclass
class Hub:
    """What is served, and what was asked.

    Attributes:
      files: of each repository, "models/owner/name" or "datasets/owner/name", the contents of its files.
      gated: repositories whose terms were not accepted.
      broken: names of files whose first download breaks off half way.
      fetched: names of files and the first byte of each download.
      address: of the server.
    """

    files: Mapping[str, Mapping[str, bytes]]
    gated: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    fetched: list[tuple[str, int]] = field(default_factory=list)
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        listed = re.fullmatch(r"/api/(\w+/[\w-]+/[\w-]+)/(revision|tree)/(.+)", path)
        file = re.fullmatch(rf"/(datasets/)?([\w-]+/[\w-]+)/resolve/{COMMIT}/(.+)", path)
        repository = listed[1] if listed else f"{file[1] or 'models/'}{file[2]}" if file else ""
        files = self.hub.files.get(repository)
        if files is None:
            return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if file and repository in self.hub.gated:
            return self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if file:
            return self._send(file[3], files[file[3]])
        tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
        about = {"id": repository.partition("/")[2], "sha": COMMIT, "siblings": []}
        return self._answer(200, json.dumps(tree if listed[2] == "tree" else about).encode(), {})

    do_HEAD = do_GET

    def _send(self, name: str, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        cut = self.command == "GET" and name in self.hub.broken
        if self.command == "GET":
            self.hub.fetched.append((name, first))
            self.hub.broken.discard(name)
        self._answer(206 if asked else 200, content[first:], headers, len(content) // 2 if cut else None)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
