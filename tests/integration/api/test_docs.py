from __future__ import annotations

from .harness import MakeClient


async def test_the_reference_is_a_page_for_anybody(make_client: MakeClient) -> None:
    api = await make_client(None, http={"public_url": "https://mail.example"})
    page = await api.get("/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "https://mail.example/emails" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "max-age" in page.headers["cache-control"]
    again = await api.get("/docs", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    document = (await api.get("/openapi.json")).json()
    assert "/docs" not in document["paths"]
    for path in document["paths"]:
        assert path in page.text


async def test_a_program_that_asks_the_root_is_told_where_the_reference_is_and_a_browser_is_sent_there(
    make_client: MakeClient,
) -> None:
    api = await make_client(None, http={"public_url": "https://mail.example/"})
    told = await api.get("/")
    assert (told.status_code, told.headers["vary"]) == (200, "accept")
    assert told.json() == {
        "name": "Postroom",
        "version": (await api.get("/openapi.json")).json()["info"]["version"],
        "docs": "https://mail.example/docs",
        "openapi": "https://mail.example/openapi.json",
        "health": "https://mail.example/health",
    }
    browser = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    sent = await api.get("/", headers=browser, follow_redirects=False)
    assert (sent.status_code, sent.headers["location"], sent.headers["vary"]) == (302, "/docs", "accept")
    assert (await api.get("/docs", headers=browser)).status_code == 200
    assert (await api.head("/")).status_code == 200
    for method in ("POST", "DELETE"):
        refused = await api.request(method, "/")
        assert (refused.status_code, refused.json()["name"]) == (405, "method_not_allowed")


async def test_the_console_is_not_there_yet_and_says_so_like_any_unknown_path(make_client: MakeClient) -> None:
    api = await make_client(None)
    for path in ("/console/", "/console", "/console/mail"):
        missing = await api.get(path, headers={"accept": "text/html"})
        assert missing.status_code == 404
        assert missing.json() == (await api.get("/nowhere")).json()
        assert missing.json()["name"] == "not_found"
