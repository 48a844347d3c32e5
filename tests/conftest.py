"""Servers and names that many tests share. A server starts once, for the first test that asks for it."""

import os
import secrets
from collections.abc import Iterator
from typing import Protocol

import pytest

from streams.embedded import EmbeddedBroker
from tests.servers import Alertmanager, ApacheKafka, Prometheus

SCRAPE_NOTHING = "scrape_configs: []\n"
TELL_NOBODY = "route: {receiver: nobody}\nreceivers: [{name: nobody}]\n"


class Broker(Protocol):
    """What a test may know of the `broker` fixture."""

    bootstrap: str


def require(missing: str | None) -> None:
    """Skip the test for a missing server; where PORTWATCH_REQUIRE_SERVERS=1 promises all of them, fail it."""
    if missing is None:
        return
    if os.environ.get("PORTWATCH_REQUIRE_SERVERS") == "1":
        pytest.fail(f"PORTWATCH_REQUIRE_SERVERS=1, but {missing}", pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def kafka() -> Iterator[ApacheKafka]:
    """Apache Kafka, shared: tests use `topic_prefix`. A test that restarts or kills one starts its own ApacheKafka."""
    require(ApacheKafka.missing())
    with ApacheKafka() as server:
        yield server


@pytest.fixture(scope="session")
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Apache Kafka where it can run, otherwise the embedded broker: for tests that need some broker, not that one."""
    if ApacheKafka.missing() is None or os.environ.get("PORTWATCH_REQUIRE_SERVERS") == "1":
        yield request.getfixturevalue("kafka")
        return
    with EmbeddedBroker() as embedded:
        yield embedded


@pytest.fixture(scope="session")
def prometheus() -> Iterator[Prometheus]:
    """Prometheus, scraping nothing until a test calls its `reload`."""
    require(Prometheus.missing())
    with Prometheus(SCRAPE_NOTHING) as server:
        yield server


@pytest.fixture(scope="session")
def alertmanager() -> Iterator[Alertmanager]:
    """Alertmanager, telling nobody until a test calls its `reload`."""
    require(Alertmanager.missing())
    with Alertmanager(TELL_NOBODY) as server:
        yield server


@pytest.fixture
def topic_prefix() -> str:
    """A beginning for the names of topics and groups that no other test has."""
    return f"t{secrets.token_hex(6)}."
