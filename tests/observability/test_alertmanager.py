"""Alerts reach a real Alertmanager, stay there while they are open, and survive its absence."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from detectors.contract import Alert, AlertState, Severity, Wording
from streams.embedded import free_port
from streams.noc.alertmanager import AlertmanagerPush
from tests.servers import Alertmanager

pytestmark = pytest.mark.observability


def now_ms() -> int:
    return int(time.time() * 1_000)


def alert(port: str, **changes: Any) -> Alert:
    opened = Alert(
        alert_id=f"volume-flash-{port}",
        detector="volume",
        rule="volume-flash",
        state=AlertState.OPEN,
        severity=Severity.WARNING,
        access_port=port,
        ports=[port],
        first_seen_ms=now_ms() - 60_000,
        last_seen_ms=now_ms(),
        detected_event_ms=now_ms(),
        summary=Wording('sudden: <b>840</b> in 1 min 【某某"科技】', "突增 840"),
        evidence={"observed": 840, "expected": 96},
        runbook="docs/runbooks.md#volume-flash",
    )
    return replace(opened, **changes)


async def known(server: Alertmanager, port: str) -> list[dict[str, Any]]:
    """The active alerts of a port, as Alertmanager tells them."""
    query = {"filter": f'port="{port}"', "active": "true"}
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/api/v2/alerts", params=query) as answer:
        answer.raise_for_status()
        found: list[dict[str, Any]] = await answer.json()
        return found


async def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool], patience_s: float = 10.0) -> Any:
    deadline = time.monotonic() + patience_s
    while not wanted(seen := await look()):
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.1)
    return seen


async def test_an_alert_arrives_with_its_identity_and_evidence(alertmanager: Alertmanager) -> None:
    outcomes: Counter[str] = Counter()
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda outcome: outcomes.update([outcome]))
    push.tell([alert("10690001", rule="extension-unfiled", extension="0103")] * 3)
    await push.deliver()
    (seen,) = await eventually(lambda: known(alertmanager, "10690001"), lambda found: len(found) == 1)
    assert seen["labels"] == {
        "alertname": "extension-unfiled",
        "detector": "volume",
        "severity": "warning",
        "port": "10690001",
        "extension": "0103",
    }
    assert seen["annotations"]["summary"] == 'sudden: <b>840</b> in 1 min 【某某"科技】'
    assert seen["annotations"]["alert_id"] == "volume-flash-10690001"
    assert outcomes == {"ok": 1}
    assert push.pending == 0


async def test_an_alert_of_a_port_stays_the_same_whatever_extension_was_seen_last(alertmanager: Alertmanager) -> None:
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda _: None)
    push.tell([alert("10690011", extension="01"), alert("10690011", extension="02", state=AlertState.UPDATED)])
    assert push.pending == 1
    await push.deliver()
    (seen,) = await eventually(lambda: known(alertmanager, "10690011"), lambda found: len(found) == 1)
    assert seen["annotations"]["extension"] == "02"


async def test_a_resolved_alert_goes(alertmanager: Alertmanager) -> None:
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda _: None)
    push.tell([alert("10690002")])
    await push.deliver()
    await eventually(lambda: known(alertmanager, "10690002"), bool)
    push.tell([alert("10690002", state=AlertState.RESOLVED)])
    await push.deliver()
    await eventually(lambda: known(alertmanager, "10690002"), lambda found: not found)


async def test_a_risen_severity_replaces_the_alert_it_rose_from(alertmanager: Alertmanager) -> None:
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda _: None)
    push.tell([alert("10690003")])
    await push.deliver()
    push.tell([alert("10690003", state=AlertState.UPDATED, severity=Severity.CRITICAL)])
    await push.deliver()
    (seen,) = await eventually(lambda: known(alertmanager, "10690003"), lambda found: len(found) == 1)
    assert seen["labels"]["severity"] == "critical"


async def test_what_an_absent_alertmanager_missed_it_hears_when_it_is_back() -> None:
    if missing := Alertmanager.missing():
        pytest.skip(missing)
    outcomes: Counter[str] = Counter()
    with Alertmanager("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n") as server:
        server.stop()
        push = AlertmanagerPush([server.url], now_ms, lambda outcome: outcomes.update([outcome]))
        push.tell([alert("10690004"), alert("10690005")])
        push.tell([alert("10690005", state=AlertState.RESOLVED)])
        await push.deliver()
        assert (outcomes, push.pending) == ({"unreachable": 1}, 2)
        server.start()
        await push.deliver()
        await eventually(lambda: known(server, "10690004"), lambda found: len(found) == 1)
        assert await known(server, "10690005") == []
        assert push.pending == 0


async def test_what_waits_for_an_absent_alertmanager_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.noc.alertmanager.MOST_OVER", 5)
    outcomes: Counter[str] = Counter()
    push = AlertmanagerPush([f"http://127.0.0.1:{free_port()}"], now_ms, lambda outcome: outcomes.update([outcome]))
    push.tell([alert("10690007")])
    for n in range(100):
        push.tell([alert(f"1069{n:06d}"), alert(f"1069{n:06d}", state=AlertState.RESOLVED)])
        push.tell([alert("10690007", state=AlertState.UPDATED)])
    assert push.pending == 1 + 5
    assert outcomes == {"dropped": 95}


async def test_a_partition_given_up_is_not_spoken_for_any_more() -> None:
    push = AlertmanagerPush([f"http://127.0.0.1:{free_port()}"], now_ms, lambda _: None)
    push.tell([alert("10690008"), alert("10690009")])
    push.tell([alert("10690009", state=AlertState.RESOLVED)])
    push.forget(["volume-flash-10690008"])
    assert push.pending == 1  # that the other is over nobody else would say


async def test_its_password_stays_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    push = AlertmanagerPush([f"http://noc:secret@127.0.0.1:{free_port()}"], now_ms, lambda _: None)
    push.tell([alert("10690010")])
    for _ in range(3):
        await push.deliver()
    assert len([line for line in caplog.messages if "is away" in line]) == 1
    assert "secret" not in caplog.text


async def test_it_is_posted_again_while_it_is_open_however_much_else_there_is_to_say(
    alertmanager: Alertmanager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.noc.alertmanager.REPEAT_S", 0.5)
    absent = f"http://127.0.0.1:{free_port()}"
    push = AlertmanagerPush([absent, alertmanager.url], now_ms, lambda _: None)
    running = asyncio.create_task(push.run())
    push.tell([alert("10690012")])
    for n in range(50):
        await asyncio.sleep(0.08)
        push.tell([alert(f"1068{n:06d}")])
    assert len(await known(alertmanager, "10690012")) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_it_is_posted_again_while_it_is_open(alertmanager: Alertmanager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.noc.alertmanager.REPEAT_S", 0.2)
    outcomes: Counter[str] = Counter()
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda outcome: outcomes.update([outcome]))
    running = asyncio.create_task(push.run())
    push.tell([alert("10690006")])
    await asyncio.sleep(2)  # longer than the 0.8 s after which Alertmanager would let it go
    assert len(await known(alertmanager, "10690006")) == 1
    assert outcomes["ok"] >= 5
    push.forget(["volume-flash-10690006"])
    await eventually(lambda: known(alertmanager, "10690006"), lambda found: not found)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
