"""The broker's URL, and the one that the environment spells."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors import BrokerRefused
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from pipeline_plugins.rabbitmq_streams.url import Address, parse_url, url_from_environment

texts = st.text(min_size=1, max_size=20)


def test_a_url_with_everything_is_taken_apart() -> None:
    url = (
        "rabbitmq-stream+tls://us%40er:p%2Fa%3Ass@broker.example:5999/ev%2Fents"
        "?ca=/etc/ca.pem&cert=me.pem&key=me.key&verify=false&server_name=rabbit&heartbeat=3&load_balancer=true"
    )
    assert parse_url(url) == Address(
        host="broker.example",
        port=5999,
        user="us@er",
        password="p/a:ss",
        vhost="ev/ents",
        tls=True,
        ca="/etc/ca.pem",
        cert="me.pem",
        key="me.key",
        verify=False,
        server_name="rabbit",
        heartbeat=3,
        load_balancer=True,
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rabbitmq-stream://localhost", Address("localhost", 5552)),
        ("rabbitmq-stream://localhost/", Address("localhost", 5552)),
        ("rabbitmq-stream://localhost/%2F", Address("localhost", 5552)),
        ("rabbitmq-stream+tls://localhost", Address("localhost", 5551, tls=True)),
        ("rabbitmq-stream://[::1]:1/v", Address("::1", 1, vhost="v")),
        ("rabbitmq-stream://me:@h", Address("h", 5552, user="me", password="")),
        ("rabbitmq-stream://a,b:1,[::1]:2/v", Address("a", 5552, vhost="v", others=(("b", 1), ("::1", 2)))),
        ("rabbitmq-stream+tls://u:p@[::1],b", Address("::1", 5551, "u", "p", tls=True, others=(("b", 5551),))),
    ],
)
def test_what_a_url_leaves_out_has_a_default(url: str, expected: Address) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("amqp://localhost", "'amqp'"),
        ("rabbitmq-stream:///v", "names no host"),
        ("rabbitmq-stream://a,,b", "one of its hosts is empty"),
        ("rabbitmq-stream://a,b:99999", "[Pp]ort"),
        ("rabbitmq-stream://h:99999", "[Pp]ort"),
        ("rabbitmq-stream://h:abc", "[Pp]ort"),
        ("rabbitmq-stream://h/a/b", "%2F"),
        ("rabbitmq-stream://u:p@a,u:p@b", "more than one '@'"),
        ("rabbitmq-stream://u:pa#ss@h", "%23|no host|[Pp]ort"),
        ("rabbitmq-stream://h?heartbet=3", "did you mean 'heartbeat'"),
        ("rabbitmq-stream://h?colour=red", "ca, cert, key"),
        ("rabbitmq-stream://h?heartbeat=0", "whole seconds"),
        ("rabbitmq-stream://h?heartbeat=soon", "whole seconds"),
        ("rabbitmq-stream://h?load_balancer=maybe", "true or false"),
        ("rabbitmq-stream://h?ca=x.pem", "rabbitmq-stream\\+tls"),
        ("rabbitmq-stream+tls://h?ca=", "empty"),
        ("rabbitmq-stream+tls://h?key=k.pem", "needs 'cert'"),
    ],
)
def test_a_wrong_url_is_refused_with_what_is_wrong(url: str, message: str) -> None:
    with pytest.raises(BrokerRefused, match=message):
        RabbitMQStreamsConnector(url)


@pytest.mark.parametrize(
    "url",
    [
        "rabbitmq-stream://u:s3cret@", "rabbitmq-stream://u:s3cret@h/a/b", "x://u:s3cret@h",
        "rabbitmq-stream://u:s3cret/more@h", "rabbitmq-stream://u:s3cret@a,u:s3cret@b",
    ],
)  # fmt: skip
def test_a_refusal_never_shows_the_password(url: str) -> None:
    with pytest.raises(BrokerRefused) as refused:
        parse_url(url)
    assert "s3cret" not in str(refused.value)


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    address = parse_url(f"rabbitmq-stream+tls://h?ca={tmp_path}/none.pem")
    with pytest.raises(BrokerRefused, match=r"none\.pem"):
        address.tls_context()


@given(host=st.just("broker"), user=texts, password=texts, vhost=texts)
def test_any_user_password_and_vhost_survive_the_environment(host: str, user: str, password: str, vhost: str) -> None:
    environ = {
        "RABBITMQ_HOST": host,
        "RABBITMQ_USER": user,
        "RABBITMQ_PASS": password,
        "RABBITMQ_VHOST": vhost,
    }
    found = url_from_environment(environ)
    assert found is not None
    assert parse_url(found[0]) == Address(host, 5552, user, password, vhost)
    assert found[1] == "RABBITMQ_HOST, RABBITMQ_USER, RABBITMQ_PASS, RABBITMQ_VHOST"


def test_without_a_host_the_environment_spells_no_url() -> None:
    assert RabbitMQStreamsConnector.url_from_environment({"RABBITMQ_USER": "u", "RABBITMQ_HOST": ""}) is None


def test_the_environment_spells_tls_port_and_authority() -> None:
    environ = {
        "RABBITMQ_HOST": "::1",
        "RABBITMQ_STREAM_PORT": "27251",
        "RABBITMQ_TLS": "true",
        "RABBITMQ_CA": "/etc/my ca.pem",
    }
    found = url_from_environment(environ)
    assert found is not None
    assert parse_url(found[0]) == Address("::1", 27251, tls=True, ca="/etc/my ca.pem")
    assert found[1] == "RABBITMQ_HOST, RABBITMQ_STREAM_PORT, RABBITMQ_TLS, RABBITMQ_CA"


def test_the_environment_spells_several_nodes_of_a_cluster() -> None:
    found = url_from_environment({"RABBITMQ_HOST": "a, b,::1", "RABBITMQ_STREAM_PORT": "27251"})
    assert found is not None
    assert parse_url(found[0]).nodes == (("a", 27251), ("b", 27251), ("::1", 27251))


def test_the_node_to_try_first_can_be_chosen_and_none_is_forgotten() -> None:
    address = parse_url("rabbitmq-stream://a,b,c")
    assert address.at(("b", 5552)).nodes == (("b", 5552), ("a", 5552), ("c", 5552))
    assert address.at(("b", 5552)).node == "b:5552"


def test_an_unclear_switch_in_the_environment_is_refused() -> None:
    with pytest.raises(BrokerRefused, match="RABBITMQ_TLS is 'perhaps'"):
        url_from_environment({"RABBITMQ_HOST": "h", "RABBITMQ_TLS": "perhaps"})
