"""The real servers that the tests and benchmarks run on; `start_…` gives a test one of its own, to kill or pause."""

from tests.services.errors import ServiceUnavailable
from tests.services.postgres import Postgres, start_postgres
from tests.services.rabbitmq import RabbitMQ, start_rabbitmq
from tests.services.rabbitmq_cluster import RabbitMQCluster, start_rabbitmq_cluster
from tests.services.redis import Redis, start_redis
from tests.services.server import Server
from tests.services.temporal import Temporal, start_temporal

__all__ = [
    "Postgres",
    "RabbitMQ",
    "RabbitMQCluster",
    "Redis",
    "Server",
    "ServiceUnavailable",
    "Temporal",
    "start_postgres",
    "start_rabbitmq",
    "start_rabbitmq_cluster",
    "start_redis",
    "start_temporal",
]
