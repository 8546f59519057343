"""Opening a socket to a node, plain or with TLS, and saying what is wrong where that fails."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from pipeline.connectors import BrokerRefused
from pipeline_plugins.rabbitmq_streams.refusals import lost
from pipeline_plugins.rabbitmq_streams.url import Address

__all__ = ["dial"]

CONNECT_SECONDS: Final = 5.0


async def dial(protocol: asyncio.Protocol, address: Address, host: str, port: int) -> None:
    """Connect the protocol to this node.

    Raises:
        Unavailable: Nobody answers there.
        BrokerRefused: TLS does not come about, and trying again would not help.
    """
    context = address.tls_context()
    name = (address.server_name or host) if context is not None else None
    loop = asyncio.get_running_loop()
    where = "" if (host, port) == (address.host, address.port) else f" to {host}:{port}, which it advertises"
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await loop.create_connection(lambda: protocol, host, port, ssl=context, server_hostname=name)
    except TimeoutError:
        raise lost(address, f"no connection{where} in {CONNECT_SECONDS:g} seconds") from None
    except ssl.SSLCertVerificationError as error:
        raise BrokerRefused(
            f"the certificate of {host}:{port} is not accepted ({error.verify_message}): name its authority with "
            "ca=FILE in the broker's URL, or the name that it was made for with server_name=NAME"
        ) from None
    except OSError as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError) or (context is not None and isinstance(error, ConnectionResetError)):
            reason += "; is this the port of its TLS listener (5551)?"
        raise lost(address, f"no connection{where}: {reason}") from None
