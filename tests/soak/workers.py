"""Worker processes, and what befalls them: killed, restarted, joined, left, frozen until the group has given them up.

One of them, the veteran, is never ended: its memory is what may not grow. Who ends without being told to is a defect.
"""

import asyncio
import random
import re
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil

from streams.settings import Settings
from streams.worker.transport import SESSION_TIMEOUT_S
from tests.running import worker
from tests.soak.pulse import Pulse

LEAST, MOST = 2, 3
STOP_S = 5.0
"""The promise: SIGTERM to exit."""

_PATIENCE_S = 30.0
_FROZEN_S = (SESSION_TIMEOUT_S + 2.0, SESSION_TIMEOUT_S + 6.0)
_LOOK_S = 0.05
_OURS = re.compile(r"partitions \[(.*)\] are ours")


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    name: str
    process: "Popen[bytes]"
    log: Path
    end: Callable[[], None]  # kill it and wait for it

    @property
    def rss_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    @property
    def owned(self) -> int:
        """How many partitions it was given last."""
        told = _OURS.findall(self.log.read_text())
        return len(told[-1].split(",")) if told and told[-1] else 0


@dataclass(slots=True, eq=False)
class Fleet:
    """The workers that live now, the veteran first. `wrong` gathers what they should not have done."""

    settings: Settings
    folder: Path
    members: list[Member] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    started: int = 0

    def start(self) -> None:
        name = f"worker-{self.started}"
        self.started += 1
        life = ExitStack()
        log = self.folder / f"{name}.log"
        process = life.enter_context(worker(self.settings, log))
        self.members.append(Member(name, process, log, life.close))

    def kill(self, member: Member) -> None:
        self.members.remove(member)
        member.process.send_signal(signal.SIGKILL)
        member.end()

    async def stop(self, member: Member) -> None:
        self.members.remove(member)
        asked_s = time.monotonic()
        member.process.terminate()
        try:
            while member.process.poll() is None and time.monotonic() - asked_s < _PATIENCE_S:  # noqa: ASYNC110 - a process has no event
                await asyncio.sleep(_LOOK_S)
            took_s, code = time.monotonic() - asked_s, member.process.returncode
        finally:
            member.end()
        if code != 0 or took_s > STOP_S:
            self.wrong.append(f"{member.name} ended with {code} after {took_s:.1f} s when it was asked to")

    async def stop_all(self) -> None:
        for member in list(self.members):
            await self.stop(member)

    def replace_the_dead(self) -> None:
        for member in [member for member in self.members if member.process.poll() is not None]:
            self.wrong.append(f"{member.name} ended by itself with {member.process.returncode}")
            self.members.remove(member)
            member.end()
            self.start()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """LEAST workers to begin with; none at the end."""
        try:
            for _ in range(LEAST):
                self.start()
            yield
        finally:
            for member in self.members:
                member.end()


class Trouble:
    """Troubles one after the other in an order that the seed gives: of every kind as many, of kills twice as many.

    `took_s`: by kind, for each, how long until every partition was answered for again.
    """

    def __init__(self, fleet: Fleet, pulse: Pulse, seed: int, say: Callable[[str], None]) -> None:
        self._fleet = fleet
        self._pulse = pulse
        self._say = say
        self._random = random.Random(seed)  # noqa: S311 - a seed must give the same again
        self.took_s = defaultdict[str, list[float]](list)

    async def go_on(self, every_s: tuple[float, float], until_ms: int) -> None:
        """A trouble begins every so often, until `until_ms`; but never before the last one is over."""
        kinds: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "kill": self._kill,
            "restart": self._restart,
            "resize": self._resize,
            "freeze": self._freeze,
        }
        hand: list[str] = []
        due_s = time.time()
        while (due_s := max(time.time(), due_s + self._random.uniform(*every_s))) * 1_000 < until_ms:
            hand = hand or self._random.sample([*kinds, "kill"], len(kinds) + 1)
            await asyncio.sleep(due_s - time.time())
            await self._suffer(name := hand.pop(), kinds[name]())

    async def _suffer(self, name: str, trouble: Coroutine[Any, Any, None]) -> None:
        began_s, began_ms = time.monotonic(), int(time.time() * 1_000)
        self.took_s[name].append(float("inf"))  # should it never be over

        async def over() -> None:
            await self._pulse.beyond(began_ms)
            self.took_s[name][-1] = time.monotonic() - began_s

        await asyncio.gather(trouble, over())
        self._say(f"{name}: every partition answered for after {self.took_s[name][-1]:.1f} s")

    def _anyone(self) -> Member:
        return self._random.choice(self._fleet.members[1:])

    async def _kill(self) -> None:
        self._fleet.kill(self._anyone())
        self._fleet.start()

    async def _restart(self) -> None:
        await self._fleet.stop(self._anyone())
        self._fleet.start()

    async def _resize(self) -> None:
        if len(self._fleet.members) < MOST:
            self._fleet.start()
        else:
            await self._fleet.stop(self._anyone())

    async def _freeze(self) -> None:
        frozen = self._random.choice(self._fleet.members)
        frozen.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self._random.uniform(*_FROZEN_S))
        finally:
            frozen.process.send_signal(signal.SIGCONT)
