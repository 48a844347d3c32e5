"""Alerts reach a real Alertmanager, stay there while they are open, and survive its absence."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from detectors.contract import Alert, AlertState, Severity, Wording
from streams.embedded import free_port
from streams.noc.alertmanager import MOST_REFUSALS, AlertmanagerPush
from tests.conftest import require
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


@asynccontextmanager
async def at_work(push: AlertmanagerPush) -> AsyncIterator[None]:
    """It delivers by itself inside the block."""
    running = asyncio.create_task(push.run())
    yield
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_alert_arrives_with_its_identity_and_evidence(alertmanager: Alertmanager) -> None:
    outcomes: Counter[str] = Counter()
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda outcome: outcomes.update([outcome]))
    push.tell([alert("10690001", rule="extension-unfiled", extension="0103")] * 3)
    await push.deliver()
    (seen,) = await eventually(lambda: known(alertmanager, "10690001"), lambda found: len(found) == 1)
    assert seen["labels"] == {
        "alertname": "extension-unfiled",
        "alert_id": "volume-flash-10690001",
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


async def test_a_resolved_alert_goes_once_it_was_there_to_be_seen(
    alertmanager: Alertmanager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.noc.backlog.SHOWN_MS", 5_000)
    monkeypatch.setattr("streams.noc.alertmanager.REPEAT_S", 0.3)
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda _: None)
    async with at_work(push):
        push.tell([alert("10690002")])
        await eventually(lambda: known(alertmanager, "10690002"), bool)
        push.tell([alert("10690002", state=AlertState.RESOLVED)])
        await eventually(lambda: known(alertmanager, "10690002"), lambda found: "ended" in found[0]["annotations"])
        await eventually(lambda: known(alertmanager, "10690002"), lambda found: not found)


async def test_a_risen_severity_replaces_the_alert_it_rose_from(alertmanager: Alertmanager) -> None:
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda _: None)
    push.tell([alert("10690003")])
    await push.deliver()
    push.tell([alert("10690003", state=AlertState.UPDATED, severity=Severity.CRITICAL)])
    await push.deliver()
    (seen,) = await eventually(lambda: known(alertmanager, "10690003"), lambda found: len(found) == 1)
    assert seen["labels"]["severity"] == "critical"


class Receiver:
    """What Alertmanager notifies, and a peer that answers as it is told to.

    A notification speaks of all alerts of its group, so that what it says of one counts when it is news.
    """

    def __init__(self) -> None:
        self.notified: defaultdict[str, list[str]] = defaultdict(list)  # by port, in order
        self.posts: list[list[str]] = []  # ports, of each post to it as a peer
        self.answer: Callable[[list[str]], int] = lambda _: 200
        self.url = ""

    async def hook(self, request: web.Request) -> web.Response:
        for one in (await request.json())["alerts"]:
            said = self.notified[one["labels"]["port"]]
            said += [one["status"]] * (said[-1:] != [one["status"]])
        return web.Response()

    async def peer(self, request: web.Request) -> web.Response:
        ports = [one["labels"]["port"] for one in await request.json()]
        self.posts.append(ports)
        return web.Response(status=self.answer(ports))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/hook", made.hook)
    app.router.add_post("/api/v2/alerts", made.peer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


NOTIFYING = """
route: {{receiver: hook, group_by: [alertname], group_wait: 100ms, group_interval: 1s, repeat_interval: 4h}}
receivers: [{{name: hook, webhook_configs: [{{url: {url}/hook, max_alerts: 0}}]}}]
"""


async def test_what_began_and_ended_while_alertmanager_was_away_is_notified_of_in_order_and_once(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(Alertmanager.missing())
    monkeypatch.setattr("streams.noc.backlog.SHOWN_MS", 2_000)
    monkeypatch.setattr("streams.noc.alertmanager.REPEAT_S", 0.5)
    outcomes: Counter[str] = Counter()
    ports = [f"1067{n:06d}" for n in range(40)]
    with Alertmanager(NOTIFYING.format(url=receiver.url)) as server:
        push = AlertmanagerPush([server.url], now_ms, lambda outcome: outcomes.update([outcome]))
        push.tell([alert("10690013")])
        await push.deliver()
        await eventually(partial(heard, receiver, "10690013"), lambda said: said == ["firing"])
        server.stop()
        push.tell([alert("10690013", state=AlertState.RESOLVED)])
        for port in ports:
            push.tell([alert(port), alert(port, state=AlertState.UPDATED), alert(port, state=AlertState.RESOLVED)])
        push.tell([alert("10690014")])
        await push.deliver()
        assert (outcomes, push.pending) == ({"ok": 1, "unreachable": 1}, 42)
        server.start()
        async with at_work(push):
            for port in [*ports, "10690013"]:
                await eventually(partial(heard, receiver, port), lambda said: said == ["firing", "resolved"], 30)
        assert push.pending == 0
        assert receiver.notified["10690014"] == ["firing"]


async def test_what_begins_and_ends_between_two_looks_at_a_group_is_notified_of(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(Alertmanager.missing())
    monkeypatch.setattr("streams.noc.backlog.SHOWN_MS", 2_000)
    monkeypatch.setattr("streams.noc.alertmanager.REPEAT_S", 0.5)
    with Alertmanager(NOTIFYING.format(url=receiver.url)) as server:
        push = AlertmanagerPush([server.url], now_ms, lambda _: None)
        async with at_work(push):
            push.tell([alert("10690019")])
            await eventually(partial(heard, receiver, "10690019"), lambda said: said == ["firing"])
            push.tell([alert("10690020"), alert("10690020", state=AlertState.RESOLVED)])
            await eventually(partial(heard, receiver, "10690020"), lambda said: said == ["firing", "resolved"], 30)
    assert receiver.notified["10690019"] == ["firing"]


async def heard(receiver: Receiver, port: str) -> list[str]:
    return receiver.notified[port]


async def test_a_peer_that_never_answers_delays_no_other(
    alertmanager: Alertmanager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.noc.alertmanager.TIMEOUT_S", 60.0)
    accepted: list[asyncio.StreamWriter] = []
    black_hole = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    host, port = black_hole.sockets[0].getsockname()
    push = AlertmanagerPush([f"http://{host}:{port}", alertmanager.url], now_ms, lambda _: None)
    async with at_work(push):
        push.tell([alert("10690015")])
        await eventually(lambda: known(alertmanager, "10690015"), lambda found: len(found) == 1)
    assert len(accepted) == 1
    accepted[0].close()
    await accepted[0].wait_closed()
    black_hole.close()
    await black_hole.wait_closed()


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_one_bad_alert_costs_no_other(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda ports: status if "1066000777" in ports else 200
    outcomes: Counter[str] = Counter()
    push = AlertmanagerPush([receiver.url], now_ms, lambda outcome: outcomes.update([outcome]))
    ports = [f"1066{n:06d}" for n in range(1_000)]
    push.tell([alert(port) for port in ports])
    await push.deliver()
    assert push.pending == 0
    taken = {port for posted in receiver.posts if "1066000777" not in posted for port in posted}
    assert taken == set(ports) - {"1066000777"}
    assert (outcomes["refused"], len(receiver.posts)) == (11, 21)  # halved ten times


async def test_a_post_that_is_too_large_is_halved_until_it_passes(receiver: Receiver) -> None:
    receiver.answer = lambda ports: 413 if len(ports) > 100 else 200
    push = AlertmanagerPush([receiver.url], now_ms, lambda _: None)
    push.tell([alert(f"1065{n:06d}") for n in range(1_000)])
    await push.deliver()
    assert (push.pending, len(receiver.posts)) == (0, 31)


async def test_a_peer_that_refuses_everything_is_not_asked_about_each(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = lambda _: 400
    push = AlertmanagerPush([receiver.url], now_ms, lambda _: None)
    push.tell([alert(f"1064{n:06d}") for n in range(1_000)])
    await push.deliver()
    assert len(receiver.posts) == MOST_REFUSALS + 1
    assert push.pending > 1_000 - MOST_REFUSALS
    refused, away = caplog.messages
    assert refused.startswith(
        f'alerts for Alertmanager {receiver.url} are refused: 400 for {{"alertname":"volume-flash"'
    )
    assert away == f"Alertmanager {receiver.url} is away (400): alerts wait for it"


async def test_hostile_texts_arrive_and_long_ones_are_cut(alertmanager: Alertmanager) -> None:
    text = 'a\x00\ud800"}\n{{ .Labels }}\u202e<script>'
    hostile = alert("10690018", summary=Wording(text, "某" * 1_000_000), evidence={"note": "x" * 1_000_000})
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda _: None)
    push.tell([hostile])
    await push.deliver()
    (seen,) = await eventually(lambda: known(alertmanager, "10690018"), bool)
    assert seen["annotations"]["summary"] == text.replace("\ud800", "?")
    assert seen["annotations"]["summary_zh"].endswith("… (3000000 bytes, whole in the topic of alerts)")
    assert seen["annotations"]["evidence"].endswith("… (1000011 bytes, whole in the topic of alerts)")


@pytest.mark.parametrize("status", [500, 503, 429, 401, 302])
async def test_a_peer_in_trouble_hears_it_all_later(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _: status
    push = AlertmanagerPush([receiver.url], now_ms, lambda _: None)
    push.tell([alert("10690016"), alert("10690017")])
    await push.deliver()
    assert (push.pending, len(receiver.posts)) == (2, 1)
    receiver.answer = lambda _: 200
    await push.deliver()
    assert (push.pending, set(receiver.posts[-1])) == (0, {"10690016", "10690017"})


async def test_while_a_peer_is_away_the_tries_grow_rare_and_small(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.noc.alertmanager.RETRY_S", 0.05)
    tried_s: list[float] = []

    def busy(_: list[str]) -> int:
        tried_s.append(time.monotonic())
        return 503

    receiver.answer = busy
    push = AlertmanagerPush([receiver.url], now_ms, lambda _: None)
    push.tell([alert(f"1063{n:06d}") for n in range(1_000)])
    async with at_work(push):
        await eventually(partial(tries, receiver), lambda posts: len(posts) >= 6, 30)
    assert [len(ports) for ports in receiver.posts[:6]] == [1_000, 500, 250, 125, 62, 62]
    least_s = [0.05, 0.1, 0.2, 0.4, 0.4]  # half of what the jitter allows at most
    assert [after - before >= wait for before, after, wait in zip(tried_s, tried_s[1:6], least_s, strict=False)] == [
        True
    ] * 5


async def tries(receiver: Receiver) -> list[list[str]]:
    return receiver.posts


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
    async with at_work(push):
        push.tell([alert("10690012")])
        for n in range(50):
            await asyncio.sleep(0.08)
            push.tell([alert(f"1068{n:06d}")])
        assert len(await known(alertmanager, "10690012")) == 1


async def test_it_is_posted_again_while_it_is_open(alertmanager: Alertmanager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.noc.alertmanager.REPEAT_S", 0.2)
    monkeypatch.setattr("streams.noc.backlog.LASTS_MS", 800)
    outcomes: Counter[str] = Counter()
    push = AlertmanagerPush([alertmanager.url], now_ms, lambda outcome: outcomes.update([outcome]))
    async with at_work(push):
        push.tell([alert("10690006")])
        await asyncio.sleep(2)  # longer than the 0.8 s after which Alertmanager would let it go
        assert len(await known(alertmanager, "10690006")) == 1
        assert outcomes["ok"] >= 5
        push.forget(["volume-flash-10690006"])
        await eventually(lambda: known(alertmanager, "10690006"), lambda found: not found)
