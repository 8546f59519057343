"""Replay: a range of a source's stream runs again through its routes, by a consumer group of its own."""

from __future__ import annotations

from pipeline.replay.dry_run import DryRunReport, dry_run
from pipeline.replay.planning import Plan, plan_replay
from pipeline.replay.positions import Position, parse_position
from pipeline.replay.replay import Replay
from pipeline.replay.request import Choice, ReplayRequest, choose
from pipeline.replay.summary import ReplayProgress, ReplaySummary

__all__ = [
    "Choice",
    "DryRunReport",
    "Plan",
    "Position",
    "Replay",
    "ReplayProgress",
    "ReplayRequest",
    "ReplaySummary",
    "choose",
    "dry_run",
    "parse_position",
    "plan_replay",
]
