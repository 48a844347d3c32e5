"""The registry over a real broker: what is published is what followers hold, whole or not at all."""

import asyncio
import json

import pytest

from detectors.registry import Campaign, Enterprise, Filing, PortLease, Registry
from streams import topics
from streams.kafka import producer_client
from streams.registry import RegistryError, build
from streams.registry_topics import MARK_KEY, RegistryFollower, load_topics, publish
from streams.settings import Settings, load_settings
from tests.conftest import Broker

pytestmark = pytest.mark.kafka  # the embedded broker tells a wrong end of a partition after a batch of several records

SINCE_MS, TO_MS = 1_780_000_000_000, 1_790_000_000_000
LEASES = [
    PortLease(access_port="10690010", lessee_id="A", effective_to=SINCE_MS),
    PortLease(access_port="10690010", lessee_id="B", effective_from=SINCE_MS),
    PortLease(access_port="10690020", lessee_id="C"),
]
FILINGS = [Filing(access_port="10690010", signature="某某科技", extension="01")]
FULL = build(
    LEASES,
    FILINGS,
    [Enterprise(enterprise_id="A", name="某某科技有限公司")],
    [
        Campaign(access_port="10690010", since=SINCE_MS, to=TO_MS, expected_recipients=5),
        Campaign(lessee_id="A", since=SINCE_MS, to=TO_MS, expected_recipients=6),
    ],
)


@pytest.fixture
async def settings(kafka: Broker, topic_prefix: str) -> Settings:
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix, partitions=1)
    await topics.create(settings)
    return settings


async def send(settings: Settings, topic: topics.Topic, key: str | bytes, value: object) -> None:
    async with producer_client(settings) as producer:
        await producer.send_and_wait(
            settings.topic_prefix + topic.name,
            None if value is None else json.dumps(value).encode(),
            key=key if isinstance(key, bytes) else key.encode(),
        )


async def until(follower: RegistryFollower, version: str) -> Registry:
    async with asyncio.timeout(20):
        while follower.registry.version != version:  # noqa: ASYNC110 - it has no event for a swap, nobody needs one
            await asyncio.sleep(0.05)
    return follower.registry


async def test_what_is_published_is_what_the_topics_hold(settings: Settings) -> None:
    assert await publish(FULL, settings) == {"sent": 6}

    held = await load_topics(settings, timeout_s=20)

    assert held.version == FULL.version
    assert held.ports == FULL.ports  # both rows of one port: compaction must not eat its history
    assert (held.filings, held.enterprises, held.campaigns) == (FULL.filings, FULL.enterprises, FULL.campaigns)


async def test_publishing_again_sends_nothing_and_vanished_rows_are_deleted(settings: Settings) -> None:
    smaller = build(LEASES[:2], FILINGS, FULL.enterprises, [])
    await publish(FULL, settings)

    assert await publish(FULL, settings) == {"unchanged": 6}
    assert await publish(smaller, settings) == {"unchanged": 3, "deleted": 3}
    assert (await load_topics(settings, timeout_s=20)).version == smaller.version


async def test_a_follower_swaps_whole_loads_in(settings: Settings) -> None:
    async with RegistryFollower(settings) as follower:
        await follower.loaded()
        assert follower.registry.is_empty  # nothing was ever published

        await publish(FULL, settings)
        first = await until(follower, FULL.version)
        smaller = build(LEASES[:1], [], [], [])
        await publish(smaller, settings)
        await until(follower, smaller.version)

        assert first.ports == FULL.ports  # a snapshot never changes
        assert follower.age_s < 5


async def test_a_load_that_broke_off_is_not_used(settings: Settings) -> None:
    mark = {"state": "begun", "version": "x"}
    async with RegistryFollower(settings) as follower:
        await publish(FULL, settings)
        await until(follower, FULL.version)
        await send(settings, topics.PORTS, MARK_KEY, mark)
        await send(settings, topics.PORTS, "10690020", None)
        await asyncio.sleep(1.5)

        assert follower.registry.version == FULL.version
        assert "broke off" in follower.state
        with pytest.raises(RegistryError, match=r"not whole after 2 s .*broke off"):
            await load_topics(settings, timeout_s=2)

        assert await publish(FULL, settings) == {"sent": 1, "unchanged": 5}
        await asyncio.sleep(1.5)
        assert follower.state == "loaded"


async def test_rows_from_a_source_without_marks_are_used_once_read_to_the_end(settings: Settings) -> None:
    await send(settings, topics.PORTS, "10690010", {"access_port": "10690010", "carrier": "mobile"})

    held = await load_topics(settings, timeout_s=20)

    assert held.ports == (PortLease(access_port="10690010", carriers=("mobile",)),)


@pytest.mark.parametrize(
    "value",
    ["text", [{"access_port": "x"}], [{"access_port": "10690020"}, {"access_port": "10690020"}]],
    ids=["no row", "bad row", "overlapping rows"],
)
async def test_a_bad_record_is_counted_and_leaves_its_key_alone(settings: Settings, value: object) -> None:
    await publish(FULL, settings)
    await send(settings, topics.PORTS, "10690020", value)

    async with RegistryFollower(settings) as follower:
        await follower.loaded()
        assert (follower.bad_keys, follower.registry.version) == (1, FULL.version)
        repaired = build([*LEASES[:2], PortLease(access_port="10690020")], FILINGS, FULL.enterprises, FULL.campaigns)
        await send(settings, topics.PORTS, "10690020", {"access_port": "10690020"})
        await until(follower, repaired.version)
        assert follower.bad_keys == 0


async def test_missing_topics_are_named(kafka: Broker, topic_prefix: str) -> None:
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix)
    with pytest.raises(RegistryError, match=r"sms\.registry\.ports\.v1: has 0 partitions, must be 1"):
        await publish(FULL, settings)
