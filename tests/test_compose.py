"""The Compose files: valid by the Compose specification, pinned, on loopback only, in step with the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "docker-compose.yml", ROOT / "tests/services/compose.yml"]
OWN_IMAGE = "pipeline-runner"


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def compose(request: pytest.FixtureRequest) -> Any:
    return yaml.safe_load(request.param.read_text())


@pytest.fixture
def services() -> Any:
    return yaml.safe_load(FILES[0].read_text())["services"]


def test_is_valid_by_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_image_has_a_full_version(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"[a-z/-]+:\d+(\.\d+)+", service["image"]), f"{name}: {service['image']}"


def test_base_images_have_a_full_version() -> None:
    images = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert images
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", image) for image in images)


def test_ports_are_on_loopback_only(compose: Any) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports), ports


def test_every_server_has_a_health_check_and_named_volumes_exist(compose: Any) -> None:
    for name, service in compose["services"].items():
        if not service["image"].startswith(OWN_IMAGE):
            assert "healthcheck" in service, name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source.startswith((".", "$")) or source in compose["volumes"], volume


def test_the_runner_waits_for_what_it_needs(services: Any) -> None:
    conditions = {name: needed["condition"] for name, needed in services["runner"]["depends_on"].items()}
    assert conditions.pop("migrate") == "service_completed_successfully"
    assert conditions == dict.fromkeys(("rabbitmq", "postgres", "redis", "temporal"), "service_healthy")


def test_no_password_without_a_variable() -> None:
    for file in FILES:
        for line in file.read_text().splitlines():
            if re.search(r"^\s*\w*PASS(WORD)?\w*:", line):
                assert "${" in line, line


def test_the_image_gets_all_that_the_wheel_is_made_of() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in ("pyproject.toml", "README.md", "LICENSE", "pipeline", "handlers", "plugins", "pipeline.toml"):
        assert f"!{name}" in ignored, name
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", dockerfile, re.MULTILINE), name


def test_the_runner_is_told_by_names_that_the_configuration_reads(services: Any) -> None:
    source = "\n".join(path.read_text() for folder in ("pipeline", "plugins") for path in (ROOT / folder).rglob("*.py"))
    for name in services["runner"]["environment"]:
        assert name in source, f"nothing reads {name}"
