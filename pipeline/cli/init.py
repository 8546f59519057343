"""``pipeline init``: write a first `pipeline.toml`."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli.files import DEFAULT, FileArgument

__all__ = ["STARTER", "init"]

STARTER = """\
# A pipeline: events of a stream, routed by their routing key to stages.
#
#   pipeline check                                  is all well with this file?
#   pipeline run                                    run it; Ctrl-C stops it
#   pipeline publish hello.world '{"name": "you"}'  in another terminal: the event is printed

[pipeline]
name = "hello"
# handlers = ["./handlers.d"]          # folders of your own handlers: plain .py files

# Without these tables everything lives in files under .pipeline/, and nothing needs to be installed:
# [broker]
# url = "rabbitmq-stream://user:${RABBITMQ_PASS}@host:5552"
# [database]
# url = "postgresql://user:${DB_PASS}@host/name"

[source.events]
stream = "events"                      # the stream that is read
group = "hello"                        # progress belongs to this consumer group
# start = "first"                      # where a new group begins: first, last, next, an offset, or a time
# dedupe = "24h"                       # how long message ids are remembered, so that a repeat is dropped

[[route]]
match = "hello.*"                      # '*' stands for one word, '#' for any number of words
# key = "data.name"                    # events of one key are handled in order
stages = ["log"]                       # handlers, in order; 'pipeline plugins' lists them
# finally = ["audit"]                  # runs at the end, whatever the outcome

# A stage's options and policy have a table of their own:
# [stage.log]
# format = "json"
# policy = { timeout = "10s", retry = { attempts = 3, backoff = "1s" } }
"""


def init(file: FileArgument = DEFAULT) -> None:
    """Write a first pipeline.toml, with comments. An existing file is left alone."""
    from pipeline.cli.console import say
    from pipeline.errors import UserError

    try:
        with Path(file).open("x", encoding="utf-8") as out:
            out.write(STARTER)
    except FileExistsError:
        raise UserError(f"{file} exists already, and is left as it is") from None
    except OSError as error:
        raise UserError(f"{file} can't be written: {error.strerror}") from None
    say(f"wrote {file}; now: pipeline run" + ("" if file == DEFAULT else f" {file}"))
