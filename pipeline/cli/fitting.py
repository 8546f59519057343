"""Which columns of a table a terminal has room for, and how wide each is: words of short columns stay whole."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

__all__ = ["GAP", "fit"]

GAP: Final = 2
"""Characters between two columns."""
_READABLE: Final = 24
"""Characters that a folded column gets at least, before another one is left out for it."""


def fit(natural: Sequence[int], width: int, *, fold: Collection[int], drop: Sequence[int] = ()) -> dict[int, int]:
    """The columns that are shown, in their order, and how wide each is.

    Args:
        natural: How wide each column's longest cell is.
        width: What there is room for.
        fold: Columns whose texts may go over several lines.
        drop: Columns that may be left out, the least important first; as many stay as there is room for.
    """
    least = [min(size, _READABLE) if index in fold else size for index, size in enumerate(natural)]
    shown = [index for index in range(len(natural)) if index not in drop]
    for index in reversed(drop):
        if _total([least[each] for each in (*shown, index)]) <= width:
            shown.append(index)
    shown.sort()
    widths = {index: natural[index] for index in shown}
    folded = [index for index in shown if index in fold]
    rigid = [widths[index] for index in shown if index not in fold]
    if _total([least[index] for index in shown]) > width:  # nothing more can be left out: whatever is widest folds
        folded, rigid = shown, []
    room = width - GAP * (len(shown) - 1) - sum(rigid)
    return widths | _shared(room, {index: widths[index] for index in folded})


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _shared(room: int, wanted: dict[int, int]) -> dict[int, int]:
    """Room for each: what is narrow gets all that it wants, and the others the rest in equal parts."""
    given: dict[int, int] = {}
    for number, (index, size) in enumerate(sorted(wanted.items(), key=lambda item: item[1])):
        given[index] = max(1, min(size, room // (len(wanted) - number)))
        room -= given[index]
    return given
