"""Writes the generated sections of the docs: configuration keys, options, hooks, commands, and what commands print.

A section stands between two marks, and everything between them is replaced:

    <!-- generated: table source -->
    <!-- end of generated -->

Run as ``python docs/generate.py``; with ``--check`` nothing is written, and the exit code is 1 where a page is stale.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.limits import size_text

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "tests" / "third_party" / "acme_orders"
SECTION = re.compile(r"(<!-- generated: (?P<name>[^\n]*?) -->\n)(?P<text>.*?)(<!-- end of generated -->)", re.DOTALL)

MODELS = {
    "pipeline": "pipeline.config.models:PipelineTable",
    "on-unhealthy": "pipeline.config.alarm:AlarmTable",
    "broker": "pipeline.config.models:BrokerTable",
    "database": "pipeline.config.models:DatabaseTable",
    "jobs": "pipeline.config.models:JobsTable",
    "queue": "pipeline.config.models:QueueTable",
    "queue-retry": "pipeline.config.models:QueueRetry",
    "resource": "pipeline.config.models:ResourceTable",
    "source": "pipeline.config.models:SourceTable",
    "limits": "pipeline.config.limits:Limits",
    "route": "pipeline.config.models:RouteTable",
    "stage": "pipeline.config.models:StageTable",
    "policy": "pipeline.config.models:Policy",
    "retry": "pipeline.config.models:RetryPolicy",
    "rate-limit": "pipeline.config.policies:RateLimit",
    "concurrency": "pipeline.config.policies:ConcurrencyPolicy",
    "circuit": "pipeline.config.policies:CircuitPolicy",
    "coalesce": "pipeline.config.policies:CoalescePolicy",
    "temporal": "pipeline_plugins.temporal.options:TemporalOptions",
    "temporal-tls": "pipeline_plugins.temporal.options:TlsOptions",
    "workflow-control": "pipeline_handlers.workflow_control:WorkflowControlOptions",
    "workflow-control-verify": "pipeline_handlers.workflow_control.options:VerifyOptions",
    "workflow-control-batch": "pipeline_handlers.workflow_control.options:BatchOptions",
    "audit": "pipeline_handlers.audit.options:AuditOptions",
    "audit-row": "pipeline_handlers.audit.options:RowOptions",
    "log": "pipeline_handlers.log:LogOptions",
    "governance": "pipeline_handlers.governance.options:GovernanceOptions",
    "governance-workflow": "pipeline_handlers.governance.workflows:WorkflowOptions",
    "governance-action": "pipeline_handlers.governance.workflows:ActionOptions",
    "governance-approval": "pipeline_handlers.governance.actions.approval:ApprovalOptions",
    "governance-notice": "pipeline_handlers.governance.actions.notice:Notice",
    "governance-change-status": "pipeline_handlers.governance.actions.change_status:ChangeStatusOptions",
    "governance-notify": "pipeline_handlers.governance.actions.notify:NotifyOptions",
    "governance-create-task": "pipeline_handlers.governance.actions.create_task:CreateTaskOptions",
    "governance-assign": "pipeline_handlers.governance.actions.assign:AssignOptions",
    "governance-smtp": "pipeline_handlers.governance.actions.smtp:SmtpOptions",
    "governance-webhook": "pipeline_handlers.governance.actions.webhook:WebhookOptions",
}
"""The models whose keys have a table in the docs, by the name that the section gives."""

HIDDEN = {("resource", "options"), ("stage", "options")}
"""Fields that are no keys of the file: where the handler's or resource's own keys are gathered."""

_ENVIRONMENT = {"COLUMNS": "80", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
"""Of the commands whose output is shown."""

_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def table(name: str) -> str:
    """The keys of one table: name, type, default and meaning."""
    module, _, model_name = MODELS[name].partition(":")
    model: type[BaseModel] = getattr(import_module(module), model_name)
    schema = model.model_json_schema(by_alias=True)
    required = schema.get("required", ())
    rows = [("key", "type", "default", "meaning"), ("---",) * 4]
    for python_name, field in model.model_fields.items():
        key = field.alias or python_name
        if (name, key) in HIDDEN:
            continue
        described = schema["properties"][key]
        default = "*required*" if key in required else _default(field, described)
        default = {("resource", "use"): "the table's name", ("stage", "use"): "the table's name"}.get(
            (name, key), default
        )
        rows.append((f"`{key}`", _type(described), default, field.description or ""))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def hooks(_: str) -> str:
    """Every hook: what it returns, and what it is for."""
    from pipeline import hookspecs

    rows = ["| hook | returns | for |", "| --- | --- | --- |"]
    for name, hook in vars(hookspecs).items():
        if name.startswith("pipeline_"):
            returned = str(inspect.signature(hook).return_annotation)
            rows.append(f"| `{name}()` | `{returned}` | {_plain(inspect.getdoc(hook) or '')} |")
    return "\n".join(rows)


def methods(place: str) -> str:
    """The public methods of a contract's class, and what each promises."""
    module, _, name = place.partition(":")
    contract = getattr(import_module(module), name)
    rows = ["| method | what it does |", "| --- | --- |"]
    for method, function in vars(contract).items():
        if method.startswith("_") or not inspect.isroutine(getattr(contract, method)):
            continue
        summary = (inspect.getdoc(getattr(contract, method)) or "").partition("\n\n")[0]
        must = " *required*" if getattr(function, "__isabstractmethod__", False) else ""
        rows.append(f"| `{method}`{must} | {_plain(summary)} |")
    return "\n".join(rows)


