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
