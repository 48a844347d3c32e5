"""The state of a partition as pages of bytes, and back: a checkpoint writes only the pages that changed.

Arrays are cut into pages of equal size, the tables of names into blocks of codes; all the rest of a state is one page,
the skeleton. Whether a page changed its digest tells.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any

import cramjam
import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from detectors.groups import BLOCK, Groups
from detectors.pipeline import PartitionState, Pipeline
from streams.worker.older import MIGRATIONS, Tree, as_array

STATE_VERSION = 4
"""Raised whenever the layout of a state changes, together with an entry in `older.MIGRATIONS`."""

PAGE_BYTES = 1 << 16
"""Of an array: small enough that little around a change is written with it, and 100,000 ports still have only some
1,000 pages. Part of the layout."""

_ZSTD_LEVEL = 1
_FIRST_PAGED = 2  # the version whose checkpoints were first cut into pages
_SKELETON = ""
_ARRAY = 1  # MessagePack extension that stands for an array: its number, dtype and shape
_TABLES = {"keys": "touched", "samples": "touched", "ports": "touched_ports"}
"""The lists of `Groups` that are cut into blocks of codes, and the set that names the blocks that changed."""

Digests = dict[str, bytes]  # page -> XXH3 of its bytes; 128 bits, so equal digests are taken for equal pages


class ImageError(Exception):
    """Bytes that are no state of ours."""


class NewerStateError(ImageError):
    """A newer portwatch wrote the state: it is sound, and this one can't read it."""


class _Versioned(msgspec.Struct):
    version: int


class _Segment(msgspec.Struct):
    """What one checkpoint writes."""

    version: int
    pages: dict[str, bytes]
    gone: list[str]  # pages of earlier segments that are no more


@dataclass(frozen=True, slots=True)
class Look:
    """The pages of a state as of one moment that are not held yet. Its own bytes, whatever the state does next."""

    pages: Mapping[str, tuple[int, bytes]]  # with the bytes of one item, for `packed`
    gone: list[str]
    digests: Digests  # of all pages

    def packed(self) -> bytes:
        """The segment to write. Needs the state no more, so it may be made in another thread."""
        pages = {name: _planes(content, item) for name, (item, content) in self.pages.items()}
        plain = msgspec.msgpack.encode(_Segment(STATE_VERSION, pages, self.gone))
        return bytes(cramjam.zstd.compress(plain, level=_ZSTD_LEVEL))


@dataclass(slots=True)
class Pages:
    """Follows one state from checkpoint to checkpoint."""

    held: Digests = field(default_factory=dict)  # what is durable; set by the caller, when it is
    _blocks: Digests = field(default_factory=dict)  # of the tables, as of the last look

    def look(self, state: PartitionState) -> Look:
        """What has changed against `held`. The state must stand still meanwhile."""
        state.open.sum_up()
        arrays: list[npt.NDArray[Any]] = []
        pages: dict[str, tuple[int, bytes]] = {}
        digests: Digests = {}

        def keep(name: str, item: int, content: bytes | memoryview) -> None:
            digests[name] = xxhash.xxh3_128_digest(content)
            if digests[name] != self.held.get(name):
                pages[name] = item, bytes(content)

        keep(_SKELETON, 1, _skeleton(state, arrays))
        for number, array in enumerate(arrays):
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            for page, at in enumerate(range(0, len(content), PAGE_BYTES)):
                keep(f"{number}/{page}", array.itemsize, content[at : at + PAGE_BYTES])
        for table, touched in _TABLES.items():
            entries: list[Any] = getattr(state.groups, table)
            changed: set[int] = getattr(state.groups, touched)
            for block, at in enumerate(range(0, len(entries), BLOCK)):
                name = f"{table}/{block}"
                known = None if block in changed else self._blocks.get(name)
                if known is None or known != self.held.get(name):
                    keep(name, 1, msgspec.msgpack.encode(entries[at : at + BLOCK]))
                    self._blocks[name] = digests[name]
                else:
                    digests[name] = known
        state.groups.touched.clear()
        state.groups.touched_ports.clear()
        return Look(pages, [name for name in self.held if name not in digests], digests)


