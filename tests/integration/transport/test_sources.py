"""One source of two addresses: which is bound goes by the peer's."""

from __future__ import annotations

import pytest

from fakes.smtp_server import SmtpServer
from integration.transport.harness import deliver, hop, mail, to
from mailcore.smtp.outcome import Result
from mailcore.transport import Hop
from outbound.binding import bind_error


async def test_the_address_is_of_the_peers_family() -> None:
    if bind_error("::1") is not None:
        pytest.skip("this machine has no IPv6")
    async with SmtpServer() as four, SmtpServer(host="::1") as six:
        for server, hops, bound in (
            (four, (hop(four),), "127.0.0.7"),
            (six, (Hop("six.test", ("::1",), six.port),), "::1"),
        ):
            run = await deliver(to(hops=hops, source_ip="127.0.0.7", source_ip6="::1", helo="out7.test"), [mail("a")])
            assert run["a"].result is Result.DELIVERED
            assert run["a"].source_ip == bound
            assert server.talks[0].peer[0] == bound
            assert server.talks[0].commands[0] == "EHLO out7.test"


async def test_a_family_without_a_source_is_left_out() -> None:
    async with SmtpServer() as server:
        run = await deliver(to(server, source_ip6="::1"), [mail("a")])
        assert (run["a"].result, run["a"].rule) == (Result.DEFERRED, "connect-failed")
        assert server.talks == []
