"""The dead letter queue on a real broker: what is shown, and that a replay sends exactly what was chosen, once."""

from collections.abc import Sequence

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streams import dlq, topics
from streams.contract import DeadLetter, RejectReason
from streams.dlq import Choice, Replayed
from streams.kafka import consumer_client, producer_client, records_to_end
from streams.settings import Settings, load_settings
from tests.conftest import Broker

NOT_JSON, BAD_PORT = RejectReason.NOT_JSON, RejectReason.BAD_PORT
pytestmark = pytest.mark.kafka  # the embedded broker keeps no metadata beside a committed offset

LOGGED_MS = 1_790_000_000_000


@pytest.fixture
async def settings(kafka: Broker, topic_prefix: str) -> Settings:
    settings = load_settings(
        bootstrap_servers=(kafka.bootstrap,),
        topic_prefix=topic_prefix,
        group_id=f"{topic_prefix}portwatch",
        partitions=2,
    )
    await topics.create(settings)
    return settings


async def reject(settings: Settings, reasons: Sequence[RejectReason], partition: int = 0) -> None:
    """Dead letters with values b'0', b'1', ... of key 10690010, from partition 1 of the input."""
    async with producer_client(settings) as producer:
        for number, reason in enumerate(reasons):
            letter = DeadLetter(
                reason=reason, error="line 1", topic="in", partition=1, offset=40 + number, timestamp_ms=LOGGED_MS
            )
            await producer.send_and_wait(
                f"{settings.topic_prefix}sms.submit.v1.dlq",
                str(number).encode(),
                key=b"10690010",
                partition=partition,
                headers=[*letter.headers.items(), ("content-type", b"application/x-ndjson")],
            )


async def submitted(settings: Settings) -> list[ConsumerRecord]:
    async with consumer_client(settings) as consumer:
        consumer.assign([TopicPartition(f"{settings.topic_prefix}sms.submit.v1", number) for number in range(2)])
        return [record async for record in records_to_end(consumer)]


async def values(settings: Settings) -> list[bytes | None]:
    return sorted(record.value for record in await submitted(settings))


async def test_a_replayed_record_is_the_original_and_says_how_often_it_was_replayed(settings: Settings) -> None:
    await reject(settings, [NOT_JSON])

    assert (await dlq.replay(settings, Choice())).sent == {"not-json": 1}

    (record,) = await submitted(settings)
    assert (record.key, record.value, record.timestamp) == (b"10690010", b"0", LOGGED_MS)
    assert dict(record.headers) == {"content-type": b"application/x-ndjson", "dlq.replayed": b"1"}


async def test_a_second_replay_sends_nothing_twice(settings: Settings) -> None:
    await reject(settings, [NOT_JSON] * 3)
    await reject(settings, [BAD_PORT] * 2, partition=1)

    assert (await dlq.replay(settings, Choice())).sent == {"not-json": 3, "bad-port": 2}
    assert (await dlq.replay(settings, Choice())).sent == {}
    await reject(settings, [NOT_JSON])
    assert (await dlq.replay(settings, Choice())).sent == {"not-json": 1}

    assert await values(settings) == [b"0", b"0", b"0", b"1", b"1", b"2"]


async def test_reasons_are_replayed_apart_and_none_is_forgotten(settings: Settings) -> None:
    await reject(settings, [NOT_JSON, BAD_PORT, NOT_JSON, BAD_PORT])

    assert (await dlq.replay(settings, Choice(reasons=frozenset({"bad-port"})))).sent == {"bad-port": 2}
    assert await values(settings) == [b"1", b"3"]
    assert (await dlq.replay(settings, Choice())).sent == {"not-json": 2}
    assert await values(settings) == [b"0", b"1", b"2", b"3"]


