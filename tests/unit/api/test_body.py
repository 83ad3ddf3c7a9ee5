from __future__ import annotations

from typing import Any

import orjson
import pytest
from starlette.requests import Request

from api.body import OFF_LOOP_BYTES, read_json
from api.errors import ApiError


def _request(body: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


# what is said of NUL: escaped once it is one, escaped twice it is only text
@pytest.mark.parametrize("padding", [0, OFF_LOOP_BYTES], ids=["small", "large"])
@pytest.mark.parametrize(
    "value",
    ["\0", ["a", 1, 2.5, None, True, ["\0"]], {"a": {"b": "x\0"}}, {"\0": 1}, [[1, 2, {"a": [3, "\0"]}]]],
    ids=str,
)
async def test_a_nul_anywhere_is_refused(value: Any, padding: int) -> None:
    with pytest.raises(ApiError, match="NUL"):
        await read_json(_request(orjson.dumps([value, " " * padding])))


@pytest.mark.parametrize("padding", [0, OFF_LOOP_BYTES], ids=["small", "large"])
async def test_text_about_nul_is_none(padding: int) -> None:
    value = ["\\u0000", {"\\u0000": [1, "\\u0000"]}, " " * padding]
    assert await read_json(_request(orjson.dumps(value))) == value


async def test_what_is_no_json() -> None:
    for body in (b"{", b"nul", b'{"a":"\xff"}', b"[" * 5_000):
        with pytest.raises(ApiError) as caught:
            await read_json(_request(body))
        assert caught.value.status == 400
    assert await read_json(_request(b"")) is None