def pack(state: PartitionState) -> bytes:
    """A whole state as one segment."""
    return Pages().look(state).packed()


def unpack(segments: Iterable[bytes], pipeline: Pipeline) -> PartitionState:
    """The state of a whole segment and those that followed it, of this version or an older one. Raises ImageError."""
    try:
        tree = _tree(segments)
        state = msgspec.convert(tree, PartitionState, dec_hook=as_array)
        for detector in pipeline.detectors:
            blank = detector.start()
            held = state.detectors.get(detector.name)
            state.detectors[detector.name] = (
                blank if held is None else msgspec.convert(held, type(blank), dec_hook=as_array)
            )
    except (cramjam.DecompressionError, msgspec.MsgspecError, LookupError, TypeError, ValueError) as error:
        raise ImageError(f"not a portwatch state: {error}") from error
    return state


def _skeleton(state: PartitionState, arrays: list[npt.NDArray[Any]]) -> bytes:
    """All of a state but its arrays, which are appended to the list, and its tables."""

    def stand_in(value: Any) -> Any:  # noqa: ANN401 - msgspec asks for anything that it doesn't know
        if isinstance(value, np.ndarray):
            arrays.append(value)
            about = msgspec.msgpack.encode((len(arrays) - 1, value.dtype.str, value.shape))
            return msgspec.msgpack.Ext(_ARRAY, about)
        if isinstance(value, np.generic):
            return value.item()
        raise NotImplementedError(f"{type(value).__name__} in a state")

    tree = {f.name: getattr(state, f.name) for f in fields(state)}
    tree["groups"] = {f.name: getattr(state.groups, f.name) for f in fields(Groups) if f.name not in _TABLES}
    return msgspec.msgpack.encode(tree, enc_hook=stand_in)


def _tree(segments: Iterable[bytes]) -> Tree:
    version, pages = STATE_VERSION, dict[str, bytes]()
    for packed in segments:
        plain = bytes(cramjam.zstd.decompress(packed))
        version = msgspec.msgpack.decode(plain, type=_Versioned).version
        if version > STATE_VERSION:
            raise NewerStateError(
                f"state version {version}, this portwatch reads up to {STATE_VERSION}: upgrade it, the state is sound"
            )
        if version < _FIRST_PAGED:
            tree: Tree = msgspec.msgpack.decode(plain)["state"]
            break
        segment = msgspec.msgpack.decode(plain, type=_Segment)
        for name in segment.gone:
            del pages[name]
        pages |= segment.pages
    else:
        tree = _assembled(pages)
    for older in range(version, STATE_VERSION):
        MIGRATIONS[older](tree)
    return tree


def _assembled(pages: Mapping[str, bytes]) -> Tree:
    def array(_: int, about: memoryview) -> npt.NDArray[Any]:
        number, dtype, shape = msgspec.msgpack.decode(about, type=tuple[int, str, tuple[int, ...]])
        item = np.dtype(dtype).itemsize
        count = -(-prod(shape) * item // PAGE_BYTES)
        content = bytearray().join(_items(pages[f"{number}/{page}"], item) for page in range(count))
        return np.frombuffer(content, dtype).reshape(shape)

    tree: Tree = msgspec.msgpack.decode(pages[_SKELETON], ext_hook=array)
    for table in _TABLES:
        entries: list[Any] = []
        while (name := f"{table}/{len(entries) // BLOCK}") in pages and len(entries) % BLOCK == 0:
            entries += msgspec.msgpack.decode(pages[name])
        tree["groups"][table] = entries
    return tree


def _planes(content: bytes, item: int) -> bytes:
    """First bytes of all items, then second ones, and so on: what is alike stands together, which zstd likes."""
    return np.frombuffer(content, np.uint8).reshape(-1, item).T.tobytes()


def _items(planes: bytes, item: int) -> bytes:
    """`_planes` undone."""
    return np.frombuffer(planes, np.uint8).reshape(item, -1).T.tobytes()
