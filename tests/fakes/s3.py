"""A small S3: PUT, GET, HEAD, DeleteObjects and ListObjectsV2 of one bucket on loopback, path style; signatures unverified."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

PAGE = 2
"""Keys a page, small so that listing has to go on."""


class FakeS3:
    def __init__(self, url: str) -> None:
        self.url = url
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.refuse = False
        """Answers 503 to everything."""


def _handler(state: FakeS3, bucket: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _key(self) -> str | None:
            if state.refuse:
                self._answer(503)
                return None
            if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=access/"):
                self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
                return None
            found, _, key = unquote(urlsplit(self.path).path)[1:].partition("/")
            if found != bucket:
                self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
                return None
            return key

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            key = self._key()
            if key is not None:
                state.objects[key] = body, datetime.now(UTC)
                self._answer(200, headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

        def do_GET(self) -> None:
            key = self._key()
            if key is None:
                return
            if not key:
                self._list(parse_qs(urlsplit(self.path).query))
            elif key not in state.objects:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                body, at = state.objects[key]
                headers = {
                    "ETag": f'"{hashlib.md5(body).hexdigest()}"',
                    "Last-Modified": f"{at:%a, %d %b %Y %H:%M:%S} GMT",
                }
                self._answer(200, body, headers)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            """DeleteObjects: obstore asks for it even for one key."""
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if self._key() is None:
                return
            keys = re.findall("<Key>(.*?)</Key>", body)
            for key in keys:
                state.objects.pop(unescape(key), None)
            deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            answer = f"<DeleteResult>{deleted}</DeleteResult>"
            self._answer(200, answer.encode(), {"Content-Type": "application/xml"})

        def _list(self, query: dict[str, list[str]]) -> None:
            prefix, start = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
            keys = sorted(key for key in state.objects if key.startswith(prefix) and key > start)
            page, rest = keys[:PAGE], keys[PAGE:]
            contents = "".join(
                f"<Contents><Key>{escape(key)}</Key><Size>{len(state.objects[key][0])}</Size><ETag>&quot;e&quot;</ETag>"
                f"<LastModified>{state.objects[key][1]:%Y-%m-%dT%H:%M:%S.%f}Z</LastModified></Contents>"
                for key in page
            )
            more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if rest else ""
            body = (
                f'<?xml version="1.0"?><ListBucketResult><Name>{bucket}</Name><KeyCount>{len(page)}</KeyCount>'
                f"<IsTruncated>{str(bool(rest)).lower()}</IsTruncated>{more}{contents}</ListBucketResult>"
            )
            self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    return Handler


@contextmanager
def running(bucket: str) -> Iterator[FakeS3]:
    state = FakeS3("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state, bucket))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
