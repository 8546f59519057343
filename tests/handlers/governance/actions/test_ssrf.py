"""The guard of outgoing calls: which URLs and addresses it lets through."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipeline import Reject
from pipeline_handlers.governance.actions.ssrf import AddressRules
from pipeline_handlers.governance.actions.targets import target_of
from pipeline_handlers.governance.actions.webhook import WebhookOptions

PUBLIC = ["93.184.216.34", "8.8.8.8", "172.15.255.255", "172.32.0.0", "100.63.255.255", "2606:2800:220:1::1",
          "64:ff9b::808:808", "::ffff:8.8.8.8"]  # fmt: skip
FORBIDDEN = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "0.0.0.0": "unspecified",
    "10.1.2.3": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "169.254.169.254": "link-local",
    "100.64.0.1": "carrier",
    "100.100.100.200": "carrier",
    "168.63.129.16": "cloud",
    "192.0.0.192": "reserved",
    "192.0.2.1": "reserved",
    "198.18.0.1": "reserved",
    "198.51.100.1": "reserved",
    "203.0.113.1": "reserved",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    "::1": "loopback",
    "::": "unspecified",
    "::127.0.0.1": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:169.254.169.254": "link-local",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::a9fe:a9fe": "link-local",
    "64:ff9b:1::808:808": "private",
    "2002:7f00:1::": "tunnel",
    "2002:808:808::": "tunnel",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "reserved",
    "2001:db8::1": "reserved",
    "3fff::1": "reserved",
    "100::1": "reserved",
    "4000::1": "reserved",
    "fd00:ec2::254": "private",
    "fe80::1": "link-local",
    "fe80::1%2": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_called(address: str) -> None:
    assert AddressRules().refusal("example.org", [address]) == ""


@pytest.mark.parametrize(("address", "kind"), FORBIDDEN.items())
def test_no_other_address_may_be_called(address: str, kind: str) -> None:
    refusal = AddressRules().refusal("example.org", [address])
    assert refusal.startswith(f"example.org ({address}) is ")
    assert kind in refusal


def test_one_forbidden_address_among_public_ones_is_enough() -> None:
    assert "10.0.0.1" in AddressRules().refusal("example.org", ["8.8.8.8", "10.0.0.1", "9.9.9.9"])
    assert AddressRules().refusal("example.org", []) == "example.org has no address"


@pytest.mark.parametrize(
    ("allow", "host", "address"),
    [
        ("hooks.internal", "hooks.internal", "10.0.0.1"),
        ("Hooks.Internal.", "hooks.internal.", "10.0.0.1"),
        ("*.internal", "a.b.internal", "10.0.0.1"),
        ("10.0.0.0/8", "whatever", "10.200.0.1"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.0/8", "mapped", "::ffff:127.0.0.1"),
        ("::1", "localhost", "::1"),
        ("[::1]", "localhost", "::1"),
        ("fd00::/8", "six", "fd12::1"),
    ],
)
def test_what_is_allowed_may_be_called(allow: str, host: str, address: str) -> None:
    assert AddressRules([allow]).refusal(host, [address]) == ""


@pytest.mark.parametrize(
    ("allow", "host", "address"),
    [
        ("hooks.internal", "evil.hooks.internal", "10.0.0.1"),
        ("*.internal", "internal", "10.0.0.1"),
        ("*.internal", "evilinternal", "10.0.0.1"),
        ("hooks.internal", "hooks.internal.evil.org", "10.0.0.1"),
        ("10.0.0.0/8", "x", "11.0.0.1, 127.0.0.1"),
        ("10.0.0.0/24", "x", "10.0.1.1"),
    ],
)
def test_what_is_allowed_allows_nothing_else(allow: str, host: str, address: str) -> None:
    assert AddressRules([allow]).refusal(host, address.split(", ")) != ""


@pytest.mark.parametrize(
    ("allow", "words"),
    [
        ("http://hooks.internal", "without scheme, port and path"),
        ("hooks.internal:8080", "without scheme, port and path"),
        ("hooks.internal/path", "is no network"),
        ("10.1.2.3/8", "has host bits set"),
        ("", "is no host"),
        ("*", "is no host"),
        ("a..b", "is no host"),
    ],
)
def test_what_can_not_be_allowed_is_told(allow: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        WebhookOptions.model_validate({"allow": [allow]})


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://example.org", ("https", "example.org", 443, "/", "example.org")),
        ("HTTPS://Example.ORG:8443/a/b?c=d#e", ("https", "example.org", 8443, "/a/b?c=d", "example.org:8443")),
        ("https://example.org:443/ä?ö=ü", ("https", "example.org", 443, "/%C3%A4?%C3%B6=%C3%BC", "example.org")),
        ("https://example.org/a%20b", ("https", "example.org", 443, "/a%20b", "example.org")),
        ("https://bücher.example/", ("https", "xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example")),
        ("https://[2606:2800::1]:444/", ("https", "2606:2800::1", 444, "/", "[2606:2800::1]:444")),
        ("https://2130706433/", ("https", "2130706433", 443, "/", "2130706433")),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: tuple[str, str, int, str, str]) -> None:
    target = target_of(url, allow_http=False)
    assert (target.scheme, target.host, target.port, target.path, target.authority) == parts


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/", "ftp://example.org/", "file:///etc/passwd", "gopher://example.org", "javascript:1",
        "//example.org", "example.org", "", "https://", "https:///path", "https://user@example.org/",
        "https://user:secret@example.org/", "https://example.org@127.0.0.1/", "https://@example.org/",
        "https://exa mple.org/", "https://example.org/a b", "https://example.org\\@127.0.0.1/",
        "https://example.org/\r\nHost: x", "https://example.org/\0", "https://example.org:0/",
        "https://example.org:99999/", "https://example.org:port/", "https://[::1/", "https://[zz::1]/",
        "https://exa%6dple.org/", "https://a..b/", "https://" + "a" * 64 + ".org/", "https://x.org/" + "a" * 2_000,
    ],
)  # fmt: skip
def test_what_is_no_plain_https_url_is_refused(url: str) -> None:
    with pytest.raises(Reject) as refused:
        target_of(url, allow_http=False)
    assert refused.value.kind == "invalid_url"
    assert "secret" not in str(refused.value)


def test_http_is_called_where_that_is_allowed() -> None:
    target = target_of("http://example.org/x", allow_http=True)
    assert (target.scheme, target.port, target.authority) == ("http", 80, "example.org")
    assert target_of("http://example.org:443/", allow_http=True).authority == "example.org:443"
