"""Acme's plugin: what it registers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from acme_orders import commands
from acme_orders.handler import OrdersHandler
from acme_orders.rates import Rates
from acme_orders.tables import Order
from pipeline import Handler, Resource, hookimpl
from pipeline.ledger.migrations import Branch


@hookimpl
def pipeline_handlers() -> Sequence[type[Handler[Any]]]:
    return [OrdersHandler]


@hookimpl
def pipeline_resources() -> Sequence[type[Resource[Any]]]:
    return [Rates]


@hookimpl
def pipeline_tables() -> Sequence[Branch]:
    return [Branch("acme_orders", Path(__file__).parent / "versions", [Order])]


@hookimpl
def pipeline_commands() -> Sequence[tuple[str, typer.Typer]]:
    return [("acme", commands.app)]
