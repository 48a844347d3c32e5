"""The gateway that tests send through, and the cluster that feeds write to."""

from collections.abc import Iterator

import pytest

from streams import topics
from streams.settings import Settings, load_settings
from tests.conftest import Broker, require
from tests.gateway.kannel import Kannel
from tests.gateway.submitted import PARTITIONS


@pytest.fixture
def kannel() -> Iterator[Kannel]:
    """A Kannel of its own for each test (it starts within a second), with an empty access log."""
    require(Kannel.missing())
    with Kannel() as gateway:
        yield gateway


@pytest.fixture
async def settings(broker: Broker, topic_prefix: str) -> Settings:
    """Settings of a cluster whose topics exist and are empty."""
    settings = load_settings(bootstrap_servers=(broker.bootstrap,), topic_prefix=topic_prefix, partitions=PARTITIONS)
    await topics.create(settings)
    return settings
