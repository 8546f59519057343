"""Values come from the file, else the environment, else the embedded default; variables fill texts."""

from __future__ import annotations

import pytest

from pipeline.config.redact import redact, shown
from tests.pipeline.config.fakes import SOUND, Folder, values

CONTROL = SOUND.replace('"log"', '"control"')


def test_variables_are_put_into_texts_anywhere_in_the_file(folder: Folder) -> None:
    text = """
[source.admin]
stream = "${TENANT}.admin.${TENANT}"
group = "$${TENANT} for $$5, $5 and ${EMPTY:-nothing}${SET:-no}"
batch = "${BATCH}"
start = "${START}"
dedupe = "${DEDUPE}"
[[route]]
match = ["${TENANT}.#"]
stages = ["control"]
[stage.control]
policy = { timeout = "${TIMEOUT:-3s}", retry = { attempts = "${ATTEMPTS:-9}" } }
signals = { a = "${SIGNAL}" }
"""
    loaded = folder.load(text, TENANT="acme", BATCH="7", START="42", DEDUPE="false", SIGNAL="stop", EMPTY="", SET="yes")
    source = loaded.config.source["admin"]
    assert (source.stream, source.group) == ("acme.admin.acme", "${TENANT} for $5, $5 and nothingyes")
    assert (source.batch, source.start, source.dedupe) == (7, 42, False)
    assert loaded.config.route[0].match == ("acme.#",)
    assert (loaded.policy("control").timeout, loaded.policy("control").retry.attempts) == (3, 9)
    assert loaded.options("control").signals == {"a": "stop"}  # type: ignore[attr-defined]


def test_a_value_can_not_change_the_files_structure(folder: Folder) -> None:
    loaded = folder.load(SOUND.replace("control", "${GROUP}"), GROUP='x"\n[broker]\nurl = "y')
    assert loaded.config.source["admin"].group == 'x"\n[broker]\nurl = "y'


