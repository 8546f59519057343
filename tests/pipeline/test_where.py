"""A failed try is told by the handler's own function, wherever in other people's code it ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Reject, Retry
from pipeline.policies.timeout import Timeout
from pipeline.where import Where, where_failed

ENGINE = str(Path(__file__).parents[2] / "pipeline" / "stages.py")
INSTALLED = "/venv/lib/python3.11/site-packages"


class Other:
    """A handler of a package that none of the code here is of."""


Other.__module__ = "elsewhere.handlers"


def code(file: str, module: str, source: str, **names: Any) -> Callable[[], Any]:
    """The function `run` of a file's source, as if it had been imported from there."""
    found: dict[str, Any] = {"__name__": module, **names}
    exec(compile(source, file, "exec"), found)
    return found["run"]  # type: ignore[no-any-return]


def failing(file: str, module: str, error: str = "ValueError('no')") -> Callable[[], Any]:
    return code(file, module, f"def run():\n    raise {error}")


def calling(file: str, module: str, called: Callable[[], Any]) -> Callable[[], Any]:
    return code(file, module, "def run():\n    called()", called=called)


def raised(run: Callable[[], Any]) -> BaseException:
    """What it raises, with no frame of this file before its own."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        run()
    trace = caught.value.__traceback__
    return caught.value.with_traceback(trace and trace.tb_next)


def where(run: Callable[[], Any], handler: object = None) -> Where:
    found = where_failed(raised(run), handler or Other())
    assert found is not None
    return found


def check_customer(name: str) -> None:
    raise ValueError(f"no such customer {name}")


def test_it_is_the_innermost_function_of_the_users_own() -> None:
    def handle() -> None:
        check_customer("acme")

    found = where(handle)

    assert found.place == "tests/pipeline/test_where.py:check_customer"
    assert found.traceback is not None
    assert found.traceback.startswith("Traceback (most recent call last):\n")
    assert found.traceback.endswith("\nValueError: no such customer acme")
    assert "in handle" in found.traceback


def test_a_function_that_asks_a_library_is_told_and_not_the_library() -> None:
    def parse() -> Any:
        return json.loads("{")

    assert where(parse).place.endswith("test_where.py:test_a_function_that_asks_a_library_is_told_and_not_the_library"
                                       ".parse")  # fmt: skip


@pytest.mark.parametrize(
    ("file", "module", "told"),
    [
        ("/srv/app/orders.py", "pipeline_local_orders_1a2b3c4d", "orders.py:run"),
        ("/srv/app/shop/orders.py", "shop.orders", "shop/orders.py:run"),
        ("/srv/app/shop/__init__.py", "shop", "shop/__init__.py:run"),
        (f"{INSTALLED}/shop/orders.py", "shop.orders", "shop/orders.py:run"),
        ("/srv/app/orders.py", "__main__", "orders.py:run"),
    ],
)
def test_a_file_is_told_as_it_is_imported_wherever_it_is(file: str, module: str, told: str) -> None:
    assert where(failing(file, module)).place == told


def test_of_a_handler_that_is_installed_it_is_the_innermost_of_its_package() -> None:
    library = failing(f"{INSTALLED}/crm/client.py", "crm.client")
    helper = calling(f"{INSTALLED}/elsewhere/customers.py", "elsewhere.customers", library)

    assert where(calling(f"{INSTALLED}/elsewhere/handlers.py", "elsewhere.handlers", helper)).place == (
        "elsewhere/customers.py:run"
    )
    assert where(library).place == "crm/client.py:run"


def test_the_engine_is_never_to_blame_nor_told_before_the_handler() -> None:
    handler = calling("/srv/orders.py", "orders", failing(ENGINE, "pipeline.stages"))
    found = where(calling(ENGINE, "pipeline.stages", handler))

    assert found.place == "orders.py:run"
    assert found.traceback is not None
    assert found.traceback.index("/srv/orders.py") < found.traceback.index(ENGINE)
    assert where_failed(raised(failing(ENGINE, "pipeline.stages")), Other()) is None
    assert where_failed(ValueError("returned, and never raised"), Other()) is None


@pytest.mark.parametrize("error", [Reject("no"), Retry("later")])
def test_what_is_raised_on_purpose_has_a_place_and_no_traceback(error: Exception) -> None:
    assert where(code("/srv/orders.py", "orders", "def run():\n    raise error", error=error)) == Where("orders.py:run")


def test_a_long_traceback_keeps_its_end() -> None:
    def deep(left: int) -> None:
        deeper(left - 1) if left else check_customer("x" * 3_000_000)

    def deeper(left: int) -> None:
        deep(left)

    found = where(lambda: deep(300))

    assert found.place.endswith(":check_customer")
    assert found.traceback is not None
    assert len(found.traceback) <= 4_000
    assert found.traceback.startswith("…\n")
    assert "in check_customer" in found.traceback
    assert found.traceback.endswith("x…")


def test_of_a_group_of_errors_the_first_one_tells() -> None:
    groups = BaseExceptionGroup("both", [raised(lambda: check_customer("a")), ValueError("b")])

    assert where(code("/srv/orders.py", "orders", "def run():\n    raise error", error=groups)).place == (
        "tests/pipeline/test_where.py:check_customer"
    )


def test_an_error_that_can_not_be_looked_at_has_no_place() -> None:
    class Untold(Exception):
        @property
        def __traceback__(self) -> Any:
            raise ValueError("no")

    assert where_failed(Untold(), Other()) is None


async def test_a_time_out_is_told_by_what_was_waited_for() -> None:
    async def ask() -> None:
        await asyncio.Event().wait()

    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError) as caught:
        await Timeout(0.02).run(ask(), task, asyncio.get_running_loop())

    found = where_failed(caught.value, Other())
    assert found is not None
    assert found.place.endswith(".ask")
    assert found.traceback is not None
    assert found.traceback.endswith("TimeoutError: took longer than 0.02 s")
