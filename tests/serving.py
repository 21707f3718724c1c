"""A file server on this machine, which gives parts of files as one on the network does.

    python serving.py FOLDER

says its address and then each request. Readers that wait without giving other threads of their
process a turn (GDAL does while it opens a file) need one in another process.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server:
    """Files by path; `cut` breaks transfers off, `seen` records what was asked."""

    def __init__(self, told: Callable[[str], None] | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.ranges = True
        self.seen: list[str] = []
        self.tokens: dict[str, set[str | None]] = {}
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def do_GET(self, body: bool = True) -> None:
                data = owner.files.get(self.path)
                asked = self.headers.get("Range", "")
                owner.tokens.setdefault(self.path, set()).add(self.headers.get("Authorization"))
                owner.seen.append(f"{self.path} {asked}".strip())
                if told is not None:
                    told(owner.seen[-1])
                if data is None:
                    self.send_error(404)
                    return
                etag, first, last = f'"{hashlib.md5(data).hexdigest()}"', 0, len(data) - 1
                same = self.headers.get("If-Range", etag) == etag
                if asked and owner.ranges and same:
                    low, _, high = asked.removeprefix("bytes=").partition("-")
                    first, last = int(low), min(int(high or last), last)
                    self.send_response(206 if first <= last else 416)
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                else:
                    self.send_response(200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", etag)
                part = data[first : last + 1]
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                if body:
                    self.wfile.write(part[: owner.cut.pop(0)] if owner.cut else part)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


def main() -> None:
    server = Server(lambda text: print(f"{text}\n", end="", flush=True))  # noqa: T201
    for file in Path(sys.argv[1]).iterdir():
        server.files[f"/{file.name}"] = file.read_bytes()
    print(server.url, flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    main()
