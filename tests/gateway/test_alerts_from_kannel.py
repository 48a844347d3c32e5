"""From a message that a real gateway sent to the alert that a NOC reads."""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams import topics
from streams.settings import Settings
from tests.gateway.kannel import Kannel
from tests.running import portwatch, records, until_committed, worker
from tests.servers import Alertmanager

pytestmark = [pytest.mark.gateway, pytest.mark.kafka, pytest.mark.observability, pytest.mark.timeout(180)]

PORT, EXTENSION = "10690010", "103909"
PATIENCE_S = 60.0


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """One lease with one filing."""
    folder = tmp_path / "registry"
    folder.mkdir()
    lessee = "91000000000000019G"
    lease = {"access_port": PORT, "lessee_id": lessee, "purposes": ["code"]}
    filing = {"access_port": PORT, "extension": EXTENSION, "signature": "某某科技", "enterprise_id": lessee}
    (folder / "ports.jsonl").write_text(json.dumps(lease))
    (folder / "signatures.jsonl").write_text(json.dumps(filing | {"state": 3}))
    return folder


def phones(count: int) -> str:
    return " ".join(f"1380000{number:04d}" for number in range(count))


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return seen


async def test_what_kannel_sends_is_judged_and_told(
    kannel: Kannel, settings: Settings, alertmanager: Alertmanager, registry: Path, tmp_path: Path
) -> None:
    settings = settings.model_copy(
        update={
            "group_id": f"{settings.topic_prefix}workers",
            "registry_dir": registry,
            "alertmanager_urls": (alertmanager.url,),
            "lateness_ms": 0,
            "checkpoint_interval_s": 0.5,
            "http_port": 0,
        }
    )
    full_port = PORT + EXTENSION
    kannel.send(full_port, phones(40), "【某某科技】您的验证码是123456，五分钟内有效。")
    kannel.send(full_port, phones(5), "【某某科技】" + "长" * 150)
    kannel.send(full_port, phones(1), b"\x01\x02\xff")
    kannel.send(PORT + "77", phones(30), "【无名商城】全场五折，回T退订")
    kannel.send(PORT + "88", phones(25), "Your parcel is waiting", coding=0)
    kannel.send(full_port, phones(7), "【无名商城】到不了", smsc="nowhere")
    await asyncio.sleep(11)  # the next pane
    kannel.send(full_port, phones(1), "【某某科技】您的验证码是654321，五分钟内有效。")
    kannel.log_of(109)

    feeding = await asyncio.to_thread(portwatch, settings, "feed", "kannel", kannel.access_log, "--registry", registry)
    assert feeding.returncode == 0, feeding.stderr
    assert "102 submits sent" in feeding.stderr
    assert "7 DISCARDED SMS" in feeding.stderr

    with worker(settings, tmp_path / "worker.log"):
        await until_committed(settings, lambda offsets: sum(offsets.values()) == 102)
        posted = eventually(lambda: _active(alertmanager, 2))
    alerts = [json.loads(row.value) for row in await records(settings, topics.ALERTS)]
    opened = {(a["rule"], a["access_port"], a["signature"]) for a in alerts if a["state"] == "open"}
    assert opened == {("unfiled", PORT, "无名商城"), ("missing", PORT, None)}
    (unfiled,) = [a for a in alerts if a["rule"] == "unfiled"]
    assert unfiled["evidence"]["submits_hour"] == 30
    assert unfiled["evidence"]["top"][0]["extension"] == "77"
    assert {(a["labels"]["alertname"], a["labels"]["port"]) for a in posted} == {("unfiled", PORT), ("missing", PORT)}


def _active(server: Alertmanager, wanted: int) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f'{server.url}/api/v2/alerts?filter=port="{PORT}"', timeout=10) as answer:  # noqa: S310
        found: list[dict[str, Any]] = json.loads(answer.read())
    return found if len(found) == wanted else []
