"""A start that can't be names everything that is wrong, not just the first of it."""

import socket
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic

from streams import topics
from streams.kafka import admin_client
from streams.settings import Settings
from tests.running import portwatch

pytestmark = pytest.mark.kafka


def complaints(settings: Settings) -> list[str]:
    """The lines that a worker refuses to start with, behind those of its log."""
    refused = portwatch(settings, "worker")
    assert refused.returncode == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    return refused.stderr.partition("portwatch: ")[2].splitlines()


async def test_everything_that_is_wrong_is_named_at_once(settings: Settings, tmp_path: Path) -> None:
    prefix = settings.topic_prefix
    async with admin_client(settings) as admin:
        await admin.create_topics(
            [
                NewTopic(f"{prefix}{topics.SUBMIT.name}", 3, 1),
                NewTopic(f"{prefix}{topics.STATE.name}", 2, 1),
                NewTopic(f"{prefix}{topics.DEAD_LETTERS.name}", 3, 1),
            ]
        )
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "ports.jsonl").write_text('{"access_port": "x"}\n{"access_port": 1}\n')
    (tmp_path / "state").write_bytes(b"no state at all")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong = complaints(
            settings.model_copy(
                update={"registry_dir": tmp_path / "registry", "state_in": tmp_path / "state", "http_port": port}
            )
        )
    assert wrong[0].startswith(f"PORTWATCH_HTTP_HOST, PORTWATCH_HTTP_PORT: '127.0.0.1', {port}: ")
    assert "address already in use" in wrong[0]
    assert [line.partition("access_port")[0] for line in wrong[1:3]] == [
        "ports.jsonl:1: ",
        "ports.jsonl:2: ",
    ]
    assert wrong[3].startswith(f"{tmp_path}/state: not a portwatch state")
    outputs, state = (
        ", ".join(f"{prefix}sms.{name}.v1" for name in ("alerts", "commands", "panes")),
        "portwatch.state.v1",
    )
    assert wrong[4:] == [
        f"no topics {outputs}: `portwatch topics create` makes them",
        (
            f"{prefix}{state}: has 2 partitions, must have as many as {prefix}sms.submit.v1: 3 "
            f"(kafka-topics.sh --alter --topic {prefix}{state} --partitions 3)"
        ),
    ]


async def test_a_registry_topic_has_one_partition(settings: Settings) -> None:
    name = settings.topic_prefix + topics.SIGNATURES.name
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(name, 2, 1)])
    await topics.create(settings)
    assert complaints(settings) == [f"{name}: has 2 partitions, must have 1: delete it, then `portwatch topics create`"]


def test_who_can_not_start_anyway_does_not_wait_for_kafka(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"no state at all")
    wrong = complaints(
        settings.model_copy(
            update={"bootstrap_servers": ("127.0.0.1:1",), "broker_wait_s": 600.0, "state_in": tmp_path / "state"}
        )
    )
    assert [line.partition(":")[0] for line in wrong] == [f"{tmp_path}/state", "no Kafka at 127.0.0.1"]
