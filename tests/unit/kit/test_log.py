from __future__ import annotations

from mailcore.kit.log import mask


def test_secrets_are_masked_wherever_they_stand() -> None:
    text = (
        "key re_c1tpEyD8_NKFusih9vKVQknRAQfmFcWCv at postgresql://postroom:hunter2@db/postroom "
        "with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )
    assert mask(text) == "key *** at postgresql://***@db/postroom with ***"


def test_what_signs_a_person_in_is_masked() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl-_"
    assert mask(f"Bearer {token}; __Host-postroom_session=abc-_1; x") == "Bearer ***; __Host-postroom_session=***; x"


def test_links_that_need_no_key_are_masked() -> None:
    text = "GET /v1/shared/sent/a/b?expires=1&signature=0123abcd then /unsubscribe?token=AbC-_9 and token=5"
    assert mask(text) == "GET /v1/shared/sent/a/b?expires=1&signature=*** then /unsubscribe?token=*** and token=5"
