"""What the workers of a frontend share."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from paldia_frontend.supervisor.workplace import Workplace

from paldia.core.errors import UnavailableError


def fail_within(folders: list[Path]) -> None:
    with Workplace.opened("127.0.0.1:0", insecure=False) as place:
        folders.append(place.folder)
        raise OSError("disk full")


def test_what_goes_wrong_later_isn_t_taken_for_a_port_that_is_taken():
    folders: list[Path] = []
    with pytest.raises(OSError, match="disk full"):
        fail_within(folders)
    assert not folders[0].exists()


def test_a_port_is_held_for_those_who_share_it_and_nobody_else():
    with Workplace.opened("127.0.0.1:0", insecure=False) as place, socket.socket() as other:
        port = int(place.address.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with (
            pytest.raises(UnavailableError, match=str(port)),
            Workplace.opened(place.address, insecure=False),
        ):
            pass
