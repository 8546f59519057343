"""Jobs: work that commits with an event and is run by a worker; SQL holds it, a queue only hints at it."""
