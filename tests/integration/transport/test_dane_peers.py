"""DANE against mail servers of others: Postfix with OpenSSL, Exim with GnuTLS. (OpenSMTPD does no TLS in the lab: test_lab.)"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fakes import mtas
from fakes.smtp_server import SmtpServer
from mailcore.dns.resolver import TlsaRecord
from mailcore.smtp.outcome import Result
from mailcore.transport import Destination, Hop
from mailcore.transport.tls import Kind, Security
from peers import peer

from .harness import certificate, certificate_file, deliver, mail

SERVERS = {"postfix": ("postfix", mtas.postfix), "exim": ("exim4", mtas.exim)}


@pytest.fixture
def folder() -> Iterator[Path]:
    """These servers change to users of their own, who must be able to pass through."""
    with TemporaryDirectory(prefix="postroom-lab-") as name:
        found = Path(name)
        found.chmod(0o755)
        yield found


def record(context: ssl.SSLContext) -> TlsaRecord:
    """`3 1 1` of the server's certificate, which the client's context has as its only authority."""
    (der,) = context.get_ca_certs(binary_form=True)
    key = x509.load_der_x509_certificate(der).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TlsaRecord(3, 1, 1, hashlib.sha256(key).digest())


@pytest.mark.peer("postfix, exim4")
@pytest.mark.parametrize("name", list(SERVERS))
async def test_the_key_that_is_shown_is_the_one_that_counts(name: str, folder: Path) -> None:
    program, start = SERVERS[name]
    peer(program)
    if os.geteuid() != 0:
        pytest.skip(f"{name} is started as root only")
    good = record(certificate("mx0.test", rsa_bits=2048)[1])
    async with SmtpServer() as sink:
        with start(folder / "mx", sink.port, certificate_file("mx0.test", folder, rsa_bits=2048)) as port:
            for records, result in (((good,), Result.DELIVERED), ((replace(good, data=b"\1" * 32),), Result.DEFERRED)):
                security = Security(Kind.DANE, records, ("mx0.test",))
                hop = Hop("mx0.test", ("127.0.0.1",), port, security=security)
                outcome = (await deliver(Destination(name, (hop,)), [mail()]))["bob"]
                assert (outcome.result, outcome.tls_policy) == (result, "dane")
    assert outcome.rule == "dane-failed"
