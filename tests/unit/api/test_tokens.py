"""Attacks on JSON Web Tokens (RFC 8725, and the kinds of the wycheproof JWS vectors): none opens anything."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from api.people.tokens import Claims, Tokens
from mailcore.flow.people import SignedIn
from mailcore.kit.seal import Keyring

KEY = Keyring([bytes(range(32))]).derive("jwt")
ISSUER = "https://mail.example"
WHO = SignedIn(UUID(int=1), "s" * 43, UUID(int=2), UUID(int=3), "a@example.com", "Ann")
TOKENS = Tokens(KEY, ISSUER)
GOOD = TOKENS.make(WHO)
HEAD, BODY, SIGNATURE = GOOD.split(".")
NOW = int(time.time())


def b64(data: bytes | str | dict[str, Any]) -> str:
    raw = json.dumps(data).encode() if isinstance(data, dict) else data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def signed(head: str, body: str, key: bytes = KEY, digest: str = "sha256") -> str:
    return f"{head}.{body}.{b64(hmac.digest(key, f'{head}.{body}'.encode(), digest))}"


def claims(**changed: Any) -> dict[str, Any]:
    good = jwt.decode(GOOD, options={"verify_signature": False})
    return {name: value for name, value in {**good, **changed}.items() if value is not ...}


RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
PUBLIC = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def header(**fields: Any) -> str:
    return b64({"alg": "HS256", "typ": "JWT"} | fields)


ATTACKS: dict[str, str] = {
    # no signature at all
    **{f"alg {name}": f"{b64({'alg': name, 'typ': 'JWT'})}.{BODY}." for name in ("none", "None", "NONE", "nOnE", "")},
    "alg none, signature kept": f"{b64({'alg': 'none'})}.{BODY}.{SIGNATURE}",
    "no alg": signed(b64({"typ": "JWT"}), BODY),
    "alg is a list": signed(b64({"alg": ["HS256"]}), BODY),
    "alg is null": signed(b64({"alg": None}), BODY),
    "empty signature": f"{HEAD}.{BODY}.",
    "signature cut": f"{HEAD}.{BODY}.{SIGNATURE[:-4]}",
    "signature of zeroes": f"{HEAD}.{BODY}.{b64(bytes(32))}",
    # another algorithm, another key
    "HS384": signed(b64({"alg": "HS384", "typ": "JWT"}), BODY, digest="sha384"),
    "HS512": signed(b64({"alg": "HS512", "typ": "JWT"}), BODY, digest="sha512"),
    "HS256 said, SHA-512 made": signed(HEAD, BODY, digest="sha512"),
    "RS256": jwt.encode(claims(), RSA, "RS256"),
    "PS256": jwt.encode(claims(), RSA, "PS256"),
    "ES256": jwt.encode(claims(), EC, "ES256"),
    "HS256 with a public key": signed(HEAD, BODY, PUBLIC),
    "empty key": signed(HEAD, BODY, b""),
    "another key": signed(HEAD, BODY, bytes(32)),
    "the key of links": signed(HEAD, BODY, Keyring([bytes(range(32))]).derive("link")),
    "the key in hex": signed(HEAD, BODY, KEY.hex().encode()),
    # keys that the token names
    "kid: a file": signed(header(kid="/dev/null"), BODY, b""),
    "kid: a path": signed(header(kid="../../../../dev/null"), BODY, b"\0"),
    "kid: SQL": signed(header(kid="x' UNION SELECT 'k' --"), BODY, b"k"),
    "jku": signed(header(jku="http://127.0.0.1/keys"), BODY),
    "x5u": signed(header(x5u="http://127.0.0.1/cert"), BODY),
    "jwk": signed(header(jwk={"kty": "oct", "k": b64(b"k")}), BODY, b"k"),
    "crit": signed(header(crit=["exp"]), BODY),
    "b64 false": signed(header(b64=False, crit=["b64"]), BODY),
    "zip": signed(header(zip="DEF"), BODY),
    "cty: a token in a token": signed(header(cty="JWT"), b64(GOOD)),
    # a header that says two things
    "alg twice": signed(b64('{"alg":"none","alg":"HS256","typ":"JWT"}'), BODY),
    "header with a blank": signed(b64('{"alg": "HS256","typ":"JWT"}'), BODY),
    "header with padding": signed(HEAD + "=", BODY),
    # claims, rightly signed
    **{f"no {name}": signed(HEAD, b64(claims(**{name: ...}))) for name in claims()},
    **{f"{name} null": signed(HEAD, b64(claims(**{name: None}))) for name in claims()},
    **{f"{name} a list": signed(HEAD, b64(claims(**{name: [claims()[name]]}))) for name in claims()},
    "over": signed(HEAD, b64(claims(exp=NOW - 1))),
    "over, as text": signed(HEAD, b64(claims(exp="x"))),
    "never over": signed(HEAD, b64('{"exp":Infinity,' + json.dumps(claims(exp=...))[1:])),
    "not yet": signed(HEAD, b64(claims(nbf=NOW + 86_400))),
    "from the future": signed(HEAD, b64(claims(iat=NOW + 86_400))),
    "another issuer": signed(HEAD, b64(claims(iss="https://evil.example"))),
    "another audience": signed(HEAD, b64(claims(aud="other"))),
    "several audiences": signed(HEAD, b64(claims(aud=["postroom", "other"]))),
    "sub no id": signed(HEAD, b64(claims(sub="admin"))),
    "sub twice": signed(HEAD, b64(json.dumps(claims())[:-1] + f', "sub": "{UUID(int=9)}"}}')),
    "exp twice": signed(HEAD, b64(json.dumps(claims(exp=NOW - 1))[:-1] + f', "exp": {NOW + 600}}}')),
    "claims are a list": signed(HEAD, b64("[]")),
    "claims are text": signed(HEAD, b64('"x"')),
    "claims are no JSON": signed(HEAD, b64("{")),
    "claims are deep": signed(HEAD, b64("[" * 1_000)),
    "claims no UTF-8": signed(HEAD, b64(b'{"sub":"\xff"}')),
    # another shape
    "four parts": GOOD + ".x",
    "two parts": f"{HEAD}.{BODY}",
    "five parts, as encrypted": f"{HEAD}..{BODY}.{SIGNATURE}.x",
    "JSON": json.dumps({"payload": BODY, "protected": HEAD, "signature": SIGNATURE}),
    "blank before": " " + GOOD,
    "line end": GOOD + "\n",
    "padding": GOOD + "=",
    "standard alphabet": f"{HEAD}.{BODY}.{'+' + SIGNATURE[1:]}",
    "junk in the signature": f"{HEAD}.{BODY}.{SIGNATURE[:20]}!!{SIGNATURE[20:]}",
    "not ASCII": f"{HEAD}.{BODY}.é",
    "long": signed(HEAD, b64(claims(x="y" * 4_000))),
    "empty": "..",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_opens_anything(attack: str) -> None:
    assert TOKENS.read(ATTACKS[attack]) is None


def test_ours_opens() -> None:
    assert TOKENS.read(GOOD) == Claims(WHO.user_id, WHO.org_id, WHO.secret)
    assert TOKENS.read(signed(HEAD, b64(claims()))) is not None, "what the attacks change is what makes them fail"
    assert jwt.get_unverified_header(GOOD) == {"alg": "HS256", "typ": "JWT"}
    made = jwt.decode(GOOD, KEY, algorithms=["HS256"], audience="postroom", issuer=ISSUER)
    assert made["exp"] - made["iat"] == 86_400
    assert {"sub", "team_id", "iat", "exp"} <= set(made)


def test_the_last_bits_of_a_signature_have_one_spelling() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    passing = [last for last in alphabet if TOKENS.read(GOOD[:-1] + last)]
    assert passing == [GOOD[-1]]


def test_a_day_later_it_is_over() -> None:
    assert TOKENS.read(TOKENS.make(WHO, now=time.time() - 86_390)) is not None
    assert TOKENS.read(TOKENS.make(WHO, now=time.time() - 86_401)) is None


def test_another_installations_token_is_a_strangers() -> None:
    assert Tokens(hashlib.sha256(b"other").digest(), ISSUER).read(GOOD) is None
    assert Tokens(KEY, "https://staging.example").read(GOOD) is None


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="latin-1"))
def test_one_changed_character_is_one_too_many(at: int, other: str) -> None:
    changed = GOOD[:at] + other + GOOD[at + 1 :]
    assert (TOKENS.read(changed) is not None) == (changed == GOOD)
