"""Queues of jobs: which there are, what holds for each, where they are, and what is said of mistakes."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from pipeline.config.models import QueueTable
from pipeline.handlers import Handler
from tests.pipeline.config.fakes import CATALOG, SOUND, Folder, Options


class MailOptions(Options):
    queue: str = "mail"


class Mail(Handler[MailOptions]):
    name = "mail"
    Options = MailOptions

    @classmethod
    def queues(cls, options: MailOptions) -> tuple[str, ...]:
        return (options.queue, "audit")


class Odd(Handler):
    name = "odd"
    answer: Any = "letters"

    @classmethod
    def queues(cls, options: Any) -> Any:
        if isinstance(cls.answer, Exception):
            raise cls.answer
        return cls.answer


WITH_MAIL = replace(CATALOG, handlers={**CATALOG.handlers, "mail": Mail, "odd": Odd})
ASYNC = SOUND + "[stage.log]\nasync = true\n"
MAIL = SOUND.replace('"log"', '"mail"')


def test_without_jobs_there_are_no_queues_and_the_runner_would_run_jobs_itself(folder: Folder) -> None:
    loaded = folder.load(SOUND)
    assert (loaded.queues, loaded.use_queue, loaded.queues_of("log")) == ({}, False, ())


@pytest.mark.parametrize(
    ("value", "queue"),
    [("true", "stages"), ('"slow"', "slow"), ('"true"', "stages"), ("false", None), ('"false"', None)],
)
def test_async_is_true_or_a_queues_name(folder: Folder, value: str, queue: str | None) -> None:
    loaded = folder.load(SOUND + f"[stage.log]\nasync = {value}\n")
    table = loaded.config.stage["log"]
    assert (table.is_async, table.async_queue) == (queue is not None, queue)
    assert tuple(loaded.queues) == loaded.queues_of("log") == ((queue,) if queue else ())


def test_a_variable_may_name_the_queue_of_an_async_stage(folder: Folder) -> None:
    text = SOUND + '[stage.log]\nasync = "${WHERE}"\n'
    assert [folder.load(text, WHERE=where).queues_of("log") for where in ("true", "false", "own")] == [
        ("stages",), (), ("own",),
    ]  # fmt: skip


def test_queues_that_handlers_use_are_there_without_a_table(folder: Folder) -> None:
    text = MAIL + '[stage.mail]\nasync = "slow"\nqueue = "letters"\n'
    loaded = folder.load(text, WITH_MAIL)
    assert list(loaded.queues) == ["slow", "letters", "audit"]
    assert loaded.queues_of("mail") == ("slow", "letters", "audit")
    assert loaded.queues["letters"] == QueueTable()


def test_a_queue_inherits_what_it_leaves_out_also_within_retry(folder: Folder) -> None:
    common = "[jobs]\nconcurrency = 7\nkeep_failed = 3\nretry = { attempts = 4, backoff = '5s' }\n"
    own = "[jobs.queue.mail]\nkeep_failed = 9\nretry = { backoff = '1s' }\n"
    queues = folder.load(MAIL + common + own, WITH_MAIL).queues
    mail, audit = queues["mail"], queues["audit"]
    assert list(queues) == ["mail", "audit"]
    assert (mail.concurrency, mail.keep_failed, mail.keep_completed) == (7, 9, 100)
    assert (mail.retry.attempts, mail.retry.backoff, mail.retry.max_backoff) == (4, 1, 3600)
    assert (audit.concurrency, audit.keep_failed, audit.retry.attempts, audit.retry.backoff) == (7, 3, 4, 5)


def test_a_queue_may_say_the_default_against_what_jobs_says(folder: Folder) -> None:
    text = MAIL + "[jobs]\nconcurrency = 7\n[jobs.queue.mail]\nconcurrency = 100\n"
    assert folder.load(text, WITH_MAIL).queues["mail"].concurrency == 100


def test_a_queue_may_have_room_for_any_number_of_jobs(folder: Folder) -> None:
    queues = folder.load(ASYNC + "[jobs]\nmax_waiting = 5\n[jobs.queue.stages]\nmax_waiting = false\n").queues
    assert queues["stages"].max_waiting is False
    assert folder.load(ASYNC + "[jobs]\nmax_waiting = 5\n").queues["stages"].max_waiting == 5
    assert folder.load(ASYNC).queues["stages"].max_waiting == 100_000


@pytest.mark.parametrize("value", ["0", "true", "-1", "'many'"])
def test_room_for_no_jobs_is_refused(folder: Folder, value: str) -> None:
    line, path, _ = folder.only_problem(ASYNC + f"[jobs]\nmax_waiting = {value}\n")
    assert (line, path) == (11, "jobs.max_waiting")


def test_jobs_have_a_queue_where_the_file_has_the_table_or_a_variable_names_redis(folder: Folder) -> None:
    table = folder.load(SOUND + "[jobs]\n")
    assert (table.use_queue, table.config.jobs.url, table.origins["jobs.url"]) == (True, None, "default (embedded)")
    only_a_queue = folder.load(ASYNC + "[jobs.queue.stages]\nconcurrency = 1\n")
    assert only_a_queue.use_queue
    assert folder.load(SOUND, REDIS_URL="redis://r").use_queue
    assert folder.load(SOUND, REDIS_HOST="r").use_queue
    assert not folder.load(SOUND, REDIS_PORT="1").use_queue


def test_values_show_what_each_table_says_and_where(folder: Folder) -> None:
    loaded = folder.load(ASYNC + "[jobs]\nconcurrency = 7\n[jobs.queue.stages]\nretry = { backoff = '1s' }\n")
    assert loaded.origins["jobs.concurrency"] == f"{folder.file}:11"
    assert loaded.origins["jobs.queue.stages.retry"] == f"{folder.file}:13"
    assert "jobs.queue.stages.concurrency" not in loaded.origins
    assert "jobs.queue" not in loaded.origins


def test_a_table_for_a_queue_that_nothing_uses_is_a_warning_with_the_nearest_name(folder: Folder) -> None:
    text = ASYNC + "[jobs.queue.stagse]\nconcurrency = 1\n"
    assert folder.warnings(text) == [(10, "no stage uses this queue; did you mean 'stages'?")]
    assert folder.warnings(SOUND + "[jobs.queue.x]\n") == [(8, "no stage uses this queue")]


def test_what_an_async_stage_says_of_its_concurrency_is_a_warning_as_its_queue_says_that(folder: Folder) -> None:
    limits = ("concurrency = 3", "concurrency = { limit = 3, per_key = 1, key = 'data.k' }")
    for queue, place in {"'a.b'": '[jobs.queue."a.b"]', "true": "[jobs.queue.stages]", "'inline'": "[jobs]"}.items():
        for limit in limits:
            text = SOUND + f"[stage.log]\nasync = {queue}\npolicy = {{ {limit} }}\n"
            said = f"an async stage does not keep to it: write 'concurrency' in {place}"
            assert folder.warnings(text) == [(10, said)]
    per_key = "[stage.log]\nasync = true\npolicy = { concurrency = { per_key = 1, key = 'data.k' } }\n"
    assert folder.warnings(SOUND + per_key) == []
    assert folder.warnings(SOUND + "[stage.log]\npolicy = { concurrency = 3 }\n") == []


def test_a_retry_of_a_queue_that_has_only_events_of_async_stages_is_a_warning(folder: Folder) -> None:
    retry = "[jobs.queue.slow]\nretry = { attempts = 2 }\n"
    only_events = SOUND + "[stage.log]\nasync = 'slow'\n" + retry
    said = "it has no effect: this queue has only events of async stages, tried as the 'retry' of their 'policy' says"
    assert folder.warnings(only_events) == [(11, said)]
    assert folder.load(only_events).queues_of_events == {"slow"}
    both = MAIL + "[stage.mail]\nasync = 'slow'\nqueue = 'slow'\n" + retry
    loaded = folder.load(both, WITH_MAIL)
    assert (loaded.warnings, loaded.queues_of_events) == ((), frozenset())


def test_the_runners_own_queue_needs_no_table_and_can_have_none(folder: Folder) -> None:
    loaded = folder.load(SOUND + "[stage.log]\nasync = 'inline'\n[jobs]\nconcurrency = 3\n")
    assert loaded.queues["inline"].concurrency == 3
    assert folder.only_problem(SOUND + "[jobs.queue.inline]\nconcurrency = 3\n") == (
        8, "jobs.queue.inline", "'inline' is the runner's own queue, which is as [jobs] says: name another",
    )  # fmt: skip


def test_wrong_keys_of_queues_are_told_with_the_nearest_ones(folder: Folder) -> None:
    text = ASYNC + (
        "[jobs]\nconcurency = 1\n[jobs.queue.stages]\nconcurrency = 0\nretry = { atempts = 2 }\n[jobs.queue.'']\n"
    )
    assert [(problem.line, problem.path, problem.message) for problem in folder.problems(text)] == [
        (11, "jobs.concurency", "unknown key 'concurency'; did you mean 'concurrency'?"),
        (13, "jobs.queue.stages.concurrency", "it must be greater than or equal to 1, not 0"),
        (14, "jobs.queue.stages.retry.atempts", "unknown key 'atempts'; did you mean 'attempts'?"),
    ]


def test_a_queue_without_a_name_is_refused(folder: Folder) -> None:
    assert folder.only_problem(ASYNC + "[jobs.queue.'']\n")[2] == "a queue needs a name"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("letters", "the handler 'odd' returned 'letters' for its queues: it must return their names"),
        ((5,), "the handler 'odd' returned (5,) for its queues: it must return their names"),
        (KeyError("x"), "the queues of handler 'odd' could not be told: KeyError: 'x'"),
    ],
)
def test_a_handler_that_cannot_tell_its_queues_is_named(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, answer: Any, said: str
) -> None:
    monkeypatch.setattr(Odd, "answer", answer)
    text = SOUND.replace('"log"', '"odd"') + "[stage.odd]\n"
    assert folder.only_problem(text, WITH_MAIL) == (8, "stage.odd", said)


def test_redis_is_named_by_its_parts_tls_and_user_included(folder: Folder) -> None:
    given = {
        "REDIS_HOST": "h",
        "REDIS_USERNAME": "u@",
        "REDIS_PASSWORD": "p",
        "REDIS_TLS": "true",
        "REDIS_PORT": "6390",
    }
    loaded = folder.load(SOUND, **given)
    assert loaded.config.jobs.url == "rediss://u%40:p@h:6390/0"
    assert loaded.origins["jobs.url"] == (
        "environment REDIS_HOST, REDIS_PORT, REDIS_USERNAME, REDIS_PASSWORD, REDIS_TLS"
    )
    assert folder.load(SOUND, REDIS_HOST="h", REDIS_USERNAME="u").config.jobs.url == "redis://u@h:6379/0"
    assert folder.load(SOUND, REDIS_HOST="h", REDIS_TLS="off").config.jobs.url == "redis://h:6379/0"
    with_parameters = "rediss://h:6390/1?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required"
    assert folder.load(SOUND, REDIS_URL=with_parameters).config.jobs.url == with_parameters


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"REDIS_HOST": "h", "REDIS_TLS": "perhaps"}, "REDIS_TLS must be true or false, not 'perhaps'"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "x"}, "it is no URL of Redis: "),
        ({"REDIS_URL": "redis://h:99999"}, "it is no URL of Redis: "),
        ({"REDIS_URL": "redis://h/abc"}, "it is no URL of Redis: what follows the host is no number of a database"),
        ({"REDIS_HOST": "h", "REDIS_DB": "-1"}, "it is no URL of Redis: what follows the host is no number"),
        ({"REDIS_URL": "rediss:/h"}, "it is no URL of Redis: '//' and the host are missing"),
        ({"REDIS_URL": "http://h"}, "nothing installed serves the scheme 'http'"),
    ],
)
def test_what_is_no_address_of_redis_is_told(folder: Folder, environ: dict[str, str], said: str) -> None:
    (problem,) = folder.problems(SOUND, **environ)
    assert problem.message.startswith(said)


@pytest.mark.parametrize("text", [ASYNC, SOUND + "[jobs]\n"])
def test_a_redis_without_the_library_for_it_says_what_to_install(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setitem(sys.modules, "arq", None)
    (problem,) = folder.problems(text, REDIS_URL="redis://h")
    assert problem.message == (
        "a queue in Redis needs arq: install pipeline-runner[jobs] (it comes from environment REDIS_URL)"
    )


def test_a_variable_of_somebody_elses_redis_does_no_harm(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arq", None)
    assert folder.load(SOUND, REDIS_URL="redis://h").queues == {}
    assert folder.load(SOUND + "[stage.log]\nasync = 'inline'\n", REDIS_URL="redis://h").queues_of("log") == ("inline",)


def test_an_embedded_queue_without_the_libraries_for_it_says_what_to_do(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    assert folder.only_problem(ASYNC + "[jobs]\n") == (
        10, "jobs", "the queue is embedded without a 'url': set it, or install pipeline-runner[embedded]",
    )  # fmt: skip
