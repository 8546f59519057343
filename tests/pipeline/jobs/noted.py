"""A queue of hints that notes what is put into it, and can be away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pipeline.errors import Unavailable
from pipeline.jobs.hints import Backlog, Consumer


class NotedHints:
    def __init__(self, *, local: bool = False) -> None:
        self.is_local = local
        self.is_up = True
        self.on_up: Callable[[], None] | None = None
        self.put_in: list[tuple[str, list[str]]] = []
        self.backlog = Backlog(0, None)
        self.loses_puts = False

    @property
    def ids(self) -> list[str]:
        return [job for _, ids in self.put_in for job in ids]

    async def put(self, queue: str, batches: Sequence[Sequence[str]]) -> None:
        if self.loses_puts:
            raise Unavailable("queue", "away")
        self.put_in += [(queue, list(ids)) for ids in batches]

    async def backlogs(self, queues: Collection[str]) -> dict[str, Backlog]:
        return dict.fromkeys(queues, self.backlog)

    async def names(self) -> set[str]:
        return {queue for queue, _ in self.put_in}

    def serve(self, queue: str, consumer: Consumer, concurrency: int) -> None: ...

    async def probe(self) -> None: ...

    async def stop(self) -> None: ...

    async def close(self) -> None: ...
