"""A worker that kills itself at a chosen moment: python -m tests.kafka.dying_worker POINT NTH."""

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NoReturn

from aiokafka import AIOKafkaProducer

from detectors.pipeline import Pipeline
from streams import topics
from streams.cli import main
from streams.worker import checkpoint
from streams.worker.checkpoint import Checkpoints
from streams.worker.image import Look
from streams.worker.offsets import Offsets
from streams.worker.outbox import Outbox
from streams.worker.worker import Worker


def die() -> NoReturn:
    """As kill -9 does: nothing is closed, nothing is said."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def dying(nth: int, around: Any, name: str, *, before: bool = False) -> None:
    """Make the nth call of a method the last thing that happens: before it does anything, or behind all it does."""
    healthy, calls = getattr(around, name), count(1)

    @contextmanager
    def call() -> Iterator[None]:
        is_last = next(calls) == nth
        if is_last and before:
            die()
        yield
        if is_last:
            die()

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        with call():
            return await healthy(*args, **kwargs)

    def plain(*args: Any, **kwargs: Any) -> Any:
        with call():
            return healthy(*args, **kwargs)

    setattr(around, name, awaited if _is_coroutine(healthy) else plain)


def _is_coroutine(method: Callable[..., Any]) -> bool:
    return bool(method.__code__.co_flags & 0x80)


def half_written(nth: int) -> None:
    """Die when the broker has the first of several chunks of a checkpoint."""
    checkpoint.CHUNK_BYTES = 200
    healthy, chunks = AIOKafkaProducer.send, count(1)

    async def send(self: AIOKafkaProducer, topic: str, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        sent = await healthy(self, topic, *args, **kwargs)
        if topic.endswith(topics.STATE.name) and kwargs["key"].endswith(b"/0") and next(chunks) == nth:
            await sent
            die()
        return sent  # type: ignore[no-any-return]

    AIOKafkaProducer.send = send


POINTS: dict[str, Callable[[int], None]] = {
    "stepped, nothing sent": lambda nth: dying(nth, Pipeline, "step"),
    "alerts sent": lambda nth: dying(nth, Outbox, "alerts"),
    "all of a batch sent": lambda nth: dying(nth, Worker, "_take"),
    "outputs settled": lambda nth: dying(nth, Outbox, "settle"),
    "state looked at": lambda nth: dying(nth, Look, "packed", before=True),
    "checkpoint half written": half_written,
    "checkpoint written": lambda nth: dying(nth, Checkpoints, "write"),
    "about to commit": lambda nth: dying(nth, Offsets, "commit", before=True),
    "committed": lambda nth: dying(nth, Offsets, "commit"),
    "taking over": lambda nth: dying(nth, Worker, "_restore"),
}

if __name__ == "__main__":
    POINTS[sys.argv[1]](int(sys.argv[2]))
    sys.argv = ["portwatch", "worker"]
    main()
