"""A RabbitMQ cluster: three nodes on loopback that share one Erlang name server and one cookie, and nothing else."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.services import probes
from tests.services.command import run
from tests.services.debian import unpacked
from tests.services.ports import free_port
from tests.services.process import Process, spawn, wait_until
from tests.services.rabbitmq import BUNDLE, RabbitMQ
from tests.services.server import Server


class Node(RabbitMQ):
    """One node; the name server is the cluster's, and outlives it."""

    def __init__(self, data: Path, cookie: str, epmd_port: int) -> None:
        super().__init__(data)
        self._epmd_port = epmd_port
        self._env = self._environment()
        path = data / "home/.erlang.cookie"
        path.unlink()
        path.write_text(cookie)
        path.chmod(0o400)

    @property
    def environment(self) -> dict[str, str]:
        """What its programs are told."""
        return self._env

    @property
    def node_name(self) -> str:
        """What Erlang calls it."""
        return self._env["RABBITMQ_NODENAME"]

    def meet(self, nodes: list[Node]) -> None:
        """Have it form a cluster with these when it is started for the first time."""
        names = [node.node_name for node in nodes]
        lines = ["cluster_formation.peer_discovery_backend = classic_config"]
        lines += [f"cluster_formation.classic_config.nodes.{n} = {name}" for n, name in enumerate(names, start=1)]
        with (self.data / "rabbitmq.conf").open("a") as file:
            file.write("\n".join([*lines, ""]))

    def tool(self, program: str, *arguments: str) -> str:
        """Run one of RabbitMQ's own tools (``rabbitmqctl``, ``rabbitmq-streams``) on this node."""
        path = next(self.prefix.glob(f"usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/{program}"))
        return run([path, "--quiet", "--node", self.node_name, *arguments], env=self._env, folder=self.data, seconds=60)

    def processes(self) -> list[Process]:
        return [self._process] if self._process else []

    def _spawn_epmd(self) -> Process:
        raise NotImplementedError("the name server is the cluster's")

    def _spawn(self) -> Process:
        server = next(self.prefix.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"))
        return spawn([server], env=self._env, folder=self.data, output=self.output)


class RabbitMQCluster(Server):
    """Its nodes are killed, stopped and restarted one by one; itself it is the name server that they share.

    Attributes:
        nodes: The three nodes.
    """

    name = "rabbitmq_cluster"

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        cookie, self._epmd_port = secrets.token_hex(16), free_port()
        self.nodes = [Node(data / f"node-{number}", cookie, self._epmd_port) for number in range(3)]
        for node in self.nodes:
            node.meet(self.nodes)

    def env(self) -> dict[str, str]:
        return self.nodes[0].env()

    @property
    def stream_url(self) -> str:
        """The broker's URL, with all nodes in it."""
        hosts = ",".join(f"127.0.0.1:{node.stream_port}" for node in self.nodes)
        return f"rabbitmq-stream://guest:guest@{hosts}/%2F"

    def start(self) -> None:
        """Start the name server and all nodes, and wait until they have met."""
        super().start()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.start, self.nodes))
        wait_until(lambda: all(self._has_met(node) for node in self.nodes), 60)

    def _has_met(self, node: Node) -> bool:
        status = node.tool("rabbitmqctl", "cluster_status")
        running = status.partition("Running Nodes")[2].partition("Versions")[0]
        return all(each.node_name in running for each in self.nodes)

    def _spawn(self) -> Process:
        program = next(unpacked(BUNDLE).glob("usr/lib/erlang/erts-*/bin/epmd"))
        return spawn([program], env=self.nodes[0].environment, folder=self.data, output=self.output)

    def answers(self) -> bool:
        return probes.connects(f"127.0.0.1:{self._epmd_port}")

    def stop(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Node.stop, self.nodes))
        super().stop()


def start_rabbitmq_cluster(data: Path) -> RabbitMQCluster:
    """A cluster of one's own, its data under `data`."""
    cluster = RabbitMQCluster(data)
    cluster.start()
    return cluster
