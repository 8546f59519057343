"""The contract of a handler: a decorated async function, or a class."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError
from typing_extensions import TypeVar

from pipeline.config.models import Policy
from pipeline.config.policies import RateLimit
from pipeline.errors import PluginError
from pipeline.events import Event, Outcome
from pipeline.ids import name_uuid
from pipeline.jobs.contract import Job, NewJob, Settlement, Work
from pipeline.resources import NoOptions

if TYPE_CHECKING:
    from pipeline.ledger.database import Database

__all__ = ["Context", "Delivery", "Handler", "HandlerFunction", "Setup", "handler", "marks_of", "refuse_unfit"]

OptionsT = TypeVar("OptionsT", bound=BaseModel, default=Any)
_REQUESTS = "6f0e5f4e-7f0b-4b57-9d53-0a3c5a3d8a11"  # the name space of request ids; never change it


class Context:
    """What a handler may know and do beside the event; one per event and try.

    Attributes:
        stage: The stage's name in ``pipeline.toml``.
        route: The route's name.
        attempt: 1 for the first try; an outage of a dependency counts none.
        outcome: What became of the route's stages, in a ``finally`` stage; else None.
        error: What ended the route's stages, in a ``finally`` stage; else None.
        rows: What the handler has added so far.
        statements: SQL statements that the handler has added so far.
        jobs: Jobs that the handler has left so far.
    """

    __slots__ = ("attempt", "error", "event_id", "group", "jobs", "outcome", "route", "rows", "stage", "statements")

    def __init__(
        self,
        stage: str,
        route: str,
        group: str,
        event_id: str,
        attempt: int = 1,
        outcome: Outcome | None = None,
        error: BaseException | None = None,
    ) -> None:
        self.stage = stage
        self.route = route
        self.group = group
        self.event_id = event_id
        self.attempt = attempt
        self.outcome = outcome
        self.error = error
        self.rows: list[Any] = []
        self.statements: list[Any] = []
        self.jobs: list[NewJob] = []

    @property
    def request_id(self) -> str:
        """A UUID made from consumer group, route, stage and event id: the same whenever this event comes again."""
        return name_uuid(_REQUESTS, "\x1f".join((self.group, self.route, self.stage, self.event_id)))

    def add(self, row: Any) -> None:
        """Leave a SQLModel row, written in the transaction that records the event's outcome.

        A ``Row(table, values)`` does the same, and spares a busy handler the making of the model's instance. What a
        try has left is discarded when it fails, so an event that is tried again leaves its rows once.
        """
        self.rows.append(row)

    def execute(self, statement: Any) -> None:
        """Leave a SQLAlchemy statement (an upsert, say), executed in that same transaction, after the rows."""
        self.statements.append(statement)

    def enqueue(self, job: NewJob) -> None:
        """Leave a job for `Handler.run_jobs` of this stage, on a worker; it is written in that same transaction.

        Raises:
            TypeError: Its payload is no mapping.
        """
        if not isinstance(job.payload, Mapping):
            raise TypeError(f"the payload of the job {job.id!r} is a {type(job.payload).__name__}, and no mapping")
        self.jobs.append(job if job.stage else replace(job, stage=self.stage))


class Delivery(NamedTuple):
    """An event and its context, as `Handler.handle_batch` gets them."""

    event: Event[Any]
    context: Context


@dataclass(frozen=True, slots=True)
class Setup:
    """What a handler is given when it starts.

    Attributes:
        stage: The stage's name.
        pipeline: The pipeline's name.
        resources: The opened resources by name.
        log: A logger named after the stage.
        database: The pipeline's database, for a handler that has tables of its own to read, or transactions of its
            own to make; None only in tests that give none.
        extensions: What plugins return from the hooks that `pipeline_hookspecs` added, by the hook's name.
        use_queue: Whether jobs have a queue, ``[jobs]``; else a runner runs them itself.
    """

    stage: str
    pipeline: str
    resources: Mapping[str, Any] = field(default_factory=dict)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("pipeline.stage"))
    database: Database | None = None
    extensions: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    use_queue: bool = True

    def resource(self, name: str) -> Any:
        """The resource of this name. Raises `PluginError` where no ``[resource.<name>]`` is open."""
        try:
            return self.resources[name]
        except KeyError:
            raise PluginError(
                f"stage {self.stage!r} needs the resource {name!r}, which is not configured: add [resource.{name}]"
            ) from None


class Handler(Generic[OptionsT]):
    """A handler with options and a life of its own: one instance per stage and source.

    Redrives of a replay's dead letters share the live source's instance.

    Class attributes:
        name: What a stage's ``use`` names it by.
        Options: A pydantic model of the stage's own keys (``extra="forbid"``).
        models: Routing-key pattern → model of the data; the first that matches is validated before `handle`.
        resources: Names of the resources that it needs.
        policy: The default policy of its stages.
        max_batch: How many events `handle_batch` takes at most.

    A class that defines `handle_batch` is called with batches only. A batch holds at most one event of each ordering
    key of a route; events of different keys come in no particular order.
    """

    name: ClassVar[str]
    Options: ClassVar[type[BaseModel]] = NoOptions
    models: ClassVar[Mapping[str, type[BaseModel]]] = {}
    resources: ClassVar[tuple[str, ...]] = ()
    policy: ClassVar[Policy] = Policy()
    max_batch: ClassVar[int] = 500

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @classmethod
    def needs(cls, options: OptionsT) -> tuple[str, ...]:
        """Names of the resources that a stage with these options needs; by default `resources`."""
        return cls.resources

    @classmethod
    def default_policy(cls, options: OptionsT) -> Policy:
        """The default policy of a stage with these options; by default `policy`."""
        return cls.policy

    @classmethod
    def example(cls, options: OptionsT) -> tuple[str, Mapping[str, Any]] | None:
        """Routing key and data of an event that a stage with these options would take, to try it; None for no idea."""
        return None

    @classmethod
    def queues(cls, options: OptionsT) -> tuple[str, ...]:
        """Names of the queues that a stage with these options leaves jobs on; by default none."""
        return ()

    def take_rate_limits(self, limits: tuple[RateLimit, ...]) -> tuple[RateLimit, ...]:
        """Called once, before `start`, with the rate limits of the stage's policy; returns those that the engine keeps.

        By default it is all of them: each counts events, before the handler is called. A handler keeps those itself
        that count what it does for an event: it then raises `pipeline.errors.Throttled` for what must wait.
        """
        return limits

    async def start(self, setup: Setup) -> None:
        """Called once before the first event; must not wait for other systems."""

    async def stop(self) -> None:
        """Called once after the last event."""

    async def handle(self, event: Event[Any], context: Context) -> None:
        """Handle one event: return when it is done, or raise one of `pipeline.errors`' instructions."""
        raise NotImplementedError(f"{type(self).__name__} defines neither handle nor handle_batch")

    async def handle_batch(self, batch: Sequence[Delivery]) -> Sequence[BaseException | None] | None:
        """Handle many events: None when all are done, else per event None or the error that ends its try.

        What it raises counts for every event of the batch.
        """
        raise NotImplementedError

    async def run_jobs(self, work: Work) -> None:
        """Run jobs that `Context.enqueue` left, on a worker: settle each in one of the work's transactions.

        A job may be run again after a crash at any moment before it is settled; what is written in the transaction
        that settles it is written once.
        """
        raise NotImplementedError

    async def jobs_failed(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """Called in the settlement that ends jobs which `run_jobs` left unsettled, because no try is left.

        What the jobs stood for can be marked as failed here, in that transaction; by default nothing is.

        Args:
            settlement: The transaction; it settles the jobs itself.
            jobs: Those of them that are held.
            reason: Why, for people.
        """


HandlerFunction: TypeAlias = Callable[..., Awaitable[None]]
HandlerFactory: TypeAlias = type[Handler[Any]]
_MARK = "__pipeline_handler__"


def handler(
    name: str,
    *,
    models: Mapping[str, type[BaseModel]] | None = None,
    resources: tuple[str, ...] = (),
    policy: Policy | Mapping[str, Any] | None = None,
) -> Callable[[HandlerFunction], HandlerFunction]:
    """Mark an async function of ``(event)`` or ``(event, context)`` as the handler of this name.

    The decorator only marks: the function stays as it is, and the loader finds it in the modules that it loads. An
    annotation ``event: Event[Model]`` declares the model of its data for every routing key.

    Args:
        name: What a stage's ``use`` names it by.
        models: Routing-key pattern → model of the data.
        resources: Names of the resources that it needs.
        policy: The default policy of its stages: a `Policy`, or its keys as in ``pipeline.toml``.

    Raises:
        PluginError: There is no name, the function is not async or takes other arguments, its ``Event[…]`` names no
            pydantic model, or models, resources or policy are wrong.
    """
    if not isinstance(name, str):
        raise PluginError(f"@handler needs a name: write @handler({getattr(name, '__name__', 'name')!r})")

    def mark(function: HandlerFunction) -> HandlerFunction:
        factory = _class_for(function, name, models, resources, policy)
        refuse_unfit(factory)
        setattr(function, _MARK, factory)
        return function

    return mark


def marks_of(module: Any) -> list[HandlerFactory]:
    """The handlers that a module's decorated functions stand for, in the order of their names in it."""
    found = (getattr(value, _MARK, None) for value in vars(module).values() if inspect.isfunction(value))
    return [factory for factory in found if factory is not None]


def refuse_unfit(handler: type[Handler[Any]]) -> None:
    """Raise `PluginError` where a handler class can't work: nothing to call, wrong models or resources."""
    where = f"the handler {handler.name!r} ({handler.__qualname__})"
    resources: Any = handler.resources
    models: Any = handler.models
    if handler.handle is Handler.handle and handler.handle_batch is Handler.handle_batch:
        raise PluginError(f"{where} defines neither handle nor handle_batch")
    if isinstance(resources, str):
        raise PluginError(f"{where}: resources is a text: write ({resources!r},)")
    if not isinstance(models, Mapping):
        raise PluginError(f"{where}: models is {models!r}: write a routing-key pattern for each model")
    for pattern, model in models.items():
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise PluginError(f"{where}: models[{pattern!r}] is {model!r}: name a pydantic model")


def _class_for(
    function: HandlerFunction,
    name: str,
    models: Mapping[str, type[BaseModel]] | None,
    resources: tuple[str, ...],
    policy: Policy | Mapping[str, Any] | None,
) -> HandlerFactory:
    code = getattr(function, "__code__", None)
    where = f"handler {name!r} ({code.co_filename}:{code.co_firstlineno})" if code else f"handler {name!r}"
    if not inspect.iscoroutinefunction(function):
        raise PluginError(f"{where} is not async: write 'async def'")
    arguments = len(inspect.signature(function).parameters)
    if arguments not in (1, 2):
        raise PluginError(f"{where} takes {arguments} arguments: write (event) or (event, context)")
    body: dict[str, Any] = {
        "name": name,
        "models": models or _model_of(function, where),
        "resources": resources,
        "__doc__": function.__doc__,
        "__module__": function.__module__,
    }
    if policy is not None:
        body["policy"] = _policy(policy, where)
    body["handle"] = _method_of(function, arguments)
    return type(function.__name__, (Handler,), body)


def _policy(policy: Policy | Mapping[str, Any], where: str) -> Policy:
    try:
        return Policy.model_validate(policy)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise PluginError(f"{where}: its policy is wrong: {faults}") from None


def _method_of(function: HandlerFunction, arguments: int) -> Callable[..., Awaitable[None]]:
    if arguments == 1:
        return lambda self, event, context: function(event)
    return lambda self, event, context: function(event, context)


def _model_of(function: HandlerFunction, where: str) -> Mapping[str, type[BaseModel]]:
    """The model in ``event: Event[Model]``, for every routing key."""
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise PluginError(
            f"{where}: an annotation can't be resolved ({error}): import what it names at run time, not for type "
            "checking only"
        ) from None
    first = next(iter(inspect.signature(function).parameters))
    annotation = hints.get(first)
    if get_origin(annotation) is Event and (model := get_args(annotation)[0]) is not Any:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise PluginError(f"{where} takes Event[{model!r}]: name a pydantic model, or write Event alone")
        return {"#": model}
    return {}
