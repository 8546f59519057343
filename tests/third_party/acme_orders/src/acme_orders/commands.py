"""``pipeline acme …``."""

import json
from pathlib import Path

import typer

app = typer.Typer(help="Look at what Acme's plugin uses.", no_args_is_help=True)


@app.callback()
def acme() -> None:
    """Look at what Acme's plugin uses."""


@app.command()
def rates(file: Path) -> None:
    """Print the exchange rates in a file."""
    for currency, euros in json.loads(file.read_text()).items():
        typer.echo(f"1 {currency} = {euros} EUR")
