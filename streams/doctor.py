"""What an operator asks first when something is wrong: what is reachable, is the work advancing, what is in force.

Everything that is not well comes with what to do about it. Changes nothing.
"""

import asyncio
import platform
import re
from dataclasses import dataclass, field
from importlib.metadata import requires, version
from pathlib import Path

import aiohttp
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from rich.table import Table
from rich.text import Text

from detectors.registry import Registry
from streams import topics
from streams.kafka import admin_client, committed, consumer_client
from streams.registry import RegistryError, load_folder
from streams.registry_topics import load_topics
from streams.settings import Settings, without_credentials

ANSWER_S = 5.0
REGISTRY_S = 60.0
"""Enough to read a registry of some hundred thousand filings from its topics."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is what to do about it; empty where all is well."""

    what: str
    found: str
    remedy: str = ""


@dataclass(slots=True)
class Report:
    """All findings, versions and settings."""

    findings: list[Finding]
    settings: dict[str, str]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_well(self) -> bool:
        return not any(finding.remedy for finding in self.findings)

    def tables(self) -> tuple[Table, Table, Table]:
        """Cells are plain text: nothing that was found can steer the terminal."""
        health = _table("health", "", "looked at", "found", "what to do")
        for finding in self.findings:
            mark = Text("WRONG", "bold red") if finding.remedy else Text("ok", "green")
            health.add_row(mark, finding.what, Text(finding.found), Text(finding.remedy))
        return health, _pairs("versions", self.versions), _pairs("settings in force", self.settings)


def _pairs(title: str, pairs: dict[str, str]) -> Table:
    table = _table(title, "name", "value")
    for name, value in pairs.items():
        table.add_row(Text(name), Text(value))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")  # a command cut short is no remedy
    return table


async def examine(settings: Settings) -> Report:
    """Look at everything; what needs Kafka is left out while it is away."""
    kafka = await _kafka(settings)
    findings = [_pins(), kafka]
    if settings.registry_dir:
        findings.append(_registry_folder(settings.registry_dir))
    if not kafka.remedy:
        findings += await _on_topics(settings)
    findings += await asyncio.gather(*[_alertmanager(url) for url in settings.alertmanager_urls])
    return Report(findings, settings.shown(), _versions())


# ---- versions


def _versions() -> dict[str, str]:
    """Of Python, of ourselves and of what we need at run time."""
    names = [name for name, _ in _requirements()]
    return {"python": platform.python_version(), "portwatch": version("portwatch")} | {n: version(n) for n in names}


def _requirements() -> list[tuple[str, str]]:
    """Name and exact version (empty if it is free) of every run-time requirement."""
    lines = [line for line in requires("portwatch") or [] if "extra ==" not in line]
    parts = [re.match(r"([\w.-]+)(?:==([\w.]+))?", line) for line in lines]
    return [(part[1], part[2] or "") for part in parts if part]


def _pins() -> Finding:
    pinned = [(name, pin, version(name)) for name, pin in _requirements() if pin]
    wrong = [f"{name} {installed} instead of {pin}" for name, pin, installed in pinned if installed != pin]
    remedy = "install the versions of requirements.lock: pip install -r requirements.lock" if wrong else ""
    return Finding("pinned packages", ", ".join(wrong) or "as pinned", remedy)


# ---- Kafka


async def _kafka(settings: Settings) -> Finding:
    where = ",".join(settings.bootstrap_servers)
    try:
        async with asyncio.timeout(ANSWER_S), admin_client(settings) as admin:
            cluster = await admin.describe_cluster()
    except (KafkaError, TimeoutError) as error:
        return Finding(f"Kafka at {where}", _shortly(error), "start it, or set PORTWATCH_BOOTSTRAP_SERVERS")
    return Finding(f"Kafka at {where}", f"cluster {cluster['cluster_id']}, brokers: {len(cluster['brokers'])}")


async def _on_topics(settings: Settings) -> list[Finding]:
    """The topics, and if none is missing, what is on them."""
    differences = await topics.check(settings)
    wrong = [Finding("topics", str(difference), _topic_remedy(difference)) for difference in differences]
    findings = wrong or [Finding("topics", f"all {len(topics.ALL)} as they must be")]
    if not any(difference.what == topics.MISSING for difference in differences):
        findings.append(await _group(settings))
        if not settings.registry_dir:
            findings.append(await _registry_topics(settings))
    return findings


def _topic_remedy(difference: topics.Difference) -> str:
    key, _, wanted = difference.what.partition(": ")
    if key == topics.MISSING:
        return "portwatch topics create"
    if key == "partitions":
        return "set PORTWATCH_PARTITIONS to what is there, or make the topic anew"
    value = wanted.partition("must be ")[2].partition(" ")[0]
    change = f"--alter --add-config {key}={value}"
    return f"kafka-configs.sh --entity-type topics --entity-name {difference.topic} {change}"


async def _group(settings: Settings) -> Finding:
    """Lag of the workers' group, and whether its commits advance while there is something to do."""
    what, name = f"group {settings.group_id}", topics.SUBMIT.with_prefix(settings.topic_prefix).name
    async with admin_client(settings) as admin:
        count = (await topics.partition_counts(admin))[name]
    async with consumer_client(settings, settings.group_id) as consumer:
        partitions = [TopicPartition(name, number) for number in range(count)]
        consumer.assign(partitions)
        before = await committed(consumer, partitions)
        if not before:
            return Finding(what, "has never committed an offset", "start a worker: portwatch worker")
        ends = await consumer.end_offsets(partitions)
        starts = await consumer.beginning_offsets(partitions)
        lag = sum(ends[p] - (before[p].offset if p in before else starts[p]) for p in partitions)
        if not lag:
            return Finding(what, "has read everything")
        await asyncio.sleep(2 * settings.checkpoint_interval_s)
        if await committed(consumer, partitions) != before:
            return Finding(what, f"lag: {lag:,} records, offsets advance")
        remedy = "no worker runs, or it is stuck: look at its log, then restart portwatch worker"
        return Finding(what, f"lag: {lag:,} records, offsets stand still", remedy)


# ---- registry and Alertmanager


def _registry_folder(folder: Path) -> Finding:
    what, remedy = f"registry folder {folder}", f"portwatch registry check {folder}"
    try:
        return _counted(what, load_folder(folder), remedy)
    except RegistryError as error:
        return Finding(what, f"{len(error.problems)} problems: {error.problems[0]}", remedy)


async def _registry_topics(settings: Settings) -> Finding:
    what, remedy = "registry topics", "portwatch registry load DIR"
    try:
        return _counted(what, await load_topics(settings, REGISTRY_S), remedy)
    except RegistryError as error:
        return Finding(what, error.problems[0], remedy)


def _counted(what: str, registry: Registry, remedy: str) -> Finding:
    counts = f"{len(registry.ports):,} leases, {len(registry.filings):,} filings, version {registry.version or 'none'}"
    return Finding(what, counts, remedy if registry.is_empty else "")


async def _alertmanager(url: str) -> Finding:
    what, timeout = f"Alertmanager at {without_credentials(url)}", aiohttp.ClientTimeout(total=ANSWER_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
            status = await (await session.get(f"{url}/api/v2/status")).json()
        return Finding(what, f"version {status['versionInfo']['version']}")
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
        return Finding(what, _shortly(error), "start it, or set PORTWATCH_ALERTMANAGER_URLS")


def _shortly(error: Exception) -> str:
    return f"no answer within {ANSWER_S:g} s" if isinstance(error, TimeoutError) else str(error) or repr(error)
