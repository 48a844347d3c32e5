"""The dead letter queue on a real broker: what is shown, and that a replay sends exactly what was chosen, once."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streams import dlq, topics
from streams.contract import DeadLetter, RejectReason
from streams.dlq import Choice, Replayed
from streams.embedded import EmbeddedBroker
from streams.kafka import consumer_client, producer_client, records_to_end
from streams.settings import Settings, load_settings
from tests.conftest import Broker
from tests.running import environment, serving

NOT_JSON, BAD_PORT = RejectReason.NOT_JSON, RejectReason.BAD_PORT
pytestmark = pytest.mark.kafka  # the embedded broker keeps no metadata beside a committed offset

LOGGED_MS = int(time.time() * 1_000) - 3_600_000


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


async def test_what_is_older_than_the_topic_keeps_is_sent_as_young_enough_to_stay(settings: Settings) -> None:
    """Kafka deletes by the timestamps of records: one that is too old may be gone before a worker reads it."""
    letter = DeadLetter(reason=NOT_JSON, error="", topic="in", partition=1, offset=1, timestamp_ms=1_000)
    async with producer_client(settings) as producer:
        topic, headers = f"{settings.topic_prefix}sms.submit.v1.dlq", list(letter.headers.items())
        await producer.send_and_wait(topic, b"0", key=b"k", headers=headers)
    before_ms = int(time.time() * 1_000)
    await dlq.replay(settings, Choice())
    (record,) = await submitted(settings)
    assert 0 <= record.timestamp - (before_ms - 6 * topics.DAY_MS) < 60_000


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


# ---- once, whatever dies


SLOWED = "import streams.dlq, streams.cli; streams.dlq.CHUNK = 20; streams.cli.main()"
"""`portwatch` with so many transactions that there is always one to break."""


@contextmanager
def replaying(settings: Settings) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", SLOWED, "dlq", "replay", "--all"]
    with subprocess.Popen(
        command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def reject_good_ones(settings: Settings, count: int) -> None:
    """Dead letters that are good submits by now, half of them in each partition, one in two without a key."""
    async with producer_client(settings) as producer:
        for number in range(count):
            submit = {"event_id": f"e{number}", "event_time_ms": LOGGED_MS, "access_port": "10690010"}
            letter = DeadLetter(
                reason=BAD_PORT, error="", topic="in", partition=1, offset=number, timestamp_ms=LOGGED_MS
            )
            await producer.send(
                f"{settings.topic_prefix}sms.submit.v1.dlq",
                json.dumps(submit).encode(),
                key=b"10690010" if number % 2 else None,
                partition=number % 2,
                headers=list(letter.headers.items()),
            )
        await producer.flush()


async def written(settings: Settings) -> int:
    """Offsets taken on the submit topic, by records that count and by others."""
    async with consumer_client(settings) as consumer:
        partitions = [TopicPartition(f"{settings.topic_prefix}sms.submit.v1", number) for number in range(2)]
        return sum((await consumer.end_offsets(partitions)).values())


async def until_written(settings: Settings, least: int) -> None:
    async with asyncio.timeout(60):
        while await written(settings) < least:  # noqa: ASYNC110 - a broker has no event to wait for
            await asyncio.sleep(0.01)


async def event_ids(settings: Settings) -> list[str]:
    """Of what readers of committed records see, sorted."""
    partitions = [TopicPartition(f"{settings.topic_prefix}sms.submit.v1", number) for number in range(2)]
    async with AIOKafkaConsumer(
        bootstrap_servers=list(settings.bootstrap_servers),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        consumer.assign(partitions)
        return sorted([json.loads(record.value)["event_id"] async for record in records_to_end(consumer)])


async def test_killed_again_and_again_it_sends_each_letter_once(settings: Settings, tmp_path: Path) -> None:
    count, kills = 2_000, 6
    await reject_good_ones(settings, count)
    random = Random(4)  # noqa: S311 - moments, not secrets
    for _ in range(kills):
        before = await written(settings)
        with replaying(settings) as process:
            await until_written(settings, before + 1)
            await asyncio.sleep(random.uniform(0, 0.3))
            assert process.poll() is None, "it was done before it could be killed"
    uncommitted = len(await submitted(settings))
    assert uncommitted < count

    with replaying(settings) as process:
        _, wrong = await asyncio.to_thread(process.communicate)
    assert (process.returncode, wrong) == (0, "")

    assert await event_ids(settings) == sorted(f"e{number}" for number in range(count))
    (tmp_path / "ports.jsonl").write_text('{"access_port": "10690010"}\n')
    async with serving(settings.model_copy(update={"registry_dir": tmp_path, "http_port": 0})) as (it, _):
        async with asyncio.timeout(60):
            while sum(view.tally.submits_in for view in it.views.values()) < count:  # noqa: ASYNC110 - a view has no event
                await asyncio.sleep(0.1)
        tallies = [view.tally for view in it.views.values()]
    assert sum(tally.counted + tally.late for tally in tallies) == count


async def test_of_two_replays_the_second_takes_over_and_the_first_says_so(settings: Settings) -> None:
    count = 2_000
    await reject_good_ones(settings, count)
    with replaying(settings) as first:
        await until_written(settings, 100)
        with replaying(settings) as second:
            said, wrong = await asyncio.to_thread(second.communicate)
            assert (second.returncode, wrong) == (0, "")
        _, told = await asyncio.to_thread(first.communicate)
    assert first.returncode == 1
    (sent_first,) = map(
        int,
        re.findall(rf"^portwatch: broken off after (\d+) letters by another replay of {settings.group_id}-dlq", told),
    )
    assert told.count("\n") == 1
    assert sent_first % 20 == 0
    assert said == f"{count - sent_first:,} bad-port\n"
    assert await event_ids(settings) == sorted(f"e{number}" for number in range(count))


async def test_replays_started_together_send_each_letter_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dlq, "CHUNK", 20)
    count = 400
    await reject_good_ones(settings, count)
    ends = await asyncio.gather(*[dlq.replay(settings, Choice()) for _ in range(4)], return_exceptions=True)
    assert {type(end) for end in ends} <= {dlq.Replay, dlq.DeadLetterError}
    await dlq.replay(settings, Choice())
    assert await event_ids(settings) == sorted(f"e{number}" for number in range(count))


async def test_replays_in_any_order_of_any_choice_send_each_letter_once(settings: Settings) -> None:
    random = Random(7)  # noqa: S311 - choices, not secrets
    reasons = [random.choice([NOT_JSON, BAD_PORT]) for _ in range(30)]
    await reject(settings, reasons)
    for _ in range(8):
        start = random.randrange(30)
        chosen = frozenset[str](random.sample([NOT_JSON, BAD_PORT], random.randint(0, 2)))
        some = {f"0@{number}": str(number).encode() for number in random.sample(range(30), 4)}
        choice = Choice(chosen, 0, start, start + random.randint(1, 6))
        await dlq.replay(settings, choice, random.choice([None, some]))
    before = await values(settings)
    await dlq.replay(settings, Choice())
    assert 0 < len(before) < 30
    assert await values(settings) == sorted(str(number).encode() for number in range(30))


async def test_a_broker_without_transactions_is_refused() -> None:
    with EmbeddedBroker() as embedded:
        settings = load_settings(bootstrap_servers=(embedded.bootstrap,), partitions=2)
        await topics.create(settings)
        with pytest.raises(dlq.DeadLetterError, match="has no transactions: without them a replay could send a letter"):
            await dlq.replay(settings, Choice())


# ---- repaired records


async def test_corrected_letters_replace_what_was_rejected(settings: Settings, tmp_path: Path) -> None:
    await reject(settings, [NOT_JSON, BAD_PORT, NOT_JSON, NOT_JSON])
    await reject(settings, [NOT_JSON], partition=1)
    assert (await dlq.replay(settings, Choice(partition=0, start=0, end=1))).sent == {"not-json": 1}
    file = tmp_path / "bad.jsonl"

    assert await dlq.export(settings, Choice(reasons=frozenset({"not-json"})), file) == 3

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines == [
        {"letter": place, "reason": "not-json", "error": "line 1", "value": value}
        for place, value in [("0@2", "2"), ("0@3", "3"), ("1@0", "0")]
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    lines[0]["value"], lines[2]["value"] = "gut", "坏"
    file.write_text(json.dumps(lines[0]) + "\n" + json.dumps(lines[2]) + "\n")
    for sent in ({"not-json": 2}, {}):
        assert (await dlq.replay(settings, Choice(), dlq.repaired(file))).sent == sent
    assert await values(settings) == sorted([b"0", b"gut", "坏".encode()])
    assert {record.timestamp for record in await submitted(settings)} == {LOGGED_MS}

    assert (await dlq.replay(settings, Choice())).sent == {"not-json": 1, "bad-port": 1}
    assert await values(settings) == sorted([b"0", b"1", b"3", b"gut", "坏".encode()])


async def test_bytes_that_are_no_text_are_exported_and_come_back(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    async with producer_client(settings) as producer:
        for value in (b"\xff\x00", None, b""):
            await producer.send_and_wait(f"{settings.topic_prefix}sms.submit.v1.dlq", value, key=b"k", partition=0)
    assert await dlq.export(settings, Choice(), file) == 3
    assert (await dlq.replay(settings, Choice(), dlq.repaired(file))).sent == {"other": 3}
    assert await values(settings) == [b"", b"", b"\xff\x00"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"not JSON", "malformed"),
        (b'{"value": "x"}', "letter"),
        (b'{"letter": "0:1", "value": "x"}', "pattern|regex"),
        (b'{"letter": "0@1", "value": 1}', r"Expected `str \| null`"),
        (b"\xff", "malformed"),
        (b'{"letter": "0@0", "value": "x"}', "a second time"),
    ],
)
def test_a_wrong_line_of_repairs_is_named(tmp_path: Path, line: bytes, why: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_bytes(b'{"letter": "0@0", "value": "x"}\n' + line + b"\n")
    with pytest.raises(dlq.DeadLetterError, match=f"bad.jsonl line 2: .*({why})"):
        dlq.repaired(file)


async def test_letters_that_hold_only_a_part_stay(settings: Settings, tmp_path: Path) -> None:
    parts = [{"dlq.reason": b"too-large", "dlq.original.bytes": b"9000000"}, {"dlq.reason": b"corrupt-batch"}]
    async with producer_client(settings) as producer:
        for headers in parts:
            topic = f"{settings.topic_prefix}sms.submit.v1.dlq"
            await producer.send_and_wait(topic, b"part", key=b"k", partition=0, headers=list(headers.items()))
    await reject(settings, [NOT_JSON])

    assert await dlq.export(settings, Choice(), tmp_path / "bad.jsonl") == 1
    done = await dlq.replay(settings, Choice())

    assert (done.sent, done.cut) == ({"not-json": 1}, 2)
    assert await values(settings) == [b"0"]
    assert "4 of 9000000" in _printed(await dlq.show(settings, Choice(), limit=9), with_content=False)


# ---- show


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
