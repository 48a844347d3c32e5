"""Whole lines of a file in pieces of bounded size: once through, or for ever as `tail -F` does.

Following survives rotation (a new file under the name: the old one is read to its end first) and truncation; a last
line without its line end waits for the rest. Not seen, as with tail: a file that is truncated and grows past the old
place between two looks.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from io import FileIO
from os import fstat, stat_result
from pathlib import Path
from typing import NamedTuple

PIECE_BYTES = 1 << 20
LONGEST_LINE_BYTES = 1_000_000
"""No record above 1 MB fits Kafka's default `message.max.bytes` (1,048,588); longer lines are counted and left out."""
LOOK_AGAIN_S = 0.2


class Piece(NamedTuple):
    """Some lines, one after the other, without their line ends."""

    lines: list[bytes]
    overlong: int  # lines left out in this piece
    position: int  # bytes read of the current file
    size: int  # bytes of the current file as it was opened
    is_live: bool  # written after we began to read


class Lines:
    """Cuts a stream of bytes into lines; holds the unfinished last one."""

    def __init__(self) -> None:
        self._rest = b""
        self._is_overlong = False  # inside a line that is too long already
        self.overlong = 0

    def cut(self, data: bytes) -> list[bytes]:
        """Every line that is whole now."""
        *whole, rest = (self._rest + data).split(b"\n")
        if self._is_overlong and whole:
            del whole[0]
            self._is_overlong = False
        if len(rest) > LONGEST_LINE_BYTES:
            self.overlong += not self._is_overlong
            self._is_overlong = True
        self._rest = b"" if self._is_overlong else rest
        short = [line for line in whole if len(line) <= LONGEST_LINE_BYTES]
        self.overlong += len(whole) - len(short)
        return short

    def end(self) -> list[bytes]:
        """The last line, if it has no line end."""
        rest, self._rest = self._rest, b""
        self._is_overlong = False
        return [rest] if rest else []


async def pieces(path: Path, *, follow: bool, stop: asyncio.Event, say: Callable[[str], None]) -> AsyncGenerator[Piece]:
    """The file's lines, up to its end or, with `follow`, until `stop` is set.

    Raises OSError where the file can't be read; with `follow` a missing one is waited for.
    """
    file = await _open(path, follow=follow, stop=stop, say=say)
    there_before = True
    while file is not None:
        with file:
            async for piece in _read(file, path, there_before, follow=follow, stop=stop):
                yield piece
        there_before = False
        file = await _open(path, follow=follow, stop=stop, say=say) if follow else None


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not past `stop`."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _open(path: Path, *, follow: bool, stop: asyncio.Event, say: Callable[[str], None]) -> FileIO | None:
    has_said = False
    while not stop.is_set():
        try:
            return path.open("rb", buffering=0)
        except FileNotFoundError:
            if not follow:
                raise
        if not has_said:
            say(f"waiting for {path} to appear")
            has_said = True
        await pause(stop, LOOK_AGAIN_S)
    return None


async def _read(
    file: FileIO, path: Path, there_before: bool, *, follow: bool, stop: asyncio.Event
) -> AsyncGenerator[Piece]:
    """One file to its end; with `follow`, until another one stands under its name."""
    lines = Lines()
    size = fstat(file.fileno()).st_size
    backlog = size if there_before else 0
    position = 0

    def piece(cut: list[bytes], *, is_live: bool) -> Piece:
        overlong, lines.overlong = lines.overlong, 0
        return Piece(cut, overlong, position, size, is_live)

    is_replaced = False
    while not stop.is_set():
        is_live = position >= backlog
        data = file.read(PIECE_BYTES if is_live else min(PIECE_BYTES, backlog - position)) or b""
        position += len(data)
        if data:
            yield piece(lines.cut(data), is_live=is_live)
        elif not follow or is_replaced:
            break
        else:
            await pause(stop, LOOK_AGAIN_S)
            match _what_happened(fstat(file.fileno()), path, position):
                case "replaced":
                    is_replaced = True
                case "truncated":
                    yield piece(lines.end(), is_live=is_live)
                    position, backlog = file.seek(0), 0
                case _:
                    pass
    if not stop.is_set():
        yield piece(lines.end(), is_live=position > backlog)


def _what_happened(ours: stat_result, path: Path, position: int) -> str:
    try:
        named = path.stat()
    except FileNotFoundError:
        return "nothing"  # renamed already, not yet created anew: its writer still has the old one
    if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
        return "replaced"
    return "truncated" if ours.st_size < position else "nothing"
