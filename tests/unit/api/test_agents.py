"""Who looks at a mail's image or follows its link."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from api.tracking.agents import Reader, reader

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
OUTLOOK = (
    "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; Win64; x64; Microsoft Outlook 16.0; ms-office; MSOffice 16)"
)
GMAIL = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
AHEAD = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0"
PERSON = Reader()
MACHINE = Reader(scanner=True, read=False)


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        *(
            (agent, PERSON)
            for agent in (
                FIREFOX,
                IPHONE,
                OUTLOOK,
                "Thunderbird/140.0",
                "Mozilla/5.0 (Linux; Android 10; CUBOT X30) Mobile",
            )
        ),
        (GMAIL, Reader("gmail")),
        ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", Reader("yahoo")),
        ("Mozilla/5.0", Reader("apple", read=False)),
        (AHEAD, Reader("gmail", scanner=True, read=False)),
        ("OutlookMobileCloudService-Autodetect/1.0.0", Reader("outlook")),
        *(
            (agent, MACHINE)
            for agent in (
                "Barracuda Sentinel (EE)",
                "Mozilla/5.0 (compatible; Googlebot/2.1)",
                "Slackbot-LinkExpanding 1.0",
            )
        ),
        *(
            (agent, MACHINE)
            for agent in (
                "Mozilla/5.0 Microsoft Office Existence Discovery",
                "Mozilla/5.0 BingPreview/1.0b",
                "Mimecast",
            )
        ),
        *(
            (agent, Reader(scanner=True))
            for agent in ("", "  ", "curl/8.5", "python-requests/2.32", "Go-http-client/1.1")
        ),
        ("Mozilla/5.0 (X11) HeadlessChrome/130.0", Reader(scanner=True)),
    ],
)
def test_agents(agent: str, expected: Reader) -> None:
    assert reader("GET", Headers({"user-agent": agent}), image=True) == expected


def test_what_only_images_show() -> None:
    assert reader("GET", Headers({"user-agent": "Mozilla/5.0"}), image=False) == PERSON
    assert reader("GET", Headers({}), image=False) == Reader(scanner=True)


@pytest.mark.parametrize(
    "headers",
    [{"sec-purpose": "prefetch;prerender"}, {"purpose": "preview"}, {"x-moz": "prefetch"}, {"X-Purpose": "PREVIEW"}],
)
def test_what_is_fetched_ahead(headers: dict[str, str]) -> None:
    assert reader("GET", Headers({"user-agent": FIREFOX, **headers}), image=False) == MACHINE
    assert reader("HEAD", Headers({"user-agent": FIREFOX}), image=False) == MACHINE
