"""A hub on the loopback interface: as much of the Hugging Face API as `snapshot_download` asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "1234" * 10


@contextmanager
def serve(repository: str, revision: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serves one dataset at one revision.

    Yields:
      The address, and the names of the files that have been fetched so far.
    """
    fetched: list[str] = []
    api = f"/api/datasets/{repository}"
    listing = [{"type": "file", "path": name, "size": len(files[name]), "oid": "0" * 40} for name in files]
    answers = {
        f"{api}/revision/{revision}": {"id": repository, "sha": COMMIT, "siblings": []},
        f"{api}/tree/{COMMIT}": listing,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.removeprefix(f"/datasets/{repository}/resolve/{COMMIT}/")
            if name in files:
                if self.command == "GET":
                    fetched.append(name)
                self._answer(
                    files[name], {"ETag": f'"{hashlib.sha1(files[name]).hexdigest()}"', "X-Repo-Commit": COMMIT}
                )
            elif path in answers:
                self._answer(json.dumps(answers[path]).encode(), {"Content-Type": "application/json"})
            else:
                self._answer(b"{}", {"X-Error-Code": "RepoNotFound"}, 404)

        do_HEAD = do_GET

        def _answer(self, body: bytes, headers: Mapping[str, str], status: int = 200) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", fetched
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
