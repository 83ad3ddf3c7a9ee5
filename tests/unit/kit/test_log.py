from __future__ import annotations

from mailcore.kit.log import mask


def test_secrets_are_masked_wherever_they_stand() -> None:
    text = (
        "key re_c1tpEyD8_NKFusih9vKVQknRAQfmFcWCv at postgresql://postroom:hunter2@db/postroom "
        "with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )
    assert mask(text) == "key *** at postgresql://***@db/postroom with ***"
