"""`notify` in the app, and the people that templates name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import Reject
from pipeline_handlers.governance.actions import ACTIONS, notify
from pipeline_handlers.governance.actions.notify import NotifyAction, NotifyOptions
from pipeline_handlers.governance.contract import EntityView
from pipeline_handlers.governance.options import GovernanceOptions
from tests.handlers.governance.actions.books import Books
from tests.handlers.governance.actions.steps import EXECUTION, NOW, action, step, values


async def test_a_notification_in_the_app_is_a_row_for_each_recipient_once(books: Books) -> None:
    notifier = action("notify", to=["ann", "owner", "ann"], subject="News", message="{{ data.entity_id }} is published")
    assert not notifier.is_external()
    for _ in range(2):
        made = step()
        assert await notifier.run(made) == {"channel": "in_app", "recipients": ["ann", "bob"]}
        await books.write(made)
    rows = await books.rows("SELECT * FROM notifications ORDER BY id")
    assert [(row["key"], row["recipient"]) for row in rows] == [
        (f"{EXECUTION}/1/0", "ann"), (f"{EXECUTION}/1/1", "bob"),
    ]  # fmt: skip
    wanted = {
        "execution_id": EXECUTION, "entity_type": "policy", "entity_id": "p-1", "channel": "in_app", "subject": "News",
        "message": "p-1 is published", "status": "unread",
    }  # fmt: skip
    assert {name: rows[0][name] for name in wanted} == wanted
    assert values(made)[0]["created_at"] == NOW


@pytest.mark.parametrize(
    ("known", "new", "recipients"),
    [
        ({"owner": "bob"}, {"owner": "eve"}, ["bob"]),
        ({}, {"owner": "eve, kim"}, ["eve", "kim"]),
        ({"owner": 7}, {"owner": " eve "}, ["eve"]),
    ],
)
async def test_the_owner_is_the_records_else_the_events(known: Any, new: Any, recipients: list[str]) -> None:
    made = step(entity=EntityView("policy", "p-1", "draft", 1, known), data=new)
    result = await action("notify", to="owner", message="x").run(made)
    assert isinstance(result, dict)
    assert result["recipients"] == recipients


@pytest.mark.parametrize("to", ["owner", "{{ data.new.nobody }}", " , "])
async def test_a_notification_for_nobody_is_refused(to: str) -> None:
    with pytest.raises(Reject, match="names nobody") as refused:
        await action("notify", to=to, message="x").run(step(entity=EntityView("policy", "p-1", "draft", 1, {})))
    assert refused.value.kind == "nobody"


async def test_a_recipient_who_is_not_named_is_left_out_where_there_is_another() -> None:
    made = step()
    await action("notify", to=["{{ data.new.nobody }}", "ann"], message="x").run(made)
    assert [row["recipient"] for row in values(made)] == ["ann"]


async def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(Reject, match="gives a name of 301 characters"):
        await action("notify", to="{{ data.new.x }}", message="x").run(step(data={"x": "y" * 301}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"to": "a"}, "message"),
        ({"message": "x"}, "to"),
        ({"to": [], "message": "x"}, "at least 1 item"),
        ({"to": "a", "message": "x", "channel": "pigeon"}, "'webhook'"),
        ({"to": "a", "message": "{{ 1 + 'a' }}"}, "does not take"),
        ({"to": "a", "message": "x", "secret": "y"}, "Extra inputs"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        action("notify", **options)


@pytest.mark.parametrize(("channel", "library"), [("email", "aiosmtplib"), ("webhook", "httpcore")])
def test_a_library_that_is_missing_is_told_when_the_file_is_read(
    channel: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "find_spec", lambda name: None)
    with pytest.raises(ValidationError, match=rf"needs the package {library}: pip install"):
        action("notify", channel=channel, to="a", message="x")
    action("notify", to="a", message="x")


def test_every_option_of_every_action_says_what_it_means() -> None:
    assert [kind.name for kind in ACTIONS] == ["approval", "change_status", "notify", "create_task", "assign"]
    for kind in ACTIONS:
        for name, field in kind.Options.model_json_schema(by_alias=True)["properties"].items():
            assert field.get("description"), f"{kind.name}.{name}"


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("http://hooks.example.org/x", "http:// is not allowed"),
        ("https://10.0.0.1/x", "10.0.0.1 is a private"),
        ("https://[::1]/x", "is a loopback"),
        ("ftp://hooks.example.org", "it must begin with https://"),
        ("https://hooks.example.org/x", ""),
        ("{{ data.url }}", ""),
    ],
)
def test_a_webhook_whose_url_is_written_out_is_checked_before_it_runs(to: str, reason: str) -> None:
    action = NotifyAction(NotifyOptions.model_validate({"channel": "webhook", "to": to, "message": "hello"}))
    problem = action.problem(GovernanceOptions.model_validate({}, context={"extensions": {}}))
    assert reason in problem
    assert bool(problem) == bool(reason)


@pytest.mark.parametrize("to", ["", " ", [""]])
def test_a_recipient_that_is_empty_is_refused(to: Any) -> None:
    with pytest.raises(ValidationError, match="it must not be empty"):
        NotifyOptions.model_validate({"to": to, "message": "hello"})
