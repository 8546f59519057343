"""A stage's policies put together: which of them there are, and in which order an event passes them.

From the outside inwards:

1. ``when`` is decided before the event comes to the stage, since it needs no call.
2. ``retry`` judges what comes out of the call. It and the waits that it makes are the queue's: an event that waits
   keeps its lane, and holds no worker.
3. ``concurrency`` as a whole is the number of the queue's workers.
4. ``coalesce``: an event that another one replaces uses nothing of what follows.
5. ``circuit``: while it is open nothing waits for a turn; and it sees time-outs.
6. ``concurrency`` of each key: an event that waits for another one takes no turn of the rate.
7. ``rate_limit``: right before the call, so that what passes it is called.
8. ``timeout``: around the handler alone; no wait of the others counts.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from pipeline.config.policies import Policy
from pipeline.policies.circuit import Circuit
from pipeline.policies.coalesce import Coalesce, Successor
from pipeline.policies.concurrency import KeyConcurrency
from pipeline.policies.middleware import Call
from pipeline.policies.rate_limit import RateLimits
from pipeline.policies.timeout import Timeout

__all__ = ["compose", "has_more"]


def has_more(policy: Policy) -> bool:
    """Whether there is any policy beyond those that each stage has: time-out, retry, and concurrency as a whole."""
    return bool(policy.rate_limit or policy.per_key or policy.circuit or policy.coalesce)


def compose(
    call: Call,
    policy: Policy,
    timeout: Timeout,
    *,
    circuit: Circuit | None = None,
    successor: Successor | None = None,
    clock: Callable[[], float] = monotonic,
) -> Call:
    """The call behind the policies that are configured. Made once for each stage, in its event loop.

    Args:
        call: Calls the handler.
        policy: The effective policy.
        timeout: The time-out of the stage's tries.
        circuit: The circuit of what the stage depends on.
        successor: Finds later events of a key; without it nothing is coalesced.
        clock: The time in seconds.
    """
    if timeout.seconds is not None:
        call = timeout.wrap(call)
    if policy.rate_limit:
        call = RateLimits(policy.rate_limit, clock).wrap(call)
    if policy.per_key is not None:
        call = KeyConcurrency(policy.per_key, clock).wrap(call)
    if circuit is not None:
        call = circuit.wrap(call)
    if policy.coalesce is not None and successor is not None:
        call = Coalesce(policy.coalesce, successor, clock).wrap(call)
    return call
