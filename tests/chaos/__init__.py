"""The chaos rig: a producer with a ledger, the whole system behind proxies, faults from a seed, and a verdict."""
