from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
import pytest
from pydantic import Field, model_validator
from starlette.requests import Request

from api.body import OFF_LOOP_BYTES, Asked, check, read_json
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


class _Wanted(Asked):
    name: Annotated[str, Field(max_length=50)] = ""
    emails: Annotated[list[str], Field(min_length=1, max_length=2)] | None = None
    ids: list[str] | None = None
    on: bool = False
    tls: Literal["opportunistic", "enforced"] = "opportunistic"
    more: dict[str, str] | None = None
    count: int = 0

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.emails is not None and self.ids is not None:
            raise ValueError("Give either `emails` or `ids`, not both")
        return self


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "x" * 51}, "Invalid `name` field. It may have at most 50 characters."),
        ({"emails": []}, "Invalid `emails` field. It must hold at least 1."),
        ({"emails": ["a", "b", "c"]}, "Invalid `emails` field. It may hold at most 2."),
        ({"on": "yes"}, "Invalid `on` field. It must be true or false."),
        ({"on": None}, "Invalid `on` field. It must be true or false."),
        ({"tls": "maybe"}, "Invalid `tls` field. It must be 'opportunistic' or 'enforced'."),
        ({"name": 7}, "Invalid `name` field. It must be a string."),
        ({"ids": "a"}, "Invalid `ids` field. It must be an array."),
        ({"ids": ["a", 7]}, "Invalid `ids.1` field. It must be a string."),
        ({"more": []}, "Invalid `more` field. It must be an object."),
        ({"count": 1.5}, "Invalid `count` field. It must be a whole number."),
        ({"emails": ["a"], "ids": ["b"]}, "Give either `emails` or `ids`, not both."),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:40],
)
def test_what_is_wrong_is_said_in_words_of_the_api(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as caught:
        check(body, _Wanted)
    assert (caught.value.status, caught.value.name, caught.value.message) == (422, "validation_error", words)
