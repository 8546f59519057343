"""The guard of outgoing calls: which addresses a workflow may make us call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator

__all__ = ["AddressRules", "Allowed"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL: Final = {
    "0.0.0.0/8": "an unspecified",
    "10.0.0.0/8": "a private",
    "100.64.0.0/10": "a carrier's private",
    "127.0.0.0/8": "a loopback",
    "168.63.129.16/32": "a cloud's internal",
    "169.254.0.0/16": "a link-local",
    "172.16.0.0/12": "a private",
    "192.0.0.0/24": "a reserved",
    "192.0.2.0/24": "a reserved",
    "192.88.99.0/24": "a reserved",
    "192.168.0.0/16": "a private",
    "198.18.0.0/15": "a reserved",
    "198.51.100.0/24": "a reserved",
    "203.0.113.0/24": "a reserved",
    "224.0.0.0/4": "a multicast",
    "240.0.0.0/4": "a reserved",
    "::/128": "an unspecified",
    "::1/128": "a loopback",
    "64:ff9b:1::/48": "a private",
    "2001::/23": "a reserved",
    "2001:db8::/32": "a reserved",
    "2002::/16": "a tunnel's",
    "3fff::/20": "a reserved",
    "fc00::/7": "a private",
    "fe80::/10": "a link-local",
    "fec0::/10": "a private",
    "ff00::/8": "a multicast",
}
"""IANA's special-purpose addresses, and the one public address that a cloud (Azure) serves its machines' secrets at;
the other clouds' are link-local (169.254.169.254), private or reserved."""

_NETWORKS: Final = tuple((ip_network(network), kind) for network, kind in _SPECIAL.items())
_GLOBAL_UNICAST: Final = ip_network("2000::/3")
_NAT64: Final = ip_network("64:ff9b::/96")
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")


class AddressRules:
    """Public addresses may be called, and what is allowed by name: a host, ``*.`` and a domain, an address, a network.

    A host that is allowed may have any address. Of a host that is not, every address must be public or in a network
    that is allowed: one that is not forbids them all, since an answer that mixes both is what an attacker sends.
    """

    def __init__(self, allow: Sequence[str] = ()) -> None:
        """Raises ValueError where one of them is no such thing."""
        self.networks: list[Network] = []
        self.hosts: set[str] = set()
        self.domains: list[str] = []
        for text in allow:
            if (network := _network(text)) is not None:
                self.networks.append(network)
            elif text.startswith("*."):
                self.domains.append(_host(text)[1:])
            else:
                self.hosts.add(_host(text))

    def refusal(self, host: str, addresses: Sequence[str]) -> str:
        """Why the host with these addresses must not be called; empty where it may."""
        name = host.lower().rstrip(".")
        if name in self.hosts or any(name.endswith(domain) for domain in self.domains):
            return ""
        for text in addresses:
            address = _embedded(ip_address(text))
            if kind := self._refused(address):
                shown = text if text == host else f"{host} ({text})"
                return f"{shown} is {kind}: list it in [stage.governance.webhook] allow if it may be called"
        return "" if addresses else f"{host} has no address"

    def _refused(self, address: Address) -> str:
        if any(address in network for network in self.networks):
            return ""
        for network, kind in _NETWORKS:
            if address in network:
                return f"{kind} address"
        if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
            return "a reserved address"
        return ""


def _embedded(address: Address) -> Address:
    """The IPv4 address that a mapped or a translated (NAT64) one reaches; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address


def _network(text: str) -> Network | None:
    """The network or single address; None for what does not look like one."""
    try:
        return ip_network(text.strip("[]"))
    except ValueError as error:
        if "/" in text and "://" not in text:
            raise ValueError(f"{text!r} is no network: {error}") from None
        return None


def _host(text: str) -> str:
    host = text.lower().rstrip(".")
    if not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} is no host, address or network: write it without scheme, port and path")
    return host


def _checked(texts: tuple[str, ...]) -> tuple[str, ...]:
    AddressRules(texts)
    return texts


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Allowed = Annotated[
    tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...]), AfterValidator(_checked)
]
"""A pydantic field type: what `AddressRules` takes."""