def test_what_a_variable_holds_is_not_interpolated_again(folder: Folder) -> None:
    loaded = folder.load(SOUND.replace("control", "${GROUP}"), GROUP="${PATH} $$")
    assert loaded.config.source["admin"].group == "${PATH} $$"


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("${NOPE}", "the variable NOPE is not set: set it, set NOPE_FILE, or write ${NOPE:-default}"),
        ("${NOPE", "'${' is no reference: write ${NAME} or ${NAME:-default}, and $$ for a dollar sign"),
        ("${}", "'${}' is no reference: write ${NAME} or ${NAME:-default}, and $$ for a dollar sign"),
        ("${A-b}", "'${A-b}' is no reference: write ${NAME} or ${NAME:-default}, and $$ for a dollar sign"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told_its_line(folder: Folder, group: str, message: str) -> None:
    assert folder.only_problem(SOUND.replace("control", group)) == (3, "source.admin.group", message)


def test_a_mounted_file_stands_in_for_a_variable_that_is_not_set(folder: Folder) -> None:
    secret = folder.path / "secret"
    secret.write_text("geheim\n\n")
    text = SOUND.replace("control", "${GROUP}")
    assert folder.load(text, GROUP_FILE=str(secret)).config.source["admin"].group == "geheim\n"
    loaded = folder.load(text, GROUP_FILE=str(secret), GROUP="plain")
    assert loaded.config.source["admin"].group == "plain"
    assert [problem.message for problem in loaded.warnings] == ["both GROUP and GROUP_FILE are set: GROUP is used"]


def test_a_mounted_file_that_cannot_be_read_is_an_error_and_never_an_empty_secret(folder: Folder) -> None:
    missing = str(folder.path / "missing")
    line, _, message = folder.only_problem(SOUND.replace("control", "${GROUP}"), GROUP_FILE=missing)
    assert line == 3
    assert message.startswith(f"GROUP_FILE names {missing!r}, which can't be read: No such file or directory")
    _, _, message = folder.only_problem(SOUND, RABBITMQ_HOST="h", RABBITMQ_PASS_FILE=missing)
    assert message == f"RABBITMQ_PASS_FILE names {missing!r}, which can't be read: No such file or directory"
    _, _, message = folder.only_problem(SOUND, DATABASE_URL_FILE=missing)
    assert message.endswith("No such file or directory (it comes from environment DATABASE_URL_FILE)")


def broker_of(folder: Folder, text: str, **environ: str) -> tuple[str | None, str]:
    loaded = folder.load(text, **environ)
    return loaded.config.broker.url, loaded.origins["broker.url"].removeprefix(f"{folder.path}/")


def test_the_brokers_url_is_the_files_else_the_environments_else_the_embedded_one(folder: Folder) -> None:
    text = SOUND + '[broker]\nurl = "${URL:-}"\n'
    every = {"URL": "rabbit://file", "PIPELINE_BROKER_URL": "rabbit://variable", "RABBITMQ_HOST": "parts"}
    assert broker_of(folder, text, **every) == ("rabbit://file", "pipeline.toml:9 (environment URL)")
    del every["URL"]
    assert broker_of(folder, text, **every) == ("rabbit://variable", "environment PIPELINE_BROKER_URL")
    del every["PIPELINE_BROKER_URL"]
    assert broker_of(folder, text, **every) == (
        "rabbit://guest:guest@parts", "environment RABBITMQ_HOST, RABBITMQ_PASS",
    )  # fmt: skip
    assert broker_of(folder, text) == ("embedded://.pipeline/events.db", "default (embedded)")


def test_a_brokers_own_variables_may_be_mounted_files(folder: Folder) -> None:
    (folder.path / "pass").write_text("p@ss:/\n")
    url, _ = broker_of(folder, SOUND, RABBITMQ_HOST="h", RABBITMQ_PASS_FILE=str(folder.path / "pass"))
    assert url == "rabbit://guest:p%40ss%3A%2F@h"


def test_the_database_is_the_files_else_database_url_else_sqlite(folder: Folder) -> None:
    text = SOUND + '[database]\nurl = "postgresql://file/d"\n'
    assert folder.load(text, DATABASE_URL="sqlite:///x").config.database.url == "postgresql://file/d"
    assert folder.load(SOUND, DATABASE_URL="sqlite:///x").config.database.url == "sqlite:///x"
    loaded = folder.load(SOUND, DATABASE_URL="")
    assert loaded.config.database.url == "sqlite:///.pipeline/pipeline.db"
    assert loaded.origins["database.url"] == "default (embedded)"
    assert folder.load(SOUND, DATABASE_URL="postgresql+asyncpg://h/d").config.database.url is not None


def test_the_queue_is_the_files_else_redis_url_else_made_of_parts_else_embedded(folder: Folder) -> None:
    parts = {"REDIS_HOST": "h", "REDIS_PORT": "6380", "REDIS_PASSWORD": "p@:/ %", "REDIS_DB": "3"}
    loaded = folder.load(SOUND, **parts)
    assert loaded.config.jobs.url == "redis://:p%40%3A%2F%20%25@h:6380/3"
    assert loaded.origins["jobs.url"] == "environment REDIS_HOST, REDIS_PORT, REDIS_PASSWORD, REDIS_DB"
    assert folder.load(SOUND, REDIS_HOST="::1").config.jobs.url == "redis://[::1]:6379/0"
    assert folder.load(SOUND, REDIS_URL="rediss://u", **parts).config.jobs.url == "rediss://u"
    assert folder.load(SOUND + '[jobs]\nurl = "redis://f"\n', REDIS_URL="redis://u").config.jobs.url == "redis://f"
    loaded = folder.load(SOUND, REDIS_PORT="6380")
    assert (loaded.config.jobs.url, loaded.origins["jobs.url"]) == (None, "default (inline)")


def test_a_resources_option_is_the_files_else_its_variables_else_its_default(folder: Folder) -> None:
    def address(text: str, **environ: str) -> tuple[str | None, str]:
        loaded = folder.load(text, **environ)
        options, origin = loaded.resource_options("temporal"), loaded.origins["resource.temporal.address"]
        return options.address, origin.removeprefix(f"{folder.path}/")  # type: ignore[attr-defined]

    table = CONTROL + '[resource.temporal]\naddress = "file:1"\n'
    assert address(table, TEMPORAL_HOST="variable:2") == ("file:1", "pipeline.toml:9")
    assert address(CONTROL, TEMPORAL_HOST="variable:2") == ("variable:2", "environment TEMPORAL_HOST")
    assert address(CONTROL) == (None, "default")
    assert address(CONTROL + '[resource.temporal]\naddress = ""\n', TEMPORAL_HOST="v") == (
        "v",
        "environment TEMPORAL_HOST",
    )


@pytest.mark.parametrize(
    ("environ", "path", "message"),
    [
        ({"PIPELINE_BROKER_URL": "rabit://u:secret@h"}, "broker.url",
         "nothing installed serves the scheme 'rabit'; did you mean 'rabbit'? "
         "(it comes from environment PIPELINE_BROKER_URL)"),
        ({"PIPELINE_BROKER_URL": "localhost"}, "broker.url",
         "'localhost' is no URL: write one as in rabbit://… (it comes from environment PIPELINE_BROKER_URL)"),
        ({"PIPELINE_BROKER_URL": "rabbit://u:secret@h:x"}, "broker.url",
         "rabbit://u:***@h:x: the port is no number (it comes from environment PIPELINE_BROKER_URL)"),
        ({"DATABASE_URL": "mysql://u:secret@h/d"}, "database.url",
         "nothing installed serves the scheme 'mysql'; there are: postgres, postgresql, sqlite "
         "(it comes from environment DATABASE_URL)"),
        ({"TEMPORAL_TIMEOUT": "secret"}, "resource.temporal.timeout",
         "it must be a number (it comes from environment TEMPORAL_TIMEOUT)"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named_and_its_secret_is_not_shown(
    folder: Folder, environ: dict[str, str], path: str, message: str
) -> None:
    assert folder.only_problem(CONTROL, **environ) == (None, path, message)


def test_what_variables_put_into_the_file_is_not_shown_in_errors(folder: Folder) -> None:
    text = CONTROL + '[stage.control]\nin_flight = "${SECRET}"\n'
    _, path, message = folder.only_problem(text, SECRET="geheim")
    assert path == "stage.control.in_flight"
    assert "geheim" not in message


def test_values_are_listed_without_secrets(folder: Folder) -> None:
    text = CONTROL + '[stage.control]\npassword = "geheim"\n[resource.temporal]\napi_key = "geheim"\n'
    loaded = folder.load(text, PIPELINE_BROKER_URL="rabbit://u:geheim@h", REDIS_URL="redis://:geheim@h?password=geheim")
    listed = values(loaded)
    assert "geheim" not in str(listed)
    assert listed["broker.url"] == "rabbit://u:***@h"
    assert listed["stage.control.password"] == "***"
    assert listed["source.admin.dedupe"] == "1d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://user:pa:ss@h:5432/d", "postgresql://user:***@h:5432/d"),
        ("redis://:p@ss/w@rd@h", "redis://:***@h"),
        ("amqp://h:5672/v", "amqp://h:5672/v"),
        ("can't reach amqp://u:p@h/v now", "can't reach amqp://u:***@h/v now"),
        ("x://h?a=1&sslpassword=p&b=2&api_key=k", "x://h?a=1&sslpassword=***&b=2&api_key=***"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
    ],
)
def test_a_url_is_shown_without_its_password(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_a_value_is_shown_as_one_writes_it() -> None:
    assert [shown(value) for value in (None, "", [], 5, True, ["a", "b"], {"a": 1}, "x")] == [
        "", "", "", "5", "true", "a, b", '{"a": 1}', "x",
    ]  # fmt: skip
    assert shown({"password": "p", "urls": ["a://u:p@h"]}) == '{"password": "***", "urls": ["a://u:***@h"]}'


@pytest.mark.parametrize("url", ["redis://:s3cr#t@host", ":s3cr#t@host:6379", "redis://:s3cr/t@host:6379/0"])
def test_a_url_that_can_not_be_read_is_refused_without_its_password(folder: Folder, url: str) -> None:
    _, path, message = folder.only_problem(SOUND + "[jobs]\n", REDIS_URL=url)
    assert path == "jobs.url"
    assert "s3cr" not in message
