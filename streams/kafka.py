"""How every client of ours reaches Kafka: connection arguments from the settings, patience with an absent broker."""

import asyncio
import math
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, NodeNotReadyError, UnknownError
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.structs import OffsetAndMetadata

from streams.settings import Settings

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 5.0
POLL_MS = 500
STOP_S = 0.5
TRANSACTION_MS = 10_000
"""What a killed transaction holds up its readers at most, with 10 s until the broker looks
(transaction.abort.timed.out.transaction.cleanup.interval.ms)."""
MOST_REQUEST_BYTES = 100 * 2**20
"""Brokers take no larger request (socket.request.max.bytes); how large a record may be is for its topic to say."""


class KafkaUnreachableError(Exception):
    """No broker answered within `broker_wait_s`; the text says which, and what to check."""


def connection(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that every aiokafka client takes."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol.endswith("SSL"):
        arguments["ssl_context"] = ssl_context(settings)
    if settings.sasl_password and settings.security_protocol.startswith("SASL"):
        arguments["sasl_mechanism"] = settings.sasl_mechanism
        arguments["sasl_plain_username"] = settings.sasl_username
        arguments["sasl_plain_password"] = settings.sasl_password.get_secret_value()
    return arguments


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """The brokers' names are checked; own certificate where one is set."""
    context: ssl.SSLContext = create_ssl_context(
        cafile=settings.ssl_cafile, certfile=settings.ssl_certfile, keyfile=settings.ssl_keyfile
    )
    return context


async def wait_for_broker(settings: Settings, say: Callable[[str], None]) -> None:
    """Return once Kafka answers; meanwhile tell `say` how long we have been waiting.

    Raises `KafkaUnreachableError` after `broker_wait_s`.
    """
    where = ",".join(settings.bootstrap_servers)
    loop = asyncio.get_running_loop()
    started, pause = loop.time(), FIRST_RETRY_S
    while (error := await _attempt(settings)) is not None:
        waited = loop.time() - started
        if waited + pause > settings.broker_wait_s:
            is_plain = settings.security_protocol == "PLAINTEXT"
            raise KafkaUnreachableError(
                f"no Kafka at {where} for {waited:.0f} s ({error}): is it running, and "
                + ("is" if is_plain else "are the login, the certificates and")
                + " PORTWATCH_BOOTSTRAP_SERVERS right?"
            )
        say(f"waiting for Kafka at {where} ({waited:.0f} s)...")
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_RETRY_S)


async def _attempt(settings: Settings) -> KafkaError | None:
    try:
        async with admin_client(settings) as admin:
            await admin.describe_cluster()  # one that is starting answers, but knows of no broker, not even of itself
    except (KafkaConnectionError, NodeNotReadyError) as error:
        return error
    return None


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**connection(settings))
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def topics_all_brokers_know(settings: Settings) -> set[str]:
    """Names that every broker of the cluster shows now, where the admin client would ask any one of them.

    A broker that is gone, but not yet missed by the others, has no say.
    """
    client = AIOKafkaClient(**connection(settings))
    answers: list[set[str]] = []
    try:
        await client.bootstrap()
        for broker in client.cluster.brokers():
            with suppress(KafkaConnectionError, NodeNotReadyError):
                metadata = (await client.send(broker.nodeId, MetadataRequest())).to_object()
                answers.append({entry["topic"] for entry in metadata["topics"]})
    finally:
        await client.close()
    return answers[0].intersection(*answers) if answers else set()


async def started_producer(settings: Settings, **options: Any) -> AIOKafkaProducer:  # noqa: ANN401 - aiokafka's own
    """A producer that loses and reorders nothing, and retries until Kafka is back; stop it.

    Idempotent, except on the embedded broker, which refuses that: there a retry may repeat a record and ends after
    40 s, which every reader of ours stands.
    """
    for is_idempotent in (True, False):
        producer = AIOKafkaProducer(**connection(settings), acks="all", enable_idempotence=is_idempotent, **options)
        try:
            await producer.start()
        except UnknownError:
            await producer.stop()
            if not is_idempotent:
                raise
        except BaseException:
            await producer.stop()
            raise
        else:
            if is_idempotent:
                # Or what waits for a leader, as after a broker was away, is given up 40 s after it was handed over.
                producer._message_accumulator._batch_ttl = math.inf  # noqa: SLF001 - as in worker.offsets
            return producer
    raise AssertionError  # the second turn returns or raises


