"""Who looks at an image or follows a link, by what it sends: a person, a mailbox provider's proxy, or a program.

A person's open or click says that a person read. The others are recorded too, and marked:

    proxy     fetched in somebody's name: address and program are the proxy's. Gmail's, Yahoo's and Outlook's mostly ask when the
              mail is shown; Apple's (Mail Privacy Protection) asks for every mail, read or not
    scanner   a security scanner, a preview, a crawler, a program without a face; HEAD and prefetches too
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PROXIES = {"googleimageproxy": "gmail", "yahoomailproxy": "yahoo", "outlookmobilecloudservice": "outlook"}
_PROXY = re.compile("|".join(_PROXIES), re.IGNORECASE)
_APPLE = "Mozilla/5.0"
"""All that Apple's proxy says of itself."""
_GMAIL_AHEAD = "Edge/12.246 Mozilla/5.0"
"""At the end of what Gmail says when it fetches images before the mail is shown."""
_SCANNERS = re.compile(
    r"barracuda|mimecast|proofpoint|safelinks|messagelabs|symantec|fireeye|trellix|forcepoint|sophos|trendmicro|ironport|cloudmark"
    r"|zscaler|avanan|perception-point|vade ?secure|google-safety|gmail-content-sampling|existence discovery|bingpreview"
    r"|(?:(?<!cu)bot|crawler|spider|slurp|scanner|preview)\b",
    re.IGNORECASE,
)
_PROGRAMS = re.compile(
    r"^(?:curl|wget|python|go-http-client|java|okhttp|libwww|lwp|ruby|perl|php|guzzle|node|axios|undici|got|apache-httpclient"
    r"|powershell|httpie|postmanruntime|aiohttp)|headless|phantomjs|httpx|urllib|electron-fetch",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reader:
    proxy: str | None = None
    scanner: bool = False
    read: bool = True
    """False: surely nobody has read anything by this."""


def reader(method: str, headers: Mapping[str, str], *, image: bool) -> Reader:
    """`headers`: looked up by names in any case. `image`: asked for the image, not for a link."""
    agent = headers.get("user-agent", "").strip()
    ahead = any(
        "prefetch" in value or "preview" in value
        for value in (headers.get(name, "").lower() for name in ("sec-purpose", "purpose", "x-purpose", "x-moz"))
    )
    found = _PROXY.search(agent)
    proxy = _PROXIES[found[0].lower()] if found else None
    if image and proxy is None:
        if agent == _APPLE:
            proxy = "apple"
        elif agent.endswith(_GMAIL_AHEAD):
            proxy, ahead = "gmail", True
    if method == "HEAD" or ahead or (proxy is None and _SCANNERS.search(agent)):
        return Reader(proxy, scanner=True, read=False)
    if proxy is not None:
        return Reader(proxy, read=proxy != "apple")
    return Reader(scanner=not agent or _PROGRAMS.search(agent) is not None)
