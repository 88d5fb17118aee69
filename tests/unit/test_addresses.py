"""Whose address a request comes from: only what trusted proxies have appended is believed."""

from __future__ import annotations

import pytest

from portal.addresses import networks, true_address

PROXIES = networks("10.0.0.0/8, ::1, unix")


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # it is no proxy of ours, whatever it says
        ("10.0.0.2", "", "10.0.0.2"),
        ("10.0.0.2", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.2", "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the first was invented by the client
        ("10.0.0.2", "203.0.113.7, 10.1.1.1", "203.0.113.7"),  # two proxies
        ("10.0.0.2", "10.9.9.9, 10.1.1.1", "10.9.9.9"),
        ("10.0.0.2", "203.0.113.7, <script>", "10.0.0.2"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.2", "203.0.113.7", "203.0.113.7"),
        ("", "203.0.113.7", "203.0.113.7"),
        ("nonsense", "203.0.113.7", "nonsense"),
    ],
)
def test_the_address_is_the_last_that_no_trusted_proxy_has(peer: str, forwarded: str, found: str) -> None:
    assert true_address(peer, forwarded, PROXIES) == found


def test_without_proxies_nothing_is_believed() -> None:
    assert true_address("10.0.0.2", "203.0.113.7", ()) == "10.0.0.2"
    assert true_address("", "203.0.113.7", ()) == ""


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="proxy"):
        networks("proxy.example")