@asynccontextmanager
async def producer_client(
    settings: Settings,
    **options: Any,  # noqa: ANN401 - as above
) -> AsyncIterator[AIOKafkaProducer]:
    """The same, stopped at the end. What has to arrive is awaited inside the block."""
    producer = await started_producer(settings, **options)
    try:
        yield producer
    finally:
        await _stop(producer)


class NoTransactionsError(Exception):
    """The broker refuses transactions, as the embedded one does."""


@asynccontextmanager
async def transactional_producer(settings: Settings, transactional_id: str) -> AsyncIterator[AIOKafkaProducer]:
    """A producer of transactions, stopped at the end.

    When the block begins, every earlier producer of that id is fenced (`ProducerFenced` in its next call, as after
    TRANSACTION_MS without an end) and what it had begun is rolled back. Raises `NoTransactionsError`.
    """
    producer = AIOKafkaProducer(
        **connection(settings),
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_MS,
        max_request_size=MOST_REQUEST_BYTES,
    )
    try:
        try:
            await producer.start()
        except UnknownError:
            raise NoTransactionsError(f"{','.join(settings.bootstrap_servers)} has no transactions") from None
        yield producer
    finally:
        await _stop(producer)


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(STOP_S):
            await producer.stop()
    except TimeoutError:  # Kafka is away; it would wait without end for what is still on its way
        await producer._sender.close()  # noqa: SLF001 - what is left of `stop` behind that wait
        await producer.client.close()


async def send(producer: AIOKafkaProducer, topic: str, **record: Any) -> "asyncio.Future[Any]":  # noqa: ANN401 - aiokafka's own
    """Hand a record over and return the future of its acknowledgement, however long Kafka is away.

    `AIOKafkaProducer.send` itself gives up when the partition has had no place for a record for 40 s.
    """
    while True:
        with suppress(KafkaTimeoutError):
            sent: asyncio.Future[Any] = await producer.send(topic, **record)
            return sent


@asynccontextmanager
async def consumer_client(settings: Settings, group_id: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without automatic commits; the caller assigns partitions itself."""
    consumer = AIOKafkaConsumer(
        **connection(settings), group_id=group_id, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        await consumer.start()
        yield consumer
    finally:
        await end_fetches(consumer)
        await consumer.stop()


async def end_fetches(consumer: AIOKafkaConsumer) -> None:
    """Before `consumer.stop()`, which ends fetches too, but lets the CancelledError of one that was about to try again
    out, as if its caller had been cancelled."""
    if fetcher := consumer._fetcher:  # noqa: SLF001 - as in worker.offsets
        tasks = [fetcher._fetch_task, *fetcher._pending_tasks]  # noqa: SLF001 - as above
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        fetcher._pending_tasks.clear()  # noqa: SLF001 - as above


async def committed(
    consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """What the consumer's group has committed for each partition; those without a commit are absent."""
    # The admin client's question takes 'coordinator is loading' for 'nothing committed'; this one asks again.
    found = await consumer._coordinator.fetch_committed_offsets(partitions)  # noqa: SLF001 - as in worker.offsets
    return dict(found)


async def records_to_end(consumer: AIOKafkaConsumer) -> AsyncIterator[ConsumerRecord]:
    """The records of the assigned partitions, from where the consumer stands to where they end now."""
    ends = await consumer.end_offsets(consumer.assignment())
    while open_partitions := [p for p, end in ends.items() if await consumer.position(p) < end]:
        batches = await consumer.getmany(*open_partitions, timeout_ms=POLL_MS)
        for partition, records in batches.items():
            for record in records:
                if record.offset < ends[partition]:
                    yield record
