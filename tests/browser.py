"""A headless Chromium that shows documents and tells what came of it: dialogs, and requests for anything at all.

    async with Browser.start(folder) as browser:
        seen = await browser.show(["<p>x</p>", ...])        each in a frame of its own, scripts allowed
        seen.dialogs, seen.requests                         (number of the document, what)

It is driven over its debugging pipe. Whatever it asks for goes to a proxy in this process, which serves the documents and writes
down everything else: nothing leaves this machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import urlsplit

from peers import peer

HOST = "mail.test"
AT_ONCE = 100
"""Documents of one page."""
_FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
        "--mute-audio",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-domain-reliability"),
    *("--disable-default-apps", "--disable-extensions", "--no-pings", "--remote-debugging-pipe"),
    *("--disable-dev-shm-usage", "--proxy-bypass-list=<-loopback>", "--no-default-browser-check"),
    "--disable-features=OptimizationHints,MediaRouter,Translate,DialMediaRouteProvider,CertificateTransparencyComponentUpdater",
)

_OWN = re.compile(r"(?:http://)?(?:[a-z0-9-]+\.)+(?:google|googleapis|gstatic|gvt1)\.com[:/]")
"""What it asks for by itself, whatever it shows. What a document asks for is heard over the pipe, too."""


@dataclass
class Seen:
    dialogs: list[tuple[int, str]] = field(default_factory=list)
    requests: list[tuple[int, str]] = field(default_factory=list)
    """URLs; -1: of a document that nobody knows."""


class Browser:
    def __init__(self, proxy: _Proxy, reader: asyncio.StreamReader, writer: int) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._sent = 0
        self._session = ""
        self._loaded = asyncio.Event()
        self._seen = Seen()
        self._frames: dict[str, int] = {}

    @classmethod
    @asynccontextmanager
    async def start(cls, folder: Path) -> AsyncIterator[Browser]:
        """Skips the test where there is no Chromium."""
        program = peer("chromium")
        proxy = _Proxy()
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        # the pipe's ends have to be the descriptors 3 and 4 there
        with (folder / "chromium.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *("bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "chromium", program, *_FLAGS),
                *(f"--user-data-dir={mkdtemp(dir=folder)}", f"--proxy-server={address}", "about:blank"),
                pass_fds=(theirs_in, theirs_out),
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
                stdout=log,
                stderr=log,
            )
        os.close(theirs_in), os.close(theirs_out)
        reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb", buffering=0)
        )
        browser = cls(proxy, reader, ours_out)
        listening = asyncio.create_task(browser._listen())
        try:
            async with asyncio.timeout(100):
                await browser._attach()
            yield browser
        finally:
            listening.cancel()
            os.close(ours_out)
            transport.close()
            if process.returncode is None:
                process.kill()
            await process.wait()
            server.close()

    async def show(
        self,
        documents: Sequence[str],
        *,
        sandbox: str | None = None,
        csp: str | None = None,
        enough: Callable[[Seen], bool] = lambda _: True,
    ) -> Seen:
        """`sandbox`: of the frames, None: none; `csp`: with which the documents are served; `enough`: whether all is there that is
        waited for, a minute at most."""
        self._seen, known = Seen(), len(self._proxy.others)

        def so_far() -> Seen:
            # what it does ahead of a request is heard by the proxy alone
            ahead = [(-1, url) for url in self._proxy.others[known:]]
            return Seen([*self._seen.dialogs], [*self._seen.requests, *ahead])

        for first in range(0, len(documents), AT_ONCE):
            some = list(enumerate(documents))[first : first + AT_ONCE]
            self._proxy.pages = {"/favicon.ico": "", **{f"/{n}": document for n, document in some}}
            self._proxy.csp = csp
            held = "" if sandbox is None else f' sandbox="{escape(sandbox)}"'
            self._proxy.pages["/all"] = "".join(f'<iframe{held} src="/{n}"></iframe>' for n, _ in some)
            async with asyncio.timeout(110):
                await self._open(f"http://{HOST}/all")
                await asyncio.sleep(0.15)  # what loads or runs a moment later
                until = time.monotonic() + 60
                while not enough(so_far()) and time.monotonic() < until:
                    await asyncio.sleep(0.05)
                await self._open("about:blank")
        return so_far()

    async def _open(self, url: str) -> None:
        self._loaded.clear()
        await self._call("Page.navigate", {"url": url}, page=True)
        await self._loaded.wait()

    async def _attach(self) -> None:
        target = await self._call("Target.createTarget", {"url": "about:blank"})
        attached = await self._call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Network"):
            await self._call(f"{domain}.enable", {}, page=True)

    async def _call(self, method: str, params: dict[str, Any], *, page: bool = False) -> dict[str, Any]:
        self._sent += 1
        found: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._calls[self._sent] = found
        asked = {"id": self._sent, "method": method, "params": params, **({"sessionId": self._session} if page else {})}
        os.write(self._writer, json.dumps(asked).encode() + b"\0")
        return await found

    async def _listen(self) -> None:
        while True:
            said = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            if "id" in said:
                waiting = self._calls.pop(said["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(said.get("result", {}))
            else:
                self._heard(said["method"], said["params"])

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Page.javascriptDialogOpening":
            self._seen.dialogs.append((_number(params["url"]), params["message"]))
            answering = self._call("Page.handleJavaScriptDialog", {"accept": False}, page=True)
            self._answering = asyncio.ensure_future(answering)
        elif method == "Network.requestWillBeSent":
            url, document = params["request"]["url"], params["documentURL"]
            if not url.startswith(("data:", "about:")) and not self._proxy.serves(url):
                self._seen.requests.append((_number(document), url))


def _number(url: str) -> int:
    found = re.match(rf"http://{re.escape(HOST)}/(\d+)\Z", url.partition("#")[0])
    return int(found[1]) if found else -1


class _Proxy:
    """HTTP/1.1, and only what such a browser says."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.csp: str | None = None
        self.others: list[str] = []

    def serves(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.hostname == HOST and parts.path in self.pages and not parts.query

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, url, _ = head.split(" ", 2)
                if length := re.search(r"(?i)\ncontent-length: *(\d+)", head):
                    await reader.readexactly(int(length[1]))
                page = self.pages[urlsplit(url).path] if method == "GET" and self.serves(url) else None
                if page is None and not _OWN.match(url):
                    self.others.append(url)
                body = (page or "").encode()
                policy = f"Content-Security-Policy: {self.csp}\r\n" if self.csp and not url.endswith("/all") else ""
                writer.write(
                    f"HTTP/1.1 {200 if page is not None else 404} x\r\nContent-Type: text/html; charset=utf-8\r\n"
                    f"{policy}Content-Length: {len(body)}\r\nConnection: keep-alive\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()
