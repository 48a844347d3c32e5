"""A checkpoint may only follow when everything said before it has arrived."""

import asyncio
from typing import Any

import pytest

from detectors.contract import Action, Command
from streams.settings import load_settings
from streams.worker import outbox
from streams.worker.outbox import Outbox


class Line:
    """A producer whose broker answers when the test says so."""

    def __init__(self) -> None:
        self.sent: list[asyncio.Future[None]] = []

    async def send(self, _topic: str, **_record: Any) -> asyncio.Future[None]:
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]


def command(number: int) -> Command:
    return Command(f"c{number}", Action.THROTTLE, "10690010", 2.0, "unfiled-1", "volume-flash", 0, 1)


@pytest.fixture
async def line() -> Line:
    return Line()


@pytest.fixture
async def box(line: Line) -> Outbox:
    return Outbox(load_settings(), line)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_it_is_settled_when_the_last_has_arrived(line: Line, box: Outbox) -> None:
    await box.commands([command(1), command(2)])
    settling = asyncio.create_task(box.settle())
    line.sent[1].set_result(None)
    await turns()
    assert not settling.done()
    line.sent[0].set_result(None)
    await settling
    await box.settle()


async def test_what_is_said_meanwhile_is_not_waited_for(line: Line, box: Outbox) -> None:
    await box.commands([command(1)])
    settling = asyncio.create_task(box.settle())
    await turns()
    await box.commands([command(2)])
    line.sent[0].set_result(None)
    await asyncio.wait_for(settling, 1)


async def test_a_settling_that_was_given_up_forgets_nothing(line: Line, box: Outbox) -> None:
    await box.commands([command(1)])
    settling = asyncio.create_task(box.settle())
    await turns()
    settling.cancel()
    await turns()
    again = asyncio.create_task(box.settle())
    await turns()
    assert not again.done()
    line.sent[0].set_result(None)
    await again


async def test_what_a_full_box_waits_for_a_checkpoint_waits_for_too(
    line: Line, box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_UNSETTLED", 2)
    sending = asyncio.create_task(box.commands([command(n) for n in range(4)]))
    await turns()
    assert len(line.sent) == 3  # the fourth waits
    settling = asyncio.create_task(box.settle())
    for sent in line.sent[1:]:
        sent.set_result(None)
    await turns()
    assert not settling.done()
    line.sent[0].set_result(None)
    await settling
    await turns()
    assert sending.done()


async def test_a_record_that_was_not_taken_is_never_left_behind(line: Line, box: Outbox) -> None:
    await box.commands([command(1), command(2)])
    line.sent[0].set_exception(ConnectionError("away"))
    line.sent[1].set_result(None)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await box.settle()
