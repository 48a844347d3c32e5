"""Every topic, once: its key, partitions and how long it keeps what; and whether a cluster holds them as they must be.

A worker never creates topics by itself: a cluster where a name is misspelt should say so, not grow a topic.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaTimeoutError, TopicAlreadyExistsError, for_code

from streams.kafka import admin_client, topics_all_brokers_know
from streams.settings import Settings

DAY_MS = 86_400_000
USUAL_REPLICAS = 3
IN_SYNC = 2
"""Copies that must have a record before it counts as written, where there are three or more: one broker may go."""
BROKERS_TIME = "LogAppendTime"
MISSING = "missing"
LARGEST = "max.message.bytes"
USUAL_LARGEST_BYTES = 1_048_588
"""max.message.bytes of a topic that says nothing else."""
ENVELOPE_BYTES = 4_096
"""What a dead letter may add to the record in it: where it comes from and why it is there."""
SHOWN_TRIES, SHOWN_PAUSE_S = 100, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic as it must be. `keep_ms` is the least time its records stay; None for a compacted one.

    `is_single`: one partition, because its few records are read whole and in order; else as many as the settings say.
    What is ours carries the broker's time: since 4.0 a broker refuses records of a writer whose clock is an hour ahead.
    """

    name: str
    key: str
    holds: str
    keep_ms: int | None
    is_single: bool = False
    largest_bytes: int | None = None  # of its record batches; None is what the cluster says
    is_ours: bool = True  # written by portwatch alone

    @property
    def cleanup_policy(self) -> Literal["delete", "compact"]:
        return "delete" if self.keep_ms else "compact"

    def partitions(self, settings: Settings) -> int:
        return 1 if self.is_single else settings.partitions

    def with_prefix(self, prefix: str) -> "Topic":
        return replace(self, name=prefix + self.name)

    def configs(self, replicas: int) -> dict[str, str]:
        """What to set when it is made with so many copies."""
        return {
            "cleanup.policy": self.cleanup_policy,
            **({"retention.ms": str(self.keep_ms)} if self.keep_ms else {}),
            **({LARGEST: str(self.largest_bytes)} if self.largest_bytes else {}),
            **({"message.timestamp.type": BROKERS_TIME} if self.is_ours else {}),
            **({"min.insync.replicas": str(IN_SYNC)} if replicas > IN_SYNC else {}),
        }


SUBMIT = Topic(
    name="sms.submit.v1",
    key="access port",
    holds="submits, one or a block per record",
    keep_ms=7 * DAY_MS,
    is_ours=False,
)
PORTS = Topic(name="sms.registry.ports.v1", key="access port", holds="leases", keep_ms=None, is_single=True)
SIGNATURES = Topic(
    name="sms.registry.signatures.v1", key="full port + signature", holds="filings", keep_ms=None, is_single=True
)
ENTERPRISES = Topic(
    name="sms.registry.enterprises.v1", key="enterprise id", holds="enterprises", keep_ms=None, is_single=True
)
CAMPAIGNS = Topic(
    name="sms.registry.campaigns.v1",
    key="access port or lessee id",
    holds="planned volumes",
    keep_ms=None,
    is_single=True,
)
ALERTS = Topic(name="sms.alerts.v1", key="alert id", holds="lifecycle events (CloudEvents)", keep_ms=90 * DAY_MS)
COMMANDS = Topic(name="sms.commands.v1", key="access port", holds="throttles and releases", keep_ms=7 * DAY_MS)
PANES = Topic(name="sms.panes.v1", key="access port", holds="closed counts per port", keep_ms=30 * DAY_MS)
DEAD_LETTERS = Topic(
    name="sms.submit.v1.dlq",
    key="original key",
    holds="rejected records, original bytes",
    keep_ms=14 * DAY_MS,
    largest_bytes=USUAL_LARGEST_BYTES + ENVELOPE_BYTES,
)
# A pointer in the group's offsets must never outlive what it points to, and Kafka keeps those for 7 days by default
# after the last worker has gone (offsets.retention.minutes). A living worker writes each partition every hour at least.
STATE = Topic(name="portwatch.state.v1", key="partition/chunk", holds="checkpoints, zstd chunks", keep_ms=14 * DAY_MS)

ALL = (SUBMIT, PORTS, SIGNATURES, ENTERPRISES, CAMPAIGNS, ALERTS, COMMANDS, PANES, DEAD_LETTERS, STATE)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing about one topic that is not as it must be."""

    topic: str
    what: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.what}"


def all_with_prefix(settings: Settings) -> list[Topic]:
    return [topic.with_prefix(settings.topic_prefix) for topic in ALL]


async def create(settings: Settings) -> list[str]:
    """Create what is missing, with its partitions, copies and configuration; returns the names created.

    Topics that exist are left as they are (see `check`). Raises the broker's `KafkaError` when it refuses, and
    `KafkaTimeoutError` when it does not show them in time.
    """
    wanted = all_with_prefix(settings)
    async with admin_client(settings) as admin:
        existing = await partition_counts(admin)
        replicas = settings.replication_factor or min(USUAL_REPLICAS, len((await admin.describe_cluster())["brokers"]))
        response = await admin.create_topics(
            [
                NewTopic(topic.name, topic.partitions(settings), replicas, topic_configs=topic.configs(replicas))
                for topic in wanted
                if topic.name not in existing
            ]
        )
        created = []
        for name, code, message in response.topic_errors:
            if code == 0:
                created.append(name)
            elif code != TopicAlreadyExistsError.errno:  # another process was as quick as we
                raise for_code(code)(f"{name}: {message}")
    await _until_shown(settings, {topic.name for topic in wanted})
    return created


async def _until_shown(settings: Settings, names: set[str]) -> None:
    """Each broker learns of a topic a moment after its controller has made it; until then it tells whoever asks
    'unknown', and a client may ask any of them."""
    for _ in range(SHOWN_TRIES):
        if not (missing := names - await topics_all_brokers_know(settings)):
            return
        await asyncio.sleep(SHOWN_PAUSE_S)
    raise KafkaTimeoutError(f"created, but not shown by every broker: {', '.join(sorted(missing))}")


async def partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Partitions of every topic of the cluster. Asking for a topic by name would create it where brokers do that."""
    return {entry["topic"]: len(entry["partitions"]) for entry in await admin.describe_topics()}