async def test_a_range_is_replayed_and_what_lies_around_it_stays_to_be_replayed(settings: Settings) -> None:
    await reject(settings, [NOT_JSON] * 6)

    assert (await dlq.replay(settings, Choice(partition=0, start=2, end=4))).sent == {"not-json": 2}
    assert await values(settings) == [b"2", b"3"]
    assert (await dlq.replay(settings, Choice())).sent == {"not-json": 4}
    assert await values(settings) == [b"0", b"1", b"2", b"3", b"4", b"5"]


async def test_a_person_may_reset_the_group_with_other_tools(settings: Settings) -> None:
    await reject(settings, [NOT_JSON] * 3)
    partition = TopicPartition(f"{settings.topic_prefix}sms.submit.v1.dlq", 0)
    assert (await dlq.replay(settings, Choice())).sent == {"not-json": 3}

    async with consumer_client(settings, f"{settings.group_id}-dlq-replay") as consumer:
        consumer.assign([partition])
        await consumer.commit({partition: 1})

    assert (await dlq.replay(settings, Choice())).sent == {"not-json": 2}


async def test_a_replay_longer_than_a_chunk_sends_all(settings: Settings) -> None:
    count = dlq.CHUNK + 3
    await reject(settings, [NOT_JSON] * count)

    assert (await dlq.replay(settings, Choice())).sent == {"not-json": count}
    assert await values(settings) == sorted(str(number).encode() for number in range(count))


async def test_show_counts_all_reasons_and_lists_the_newest_of_the_chosen(settings: Settings) -> None:
    await reject(settings, [NOT_JSON, BAD_PORT, NOT_JSON, NOT_JSON])

    overview = await dlq.show(settings, Choice(reasons=frozenset({"not-json"})), limit=2)

    assert overview.counts == {"not-json": 3, "bad-port": 1}
    assert [(letter.offset, letter.origin) for letter in overview.newest] == [(2, "in/1@42"), (3, "in/1@43")]


async def test_show_hides_content_unless_asked_and_never_lets_it_steer_the_terminal(settings: Settings) -> None:
    content = '{"to":"13800138000","text":"【某某】\x1b[31m码[bold]"}'.encode()
    async with producer_client(settings) as producer:
        await producer.send_and_wait(f"{settings.topic_prefix}sms.submit.v1.dlq", content, key=b"\x1b]0;x")

    overview = await dlq.show(settings, Choice(), limit=1)

    hidden, shown = (_printed(overview, with_content=with_content) for with_content in (False, True))
    assert "13800138000" not in hidden
    assert "某" not in hidden
    assert '{"xx":"00000000000"' in hidden
    assert '"text":"【某某】\\x1b[31m码[bold]"' in shown
    assert "\x1b" not in hidden + shown


async def test_a_partition_that_is_not_there_is_named(settings: Settings) -> None:
    with pytest.raises(dlq.DeadLetterError, match=r"partition: 2: .*sms\.submit\.v1\.dlq has 0 to 1"):
        await dlq.replay(settings, Choice(partition=2))


async def test_a_missing_topic_is_named(kafka: Broker, topic_prefix: str) -> None:
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix)
    with pytest.raises(dlq.DeadLetterError, match=f"no topic {topic_prefix}sms.submit.v1.dlq"):
        await dlq.show(settings, Choice(), limit=1)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8))))
def test_ranges_hold_exactly_what_was_added(added: list[tuple[int, int]]) -> None:
    replayed = Replayed()
    for start, length in added:
        replayed.add("not-json", start, start + length)
    held = {offset for start, length in added for offset in range(start, start + length)}

    again = Replayed(str(replayed))
    assert {offset for offset in range(40) if again.has("not-json", offset)} == held
    assert not any(again.has("bad-port", offset) for offset in range(40))


def _printed(overview: dlq.Overview, *, with_content: bool) -> str:
    console = Console(width=300, record=True, color_system=None)
    with console.capture() as capture:
        console.print(*dlq.tables(overview, with_content=with_content))
    return capture.get()
