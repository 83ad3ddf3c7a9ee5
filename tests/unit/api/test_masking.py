"""What the log of calls keeps of bodies, and that finding secrets in them takes no longer than reading them."""

from __future__ import annotations

import time

import orjson
import pytest

from api.logs import masking, record
from mailcore.kit import log

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_"


@pytest.mark.parametrize(
    "secret",
    [
        "re_c1tpEyD8_NKFusih9vKVQknRAQfmFcWCv",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        TOKEN,
        "hunter2:of:colons",
    ],
)
def test_secrets_in_texts_are_masked(secret: str) -> None:
    text = f"postgres://me:{secret}@db/x" if secret.startswith("hunter2") else f"key={secret}; rest"
    for found in (masking.mask(text), masking.kept(orjson.dumps({"a": [text]}), 16_384) or "", log.mask(text)):
        assert secret not in found and "***" in found


@pytest.mark.parametrize(
    "text",
    [
        "://" + "a:" * 8192,
        "-eyJ" * 4096,
        "eyJaaaaaaaa." * 1300,
        "://" * 5000,
        "eyJ" * 5000,
        "://a:" * 3200,
        "re_" * 5000,
    ],
)
def test_text_made_to_hold_up_the_masking_holds_up_nothing(text: str) -> None:
    """It runs between requests: one call of 256 KB stood in the way of all others for 24 seconds."""
    body = orjson.dumps([text[:8192]] * 30)
    began = time.process_time()
    masking.kept(body, 16_384)
    log.mask(text * 10)
    assert time.process_time() - began < 5.0  # of the processor; it is some 20 ms


@pytest.mark.parametrize(
    "secret", ["re_c1tpEyD8_NKFusih9vKVQknRAQfmFcWCv", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", TOKEN]
)
def test_secrets_in_paths_and_names_of_clients_are_masked(secret: str) -> None:
    assert record._clean(f"/webhooks/{secret}") == "/webhooks/***"
    assert record._agent(f"curl {secret}".encode()) == "curl ***"


@pytest.mark.parametrize("value", [[[1] * 900] * 130, [{"a": "b"}] * 20_000, {f"k{n}": n for n in range(20_000)}])
def test_no_more_is_looked_at_than_is_kept(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a megabyte in small pieces stood in the way of all other calls for 20 ms and more."""
    limit, looked, masked = 16_384, [], []
    of, mask = masking._Walk.of, masking.mask
    monkeypatch.setattr(masking._Walk, "of", lambda *a, **more: (looked.append(1), of(*a, **more))[1])
    monkeypatch.setattr(masking, "mask", lambda text: (masked.append(len(text)), mask(text))[1])
    kept = masking.kept(orjson.dumps(value), limit)
    assert kept is not None and 1_000 < len(kept) <= limit
    assert len(looked) <= limit / 2 + 10 and max(masked) <= limit + 100


@pytest.mark.parametrize("before", [0, 8_000, 8_100, 8_150, 8_185, 16_300, 16_350, 16_380])
def test_a_secret_where_a_body_is_cut_is_not_shown_in_part(before: int) -> None:
    secret = "re_c1tpEyD8_NKFusih9vKVQknRAQfmFcWCv"
    text = masking.kept(orjson.dumps(["x " * (before // 4), "y " * (before // 4), secret, *["z" * 90] * 900]), 16_384)
    assert text is not None and "re_c1t" not in text
    many = masking.kept(orjson.dumps([secret] * 5_000), 16_384)
    assert many is not None and "re_c1" not in many and "***" in many
