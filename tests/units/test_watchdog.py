"""What systemd is told of a worker, on a real datagram socket, and when."""

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.worker.http import Health
from streams.worker.watchdog import beat, notifier


class Standing(Health):
    """A worker that stands as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.missing: str | None = None
        self.wrong: str | None = None

    def unready(self) -> str | None:
        return self.missing

    def problem(self) -> str | None:
        return self.wrong


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(10)
        yield manager


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = str(tmp_path / "notify") if request.param == "a path" else f"@portwatch/{secrets.token_hex(8)}"
    with listening(name.replace("@", "\0")) as bound:
        yield name, bound


def heard(manager: socket.socket) -> list[str]:
    return manager.recv(4_096).decode().splitlines()


def test_words_arrive_in_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, bound = manager
    with notifier(address) as tell:
        tell("READY=1", "STATUS=计数")
    assert heard(bound) == ["READY=1", "STATUS=计数"]


def test_nobody_listens_and_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with notifier(None) as tell:
        tell("READY=1")
    assert caplog.messages == []
    address = str(tmp_path / "nobody")
    with notifier(address) as tell:
        tell("READY=1")
        tell("READY=1")
        with listening(address) as manager:
            tell("READY=1")
            assert heard(manager) == ["READY=1"]
        tell("READY=1")
    absent, gone = caplog.messages
    assert absent == f"systemd does not hear us at {address}: [Errno 2] No such file or directory"
    assert gone == f"systemd does not hear us at {address}: [Errno 111] Connection refused"


def test_a_manager_that_does_not_read_holds_nothing_up(manager: tuple[str, socket.socket]) -> None:
    address, bound = manager
    with notifier(address) as tell:
        for _ in range(10_000):  # far more than its queue holds
            tell("WATCHDOG=1")
    assert heard(bound) == ["WATCHDOG=1"]


async def beats(health: Health, change: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was told before and after a change, and at the end; repeats once."""
    monkeypatch.setattr("streams.worker.watchdog.BEAT_S", 0.01)
    told: list[tuple[str, ...]] = []
    stop = asyncio.Event()
    beating = asyncio.create_task(beat(health, stop, lambda *words: told.append(words)))
    await asyncio.sleep(0.1)
    change()
    await asyncio.sleep(0.1)
    stop.set()
    await beating
    assert len(told) > 5
    return list(dict.fromkeys(told))


async def test_it_is_alive_while_it_starts_and_ready_when_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Standing()
    health.missing = "waiting for Kafka"
    assert await beats(health, lambda: setattr(health, "missing", None), monkeypatch) == [
        ("EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1", "STATUS=waiting for Kafka"),
        ("READY=1", "WATCHDOG=1", "STATUS=offsets advance"),
        ("STOPPING=1",),
    ]


async def test_one_that_is_stalled_shows_no_sign_of_life_and_says_why_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    health = Standing()
    health.wrong = "partition 3 stalled for 31 s"
    assert await beats(health, lambda: setattr(health, "wrong", None), monkeypatch) == [
        ("STATUS=partition 3 stalled for 31 s",),
        ("READY=1", "WATCHDOG=1", "STATUS=offsets advance"),
        ("STOPPING=1",),
    ]
    assert caplog.messages == ["partition 3 stalled for 31 s", "offsets advance again"]


async def test_one_that_is_called_off_says_that_it_stops() -> None:
    told: list[tuple[str, ...]] = []
    beating = asyncio.create_task(beat(Standing(), asyncio.Event(), lambda *words: told.append(words)))
    await asyncio.sleep(0.1)
    beating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beating
    assert told[-1] == ("STOPPING=1",)