class TopicError(Exception):
    """Topics are not as a worker needs them; the text says which, and what to do."""


async def require(settings: Settings, needed: Sequence[Topic]) -> dict[str, int]:
    """The partitions of each by name. Raises `TopicError`, with a line for everything that is wrong, unless all exist
    as a worker needs them."""
    async with admin_client(settings) as admin:
        found = await partition_counts(admin)
    wanted = [topic.with_prefix(settings.topic_prefix) for topic in needed]
    wrong = []
    if missing := [topic.name for topic in wanted if topic.name not in found]:
        wrong.append(f"no topics {', '.join(missing)}: `portwatch topics create` makes them")
    wrong += [
        f"{topic.name}: has {found[topic.name]} partitions, must have 1: delete it, then `portwatch topics create`"
        for topic in wanted
        if topic.is_single and found.get(topic.name, 1) != 1
    ]
    submits, state = (topic.with_prefix(settings.topic_prefix).name for topic in (SUBMIT, STATE))
    if state in found and found[state] < found.get(submits, 0):
        wrong.append(
            f"{state}: has {found[state]} partitions, must have as many as {submits}: {found[submits]} "
            f"(kafka-topics.sh --alter --topic {state} --partitions {found[submits]})"
        )
    if wrong:
        raise TopicError("\n".join(wrong))
    return {topic.name: found[topic.name] for topic in wanted}


def refuse_shrunk(before: Mapping[str, int], now: Mapping[str, int]) -> None:
    """Raise `TopicError` for a topic with fewer partitions than before: it is not the one that records are sent to."""
    for name, partitions in before.items():
        if now[name] < partitions:
            raise TopicError(
                f"{name}: had {partitions} partitions, has {now[name]}: made anew, perhaps by a broker with "
                f"auto.create.topics.enable (kafka-topics.sh --alter --topic {name} --partitions {partitions}, "
                "then `portwatch topics check`)"
            )


async def largest_bytes(settings: Settings, topic: Topic) -> int:
    """Size of the largest record batch that the topic takes now."""
    name = topic.with_prefix(settings.topic_prefix).name
    async with admin_client(settings) as admin:
        return _largest_bytes((await _configs(admin, [name]))[name])


def _largest_bytes(config: Mapping[str, str]) -> int:
    return int(config.get(LARGEST) or USUAL_LARGEST_BYTES)


async def check(settings: Settings) -> list[Difference]:
    """Every difference between the cluster and what must be; empty when all is well. Changes nothing."""
    wanted = all_with_prefix(settings)
    async with admin_client(settings) as admin:
        entries = {entry["topic"]: entry["partitions"] for entry in await admin.describe_topics()}
        configs = await _configs(admin, [topic.name for topic in wanted if topic.name in entries])
    differences = []
    for topic in wanted:
        if topic.name not in entries:
            differences.append(Difference(topic.name, MISSING))
            continue
        found, partitions = entries[topic.name], topic.partitions(settings)
        if len(found) != partitions:
            differences.append(Difference(topic.name, f"partitions: found {len(found)}, must be {partitions}"))
        replicas = min(len(partition["replicas"]) for partition in found)
        differences += [Difference(topic.name, what) for what in _wrong_configs(topic, replicas, configs[topic.name])]
    return differences + _too_small_letters(configs, settings)


def _too_small_letters(configs: Mapping[str, Mapping[str, str]], settings: Settings) -> list[Difference]:
    """Whether what a sender may send still fits when it is rejected."""
    submits, letters = (topic.with_prefix(settings.topic_prefix).name for topic in (SUBMIT, DEAD_LETTERS))
    if submits not in configs or letters not in configs:
        return []
    found, least = _largest_bytes(configs[letters]), _largest_bytes(configs[submits]) + ENVELOPE_BYTES
    what = f"{LARGEST}: found {found}, must be {least} or more: what is larger is cut when it is rejected"
    return [Difference(letters, what)] if found < least else []


def _wrong_configs(topic: Topic, replicas: int, config: Mapping[str, str]) -> list[str]:
    wrong = []
    policy, kept = config.get("cleanup.policy", "delete"), config.get("retention.ms", "")
    if policy != topic.cleanup_policy:
        wrong.append(f"cleanup.policy: found {policy}, must be {topic.cleanup_policy}")
    if topic.keep_ms and kept and -1 < int(kept) < topic.keep_ms:
        wrong.append(f"retention.ms: found {kept}, must be {topic.keep_ms} or more, or -1")
    if topic.is_ours and (stamp := config.get("message.timestamp.type", BROKERS_TIME)) != BROKERS_TIME:
        wrong.append(f"message.timestamp.type: found {stamp}, must be {BROKERS_TIME}")
    if replicas > IN_SYNC and int(in_sync := config.get("min.insync.replicas", "1")) < IN_SYNC:
        wrong.append(f"min.insync.replicas: found {in_sync}, must be {IN_SYNC} or more")
    return wrong


async def _configs(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    # All keys, not the few of interest: Tansu closes the connection when asked for single ones.
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    return {
        name: {entry[0]: entry[1] for entry in entries}
        for response in responses
        for _, _, _, name, entries in response.resources
    }
