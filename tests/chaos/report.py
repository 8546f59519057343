"""The report: what was tried, the figures, and the verdict, as tables for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.faults import FaultKind
from tests.chaos.verdict import Finding

__all__ = ["Report"]

_NAMED = 10
"""So many wrong ones are named for each question."""


@dataclass(slots=True)
class Report:
    """One run.

    Attributes:
        seed: What it can be repeated with.
        figures: Name → value, with its unit.
        faults: The log of faults, a line each.
        happened: How often each kind of fault happened.
        findings: The verdict.
        problems: What else went wrong, as where a runner ended by itself.
        not_tried: What could not be tried here, and why.
    """

    seed: int
    figures: dict[str, str] = field(default_factory=dict)
    faults: Sequence[str] = ()
    happened: Mapping[FaultKind, int] = field(default_factory=Counter)
    findings: Sequence[Finding] = ()
    problems: Sequence[str] = ()
    not_tried: str = ""

    @property
    def wrong(self) -> list[str]:
        """All that contradicts a promise; empty for a run that went well."""
        return [f"{one.question}: {what}" for one in self.findings for what in one.wrong] + list(self.problems)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}", ""]
        if self.faults:
            counts = ", ".join(f"{kind} {self.happened.get(kind, 0)}" for kind in FaultKind)
            lines += [f"{len(self.faults)} faults: {counts}", *(f"  {line}" for line in self.faults), ""]
        if self.not_tried:
            lines += [f"NOT TRIED: {self.not_tried}", ""]
        lines += [f"  {name:<44} {value}" for name, value in self.figures.items()] + [""]
        lines += [f"  {one.question:<44} {len(one.wrong):>7} of {one.of}" for one in self.findings]
        for one in self.findings:
            lines += [f"\n{one.question.upper()}"] * bool(one.wrong) + [f"  {what}" for what in one.wrong[:_NAMED]]
            if len(one.wrong) > _NAMED:
                lines.append(f"  … and {len(one.wrong) - _NAMED} more")
        lines += [f"\nPROBLEM: {what}" for what in self.problems]
        lines += ["", "nothing was lost, nothing was done twice" if not self.wrong else "the promises were BROKEN"]
        return "\n".join(lines)
