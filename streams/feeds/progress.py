"""How far a feed is, on stderr: a bar where a person looks on, a plain line every few seconds elsewhere."""

from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0


class FeedProgress:
    """A context manager; `say` prints a line without tearing the bar."""

    def __init__(self, name: str) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._name = name
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[sent]:,} sent, {task.fields[per_s]:,.0f}/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(name, total=None, sent=0, per_s=0.0)
        self._started_s = self._last_line_s = monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    def show(self, position: int, size: int, sent: int) -> None:
        """`position` of `size` bytes read; `sent` records acknowledged."""
        now_s = monotonic()
        per_s = sent / max(now_s - self._started_s, 1e-3)
        self._bar.update(self._task, completed=position, total=max(size, position), sent=sent, per_s=per_s)
        if not self._console.is_terminal and now_s - self._last_line_s >= LINE_EVERY_S:
            self._last_line_s = now_s
            self.say(f"{self._name}: {position:,} of {max(size, position):,} bytes, {sent:,} sent, {per_s:,.0f}/s")
