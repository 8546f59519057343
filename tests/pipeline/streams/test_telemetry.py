"""OpenTelemetry and Prometheus see batches, and publishers' traces reach their readers."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client import CollectorRegistry

from pipeline.streams.broker import StreamBroker
from pipeline.streams.opentelemetry import StreamTelemetryMiddleware
from pipeline.streams.prometheus import StreamPrometheusMiddleware
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.streams.inbox import Inbox, happens, subscribe


async def test_a_batch_is_a_span_that_links_to_its_publishers(store: MemoryStore) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    middleware = StreamTelemetryMiddleware(tracer_provider=provider)
    broker = StreamBroker(MemoryConnector("memory://telemetry", store), middlewares=[middleware])
    inbox = Inbox()
    subscribe(broker, inbox)
    await broker.connect()
    await broker.publish({"n": 1}, stream="s", id="1")
    await broker.publish({"n": 2}, stream="s", id="2")
    await broker.start()
    await inbox.until(2)
    await happens(lambda: any(span.name == "s process" for span in spans.get_finished_spans()))
    await broker.stop()

    finished = spans.get_finished_spans()
    created = [span for span in finished if span.name == "s create" and span.kind is SpanKind.PRODUCER]
    received = next(span for span in finished if span.name == "s create" and span.kind is SpanKind.CONSUMER)
    processed = next(span for span in finished if span.name == "s process")
    assert [link.context.span_id for link in received.links] == [span.context.span_id for span in created]
    assert processed.attributes is not None
    assert processed.attributes["messaging.batch.message_count"] == 2
    assert processed.attributes["messaging.consumer.group.name"] == "g"
    assert all("traceparent" in message.headers for message in inbox.batches[0])


async def test_messages_are_counted(store: MemoryStore) -> None:
    registry = CollectorRegistry()
    middleware = StreamPrometheusMiddleware(registry=registry, custom_labels={"source": "admin"})
    broker = StreamBroker(MemoryConnector("memory://metrics", store), middlewares=[middleware])
    inbox = Inbox()
    subscribe(broker, inbox)
    await broker.connect()
    await broker.publish_batch({}, {}, {}, stream="s")
    await broker.start()
    await inbox.until(3)
    labels = {"app_name": "pipeline", "broker": "stream", "handler": "s", "source": "admin"}

    def count(name: str, **more: str) -> float | None:
        return registry.get_sample_value(f"pipeline_{name}", labels | more)

    await happens(lambda: count("received_processed_messages_total", status="acked") == 3)
    await broker.stop()

    assert count("received_messages_total") == 3
    assert count("received_messages_size_bytes_sum") == 6
    published = {"app_name": "pipeline", "broker": "stream", "destination": "s", "source": "admin", "status": "success"}
    assert registry.get_sample_value("pipeline_published_messages_total", published) == 3
