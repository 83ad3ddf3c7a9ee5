"""Key records, good and bad (reliability: keys of 512 to 8,192 bits, revoked ones, several, large ones)."""

from __future__ import annotations

import asyncio
import base64
import itertools

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mailcore.dns.resolver import Records, StaticResolver, TemporaryDNSError
from mailcore.kit.errors import Invalid
from mailcore.mailauth.dkim.keys import ED25519_SHA256, RSA_SHA256, generate_ed25519, generate_rsa
from mailcore.mailauth.dkim.record import MAX_RECORD, find_keys, parse_record

RSA_TXT = generate_rsa(1024)[1]
ED_TXT = generate_ed25519()[1]
RSA_P, ED_P = (txt.partition("p=")[2] for txt in (RSA_TXT, ED_TXT))
RSA_512 = (
    "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBANp0Y2bvD1sBDSo5C9n5dbXbYs9ulV1SBn8xgQMoDIHV1Yh7tJJVO9lHUpU4kzIs5lUFzIl2rjTQzBls"
    "IGBIK8MCAwEAAQ=="
)


def test_the_kinds_of_keys() -> None:
    for text in (
        RSA_TXT,
        f"p={RSA_P}",
        f"k=RSA; p={RSA_P[:30]} {RSA_P[30:]};",
        f"v=DKIM1; h=sha1:sha256; p={RSA_P}; n=x",
    ):
        key = parse_record(text)
        assert (key.algorithm, key.bits, key.testing, key.strict) == (RSA_SHA256, 1024, False, False)
    key = parse_record(f"{ED_TXT}; t=y:s; s=email")
    assert (key.algorithm, key.bits, key.testing, key.strict) == (ED25519_SHA256, 256, True, True)


def test_a_bare_rsa_key_is_read_too() -> None:
    public = parse_record(RSA_TXT).key
    bare = base64.b64encode(public.public_bytes(Encoding.DER, PublicFormat.PKCS1)).decode()
    assert parse_record(f"p={bare}").bits == 1024


def exported(key: ec.EllipticCurvePrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


@pytest.mark.parametrize("bits", [512, 768, 1023])
def test_keys_that_are_too_weak(bits: int) -> None:
    public = RSAPublicNumbers(65537, (1 << (bits - 1)) + 1).public_key()
    der = base64.b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    with pytest.raises(Invalid, match=f"{bits} bits"):
        parse_record(f"p={der}")


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ("v=DKIM1; k=rsa; p=", "revoked"),
        ("v=DKIM1; k=rsa", "no p="),
        (f"v=DKIM2; p={RSA_P}", "v= must"),
        (f"k=rsa; v=DKIM1; p={RSA_P}", "v= must"),
        (f"v=dkim1; p={RSA_P}", "v= must"),
        (f"v=DKIM1; h=sha1; p={RSA_P}", "SHA-256"),
        (f"v=DKIM1; s=other; p={RSA_P}", "not for mail"),
        (f"v=DKIM1; k=dsa; p={RSA_P}", "unknown kind"),
        (f"v=DKIM1; k=ed25519; p={RSA_P}", "32 octets"),
        (f"v=DKIM1; k=rsa; p={ED_P}", "cannot be read"),
        ("v=DKIM1; k=rsa; p=!", "base64"),
        (f"v=DKIM1; k=rsa; p={exported(ec.generate_private_key(ec.SECP256R1()))}", "not the RSA key"),
        (f"v=DKIM1; k=rsa; p={RSA_512}", "512 bits"),
        ("v=spf1 -all", "v= must"),
        ("google-site-verification", "no tag"),
        (f"p={RSA_P}; n={'x' * MAX_RECORD}", "characters"),
    ],
    ids=itertools.count(),  # keys and times are new each time, names must not be
)
def test_what_is_no_usable_key(record: str, word: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_record(record)
    assert word in caught.value.public


def test_a_record_of_four_kilobytes_is_read() -> None:
    assert parse_record(f"p={RSA_P}; n={'x' * (MAX_RECORD - len(RSA_P) - 10)}").bits == 1024


@given(st.text(max_size=200) | st.text(alphabet="vkphst=;: DKIM1rsaey\x00", max_size=80))
def test_anything_is_a_key_or_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        parse_record(text)


NAME = ("s", "example.com")
AT = "s._domainkey.example.com"


async def test_several_records_under_a_name() -> None:
    resolver = StaticResolver({AT: {"TXT": ["v=spf1 -all", RSA_TXT, "p=", ED_TXT]}})
    found = (await find_keys([NAME, NAME], resolver))[NAME]
    assert isinstance(found, tuple)
    assert [key.algorithm for key in found] == [RSA_SHA256, ED25519_SHA256]
    assert len(resolver.asked) == 1, "asked once"
    many = StaticResolver({AT: {"TXT": ["p="] * 4 + [RSA_TXT]}})
    assert isinstance((await find_keys([NAME], many))[NAME], Invalid), "the fifth record is never looked at"


async def test_no_key_and_no_answer() -> None:
    for resolver, temporary in (
        (StaticResolver({}), False),
        (StaticResolver({AT: {"TXT": []}}), False),
        (StaticResolver({AT: {"TXT": ["p="]}}), False),
        (StaticResolver({}, failing=[AT]), True),
    ):
        found = (await find_keys([NAME], resolver))[NAME]
        assert not isinstance(found, tuple)
        assert found.temporary is temporary
    assert await find_keys([], StaticResolver({})) == {}


class Slow(StaticResolver):
    """Answers for one name, and never for the others."""

    waiting = 0

    async def txt(self, name: str) -> Records[str]:
        if name != AT:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
        return await super().txt(name)


async def test_names_that_never_answer_share_one_time() -> None:
    resolver = Slow({AT: {"TXT": [RSA_TXT]}})
    names = [NAME, *((f"slow{n}", "example.com") for n in range(100))]
    found = await find_keys(names[:5], resolver, seconds=0.05)
    assert isinstance(found[NAME], tuple)
    assert all(isinstance(found[name], TemporaryDNSError) for name in names[1:5])
    found = await find_keys(names, resolver, seconds=0.05)
    assert sum(isinstance(each, TemporaryDNSError) for each in found.values()) >= 100
    await asyncio.sleep(0)
    assert resolver.waiting == 0, "nobody goes on asking"
