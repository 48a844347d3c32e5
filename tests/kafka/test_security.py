"""Kafka as operators run it: TLS with a certificate of their own authority, and a login."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streams import topics
from streams.embedded import free_port
from streams.kafka import KafkaUnreachableError, wait_for_broker
from streams.settings import Settings, load_settings
from tests.conftest import require
from tests.servers import ApacheKafka

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The settings that reach a broker which wants TLS and a login."""
    require(ApacheKafka.missing())
    require(None if shutil.which("openssl") else "certificates need openssl: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=broker",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "keystore.pem").write_text(key.read_text() + certificate.read_text())
    server, address = ApacheKafka(), f"127.0.0.1:{free_port()}"
    server._properties |= {
        "listeners": f"{server._properties['listeners']},SASL_SSL://{address}",
        "advertised.listeners": f"{server._properties['advertised.listeners']},SASL_SSL://{address}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_ssl.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
        'required user_portwatch="mellon";',
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "keystore.pem"),
    }
    with server:
        yield {
            "bootstrap_servers": (address,),
            "security_protocol": "SASL_SSL",
            "sasl_username": "portwatch",
            "sasl_password": "mellon",
            "ssl_cafile": certificate,
            "partitions": 1,
            "broker_wait_s": 0.0,
        }


async def test_the_right_login_and_authority_get_in(secured: dict[str, Any]) -> None:
    settings = load_settings(**secured)

    await wait_for_broker(settings, lambda _: None)
    assert len(await topics.create(settings)) == len(topics.ALL)
    assert await topics.check(settings) == []


def _with_a_wrong_password(secured: dict[str, Any]) -> Settings:
    return load_settings(**{**secured, "sasl_password": "wrong"})


def _with_the_systems_authorities(secured: dict[str, Any]) -> Settings:
    return load_settings(**{**secured, "ssl_cafile": None})


@pytest.mark.parametrize("other", [_with_a_wrong_password, _with_the_systems_authorities])
async def test_anything_else_is_a_foreseen_error(
    secured: dict[str, Any], other: Callable[[dict[str, Any]], Settings]
) -> None:
    with pytest.raises(KafkaUnreachableError, match="are the login, the certificates and ") as refused:
        await wait_for_broker(other(secured), lambda _: None)
    assert "mellon" not in str(refused.value)
