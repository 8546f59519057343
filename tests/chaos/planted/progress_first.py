"""A runner that commits its progress before the effects: whatever it has taken in counts as done."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.cli import main
from pipeline.dispatch.flight import Flight
from pipeline.dispatch.window import Window
from pipeline.ledger.units import Progress

_progress = Window.progress


def progress(self: Window, flights: Collection[Flight] = ()) -> Progress:
    """The progress up to the newest message that was admitted."""
    _progress(self, flights)
    return Progress(self.last, self.last_timestamp, ())


if __name__ == "__main__":
    Window.progress = progress  # type: ignore[method-assign]
    main()