def command(name: str) -> str:
    """What ``pipeline NAME --help`` prints."""
    from typer.testing import CliRunner

    from pipeline.cli.app import build

    shown = f"pipeline {name} --help".replace("  ", " ")  # in this process: it prints, and does nothing
    helped = CliRunner().invoke(
        build(), shlex.split(shown)[1:], prog_name="pipeline", env=_ENVIRONMENT, terminal_width=78
    )
    return _block(shown, helped.exit_code, helped.output)


def output(arguments: str) -> str:
    """What ``pipeline ARGUMENTS`` prints beside the sample `pipeline.toml`, in an empty folder."""
    return _run(shlex.split(arguments), shown=f"pipeline {arguments}")


def environment(name: str) -> str:
    """The variables that supply a resource's options."""
    from pipeline.plugins import load_plugins

    resource = load_plugins().require_sound().catalog().resources[name]
    rows = ["| option | variable |", "| --- | --- |"]
    return "\n".join([*rows, *(f"| `{option}` | `{variable}` |" for option, variable in resource.environment.items())])


def file(place: str) -> str:
    """A file of the example plugin, whole, named as it is called there."""
    path = EXAMPLE / place
    language = {".py": "python", ".toml": "toml"}[path.suffix]
    return f"```{language} {place}\n{path.read_text().rstrip()}\n```"


MAKERS: Mapping[str, Callable[[str], str]] = {
    "table": table, "hooks": hooks, "methods": methods, "command": command, "output": output,
    "environment": environment, "file": file,
}  # fmt: skip
"""The first word of a section's name, and what makes its text of the rest."""


def refreshed(page: str) -> str:
    """The page with every generated section made anew."""

    def section(found: re.Match[str]) -> str:
        kind, _, rest = found["name"].partition(" ")
        return f"{found[1]}\n{MAKERS[kind](rest)}\n\n{found[4]}"

    return SECTION.sub(section, page)


