"""What stands around every route: the form of what nobody expected, and what is refused before a route runs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from api import errors
from api.app import Api
from api.bodies import Bodies
from api.edge import Edge

UNEXPECTED = {"statusCode": 500, "name": "application_error", "message": "An unexpected error occurred."}


def _app() -> Api:
    """The application with routes that fail, and no context: nothing here needs one."""
    router = APIRouter()

    @router.get("/breaks")
    async def breaks() -> None:
        raise RuntimeError("a secret of the server")

    @router.get("/breaks-midway")
    async def breaks_midway() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("a secret of the server")

        return StreamingResponse(parts())

    async def hot(request: Request) -> Response:
        raise RuntimeError("a secret of the server")

    app = Api()
    app.edge = Edge(super(Api, app).__call__, hot={("POST", "/hot"): hot}, bodies=Bodies(1000, 1000))
    errors.install(app)
    app.include_router(router)
    return app


def _client() -> httpx.AsyncClient:
    # raise_app_exceptions stays on: what leaves the application would end in the server's own words
    return httpx.AsyncClient(transport=httpx.ASGITransport(_app()), base_url="http://postroom.test")


@pytest.mark.parametrize(("method", "path"), [("GET", "/breaks"), ("POST", "/hot")])
async def test_what_nobody_expected_has_the_usual_form(method: str, path: str) -> None:
    async with _client() as client:
        answer = await client.request(method, path)
    assert (answer.status_code, answer.json()) == (500, UNEXPECTED)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]


async def test_an_answer_that_breaks_midway_is_not_called_whole() -> None:
    async with _client() as client:
        with pytest.raises(RuntimeError):
            await client.get("/breaks-midway")


async def test_a_nul_in_the_query_is_refused() -> None:
    """Postgres takes no NUL in a text; %2500 is not one."""
    async with _client() as client:
        refused = await client.get("/nowhere?door=a%00b")
        passed = await client.get("/nowhere?door=%2500")
    assert (refused.status_code, refused.json()["name"]) == (422, "invalid_parameter")
    assert passed.status_code == 404
