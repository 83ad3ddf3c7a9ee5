"""/docs: the whole document, nothing that runs, nothing unescaped."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

from api.app import ROUTERS, Api
from api.docs.page import STYLE, render
from api.docs.routes import POLICY

VOID = {"meta", "br", "link"}


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def document() -> dict[str, Any]:
    app = Api()
    for router in ROUTERS:
        app.include_router(router)
    return app.openapi()


def test_every_operation_is_there_once_and_found_from_the_index() -> None:
    described = document()
    reader = read(page := render(described, "https://mail.example/"))
    operations = sum(len(of) for of in described["paths"].values())
    assert page.count('class="op"') == operations
    assert len(set(reader.ids)) == len(reader.ids)
    inner = [link[1:] for link in reader.links if link.startswith("#")]
    assert len(inner) == operations
    assert set(inner) <= set(reader.ids)
    assert set(reader.links) - {f"#{each}" for each in inner} == {"/openapi.json"}
    assert "curl -X POST https://mail.example/emails \\" in page
    assert "The API key is not active" in page


def test_nothing_runs_and_nothing_comes_from_elsewhere() -> None:
    reader = read(render(document(), "https://mail.example"))
    assert not reader.tags & {"script", "iframe", "img", "link", "object", "form"}
    assert not {name for name in reader.attributes if name.startswith("on") or name in ("style", "src")}
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY
    assert "default-src 'none'" in POLICY
    assert "url(" not in STYLE


def test_what_the_document_says_is_escaped_and_may_refer_to_itself() -> None:
    evil = "<script>alert(1)</script>`<b>`\"'&"
    node: dict[str, Any] = {"type": "object", "description": evil, "properties": {evil: {"type": "string"}}}
    node["properties"]["children"] = {"type": "array", "items": {"$ref": "#/components/schemas/Node"}}
    page = render(
        {
            "info": {"title": evil, "version": evil},
            "paths": {
                f"/{evil}": {
                    "post": {
                        "tags": [evil],
                        "description": evil,
                        "parameters": [{"name": evil, "in": "query", "schema": {"enum": [evil]}, "description": evil}],
                        "requestBody": {
                            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Node"}}}
                        },
                        "responses": {
                            "200": {
                                "description": evil,
                                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Node"}}},
                            },
                            "422": {"description": evil},
                        },
                    }
                }
            },
            "components": {"schemas": {"Node": node}},
        },
        evil,
    )
    assert not re.search(r"<script|<b>", page)
    assert "script" not in read(page).tags
