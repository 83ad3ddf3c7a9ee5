import socket

import pytest

from peers import free_port
from postroom.console import CannotStart
from postroom.local.ports import HIGHEST_OFFSET, Ports, Wanted, check


def test_ports_are_counted_from_the_base() -> None:
    ports = Ports(8080)
    assert (ports.api, ports.mx, ports.catcher, ports.metrics, ports.dns) == (8080, 8081, 8085, 8086, 8087)
    assert (ports.postgres, ports.redis, ports.ops(0), ports.ops(4)) == (8100, 8101, 8102, 8106)


@pytest.mark.parametrize("base", [0, -5, 65536 - HIGHEST_OFFSET, 70000])
def test_a_base_without_room_is_refused(base: int) -> None:
    with pytest.raises(CannotStart, match="leaves no room"):
        Ports(base)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_taken_port_is_named_with_what_to_do(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as holder:
        holder.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            holder.listen(1)
        port = holder.getsockname()[1]
        with pytest.raises(CannotStart) as caught:
            check([Wanted("DNS", "127.0.0.1", port, udp=True)])
    assert f"Port {port} (DNS)" in str(caught.value)
    assert "--port-base" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_port_whose_last_connection_still_waits_is_free() -> None:
    server = socket.create_server(("127.0.0.1", free_port()))
    port = server.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        accepted, _ = server.accept()
        accepted.close()  # this side closes first and keeps the port in TIME_WAIT
    server.close()
    check([Wanted("HTTP", "127.0.0.1", port)])


def test_an_address_that_is_not_ours_is_said() -> None:
    with pytest.raises(CannotStart, match="cannot be opened on"):
        check([Wanted("HTTP", "192.0.2.1", 18080)])