def pages() -> Iterator[Path]:
    """Every page that may hold generated sections."""
    yield from sorted(DOCS.glob("*.md"))


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is stale")
    check = parser.parse_args().check
    stale = 0
    for page in pages():
        text = page.read_text()
        fresh = refreshed(text)
        if fresh == text:
            continue
        stale += 1
        if not check:
            page.write_text(fresh)
        sys.stdout.write(f"{page.relative_to(ROOT)} {'is stale: run docs/generate.py' if check else 'was written'}\n")
    return 1 if check and stale else 0


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON Schema in the words of TOML."""
    if "anyOf" in schema:
        words = [_type(option) for option in schema["anyOf"] if option.get("type") != "null"]
        if "duration" in words or "rate" in words:
            words = [word for word in words if word != "number"]
        if "size" in words:
            words = [word for word in words if not word.startswith("whole number")]
        return " or ".join(dict.fromkeys(word for word in words if word))
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if values:
        return ", ".join(f"`{_literal(value)}`" for value in values)
    if "type" not in schema:
        return "table" if "$ref" in schema else "anything"
    return _NAMES[schema["type"]](schema)


def _array_type(schema: Mapping[str, Any]) -> str:
    return "list" if "anyOf" in schema["items"] else f"list of {_type(schema['items'])}s"


def _table_type(schema: Mapping[str, Any]) -> str:
    values = schema.get("additionalProperties")
    return f"table of {_type(values)}s" if isinstance(values, dict) and values else "table"


def _text_type(schema: Mapping[str, Any]) -> str:
    if "ms|s|m|h|d" in schema.get("pattern", ""):
        return "duration"
    if "/(s|m|h|d)" in schema.get("pattern", ""):
        return "rate"
    if "|KiB|" in schema.get("pattern", ""):
        return "size"
    return {"cel": "expression", "template": "template", "date-time": "time", "path": "path", "password": "secret"}.get(
        schema.get("format", ""), "text"
    )


def _range(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return ""
    if low is None:
        return f", more than {schema['exclusiveMinimum']:,}, at most {high:,}"
    if high is None:
        return f", {low:,} or more"
    return f", {low:,} to {high:,}"


_NAMES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "string": _text_type,
    "array": _array_type,
    "object": _table_type,
    "integer": lambda schema: f"whole number{_range(schema)}",
    "number": lambda schema: f"number{_range(schema)}",
    "boolean": lambda _: "true or false",
}


def _default(field: FieldInfo, schema: Mapping[str, Any]) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, int | float) and not isinstance(value, bool) and "duration" in _type(schema):
        value = _duration(value)
    elif _type(schema) == "size":
        value = size_text(value)
    if value in (None, "", (), {}) or isinstance(value, BaseModel):
        return ""
    values = value if isinstance(value, tuple) else (value,)
    return ", ".join(f"`{_literal(item)}`" for item in values)


def _literal(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_literal(name)} = {_literal(item)}' for name, item in value.items())} }}"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def _duration(seconds: float) -> str:
    """As people write it: ``24h`` rather than ``1d``."""
    unit, size = next((unit, size) for unit, size in _UNITS if seconds >= size and seconds % size == 0)
    number = seconds / size
    return f"{number * 24:g}h" if (unit, number) == ("d", 1) else f"{number:g}{unit}"


def _plain(text: str) -> str:
    """A docstring as Markdown, in one line."""
    return " ".join(text.replace("``", "`").split())


def _run(arguments: list[str], *, shown: str) -> str:
    """A command and what it prints, as a console block; its paths are those of a reader who has activated the venv."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / "pipeline.toml", folder)
        ran = subprocess.run(  # noqa: S603 - our own program
            [Path(sys.executable).with_name("pipeline"), *arguments],
            cwd=folder,
            env={"PATH": os.environ.get("PATH", ""), **_ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    return _block(shown, ran.returncode, ran.stdout)


def _block(shown: str, code: int, printed: str) -> str:
    """What a command printed, below it."""
    if code not in (0, 1):
        raise SystemExit(f"{shown}: exit code {code}\n{printed}")
    text = "\n".join(line.rstrip() for line in printed.rstrip().splitlines())
    return f"```console\n$ {shown}\n{text}\n```"


if __name__ == "__main__":
    sys.exit(main())
