"""States of older versions, brought up to date: a step per version, on the tree that the next one reads."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.event_time import DAY_MS
from detectors.groups import OVERFLOW
from detectors.rolling import Rolling, rolling

Tree = dict[str, Any]  # a state as dicts, lists, numbers, texts and arrays


def as_array(_: type, value: Any) -> Any:  # noqa: ANN401 - msgspec asks for anything; only the array is such a type
    if isinstance(value, np.ndarray):
        return value
    return np.frombuffer(bytearray(value["data"]), value["dtype"]).reshape(value["shape"])  # version 1


def _order_of_ids(tree: Tree) -> None:
    """Version 1 kept the tables of seen ids, not the order in which they came."""
    seen = tree["seen"]
    tables = [as_array(np.ndarray, seen.pop(age)["table"]) for age in ("young", "old")]
    orders = [table[table != 0] for table in tables]
    seen["generations"] = [{"order": order, "count": len(order)} for order in orders]


def _times_of_names(tree: Tree) -> None:
    """Version 2 forgot no names, so it did not know when they came. They are taken for old ones that have just sent."""
    groups, now_ms = tree["groups"], tree["clock_ms"]
    port_of = as_array(np.ndarray, groups["port_of"])
    for code in np.flatnonzero(port_of[: len(groups["keys"])] == OVERFLOW).tolist():
        groups["keys"][code], groups["samples"][code] = groups["keys"][OVERFLOW], ""  # its port had found no room
    used = port_of != OVERFLOW
    is_port = np.arange(max(1024, len(groups["ports"]))) < len(groups["ports"])
    is_port[OVERFLOW] = False
    groups["last_ms"], groups["port_last_ms"] = used * now_ms, is_port * now_ms
    groups["since_ms"], groups["port_since_ms"] = (max(1, now_ms - DAY_MS) * names for names in (used, is_port))
    groups["leased"] = np.zeros(len(is_port), np.bool_)
    groups["turned_away"] = {"groups": overflowed} if (overflowed := groups.pop("overflowed")) else {}
    volume, signature, sublet = (tree["detectors"][name] for name in ("volume", "signature", "sublet"))
    met = np.arange(as_array(np.ndarray, volume["ring"]).shape[-1])
    volume["met"], volume["settled"] = ((met > OVERFLOW) & (met < volume[known]) for known in ("known", "settled"))
    groups["vouched"] = dict.fromkeys(volume["seed_of"])
    offences: dict[str, Any] = {}
    for key, had in signature["offences"].items():
        offences.setdefault(key[1], {})[key] = had | {"hour": _ring(had["hour"], 3)}
    signature["offences"] = offences
    for case in sublet["cases"].values():
        case["day"] = _ring(case["day"], 3)
        for tenant in case["tenants"].values():
            tenant["day"] = _ring(tenant["day"], 1)
    tree["open"]["late"] = {(bound, 0, start): sums for (bound, start), sums in tree["open"]["late"].items()}


def _ring(sparse: Tree, amounts: int) -> Rolling:
    ring = rolling(sparse["slot_ms"], sparse["slots"], amounts)
    for slot in sorted(sparse["sums"]):
        ring.add(slot * ring.slot_ms, *sparse["sums"][slot])
    return ring


# ---- version 3: the volume detector knew half-hours, weekends, and no window longer than a tick


def _windows_of_whole_ticks(tree: Tree) -> None:
    volume = tree["detectors"]["volume"]
    old, seeds = volume["baseline"], volume["seeds"]
    capacity = len(old["mean"])
    kept = ("known", "next_ms", "registry_version", "seed_of", "met", "settled")

    def zeros(dtype: npt.DTypeLike, *shape: int) -> npt.NDArray[Any]:
        return np.zeros((*shape, capacity), dtype)

    grid = {"tick_ms": 300_000, "parts": [1 / 30, 1 / 5]}
    running = {name: zeros(np.float32) for name in ("slot_submits", "slot_mean", "lately_submits", "lately_mean")}
    rings = {"counts": zeros(np.float32, 12), "means": zeros(np.float32, 12), "lately": zeros(np.float32, 3)}
    tree["detectors"]["volume"] = {name: volume[name] for name in kept} | {
        "unbroken_ms": volume["next_ms"],  # the tick that is under way has lost its beginning: nothing is learnt of it
        "seeds": seeds
        and {"ports": seeds["ports"], "history": _history(seeds["history"]), "classes": _classes(seeds["classes"])},
        "watch": {
            "baseline": {
                "grid": grid,
                "history": _history(old["ports"]),
                "running": running | rings | {"slot_ticks": zeros(np.int16)},
                "classes": _classes(old["classes"]),
                "class_of": as_array(np.ndarray, old["class_of"]).astype(np.int32),
                "profile": old["profile"],
                "mean": zeros(np.float32),
                "lately": zeros(np.float32),
                "tick_ms": old["tick_ms"],
            },
            "since": zeros(np.int32, 3),
            "last": zeros(np.int32, 3),
            "paging": zeros(np.bool_, 3),
            "jumped": zeros(np.bool_),
        },
        "early": {
            "ring": zeros(np.int32, 6),
            "sums": zeros(np.int32, 3),
            "squares": zeros(np.float32, 2),
            "cubes": zeros(np.float32, 2),
            "most": zeros(np.float32, 2),
            "enter": np.full((3, capacity), np.inf, np.float32),
            "since": zeros(np.int32),
            "last": zeros(np.int32),
        },
    }


def _history(old: Tree) -> Tree:
    """Of the longer windows it is assumed, with care, that what strays does so for all of their ticks."""
    sums = {name: as_array(np.ndarray, old[name]) for name in ("strayed", "skewed", "mean", "square")}
    ticks, deviation = (as_array(np.ndarray, old[name]) for name in ("ticks", "deviation"))
    told = np.minimum(ticks, 8_064).astype(np.float32)
    mean = sums["mean"][2] / np.maximum(told, 1)
    parts, longer = (1 / 30, 1 / 5), (1, 3, 12)
    number = np.stack([told / np.float32(span) for span in (*parts, *longer)])
    per_window = np.stack([mean * np.float32(span) for span in (*parts, *longer)])
    grown = {"mean": 0, "square": 1, "strayed": 1, "skewed": 2}  # with which power of the length, per tick

    def stretched(name: str) -> npt.NDArray[Any]:
        ticks_of = [sums[name][2] * np.float32(ticks ** grown[name]) for ticks in longer[1:]]
        return np.concatenate([sums[name], np.stack(ticks_of)])

    strays = {name: stretched(name) for name in grown}
    days = np.outer((5, 2, 0), ticks / (7 * 288)).clip(0, 255).astype(np.uint8)
    return {
        "submits": old["submits"],
        "exposure": old["exposure"],
        "ticks": ticks,
        "days": days,
        "deviation": _hours(deviation.T).T.copy(),
        "told_parts": told,
        "told_whole": told,
        "strays": strays | {"inverse": number / (1 + per_window), "leaning": strays["strayed"] / (1 + per_window)},
        "odd": np.zeros((2, 3, len(ticks)), np.float32),
        "beyond": np.zeros((2, 3, len(ticks)), np.float32),
    }


def _classes(old: Tree) -> Tree:
    arrays = {name: as_array(np.ndarray, value) for name, value in old.items()}
    longer = {
        name: np.concatenate([arrays[name], *(arrays[name][:, 2:] * grows for grows in factors)], axis=1)
        for name, factors in (("psi", (3, 12)), ("phi", (1, 1)), ("batch", (3, 12)))
    }
    first_day = arrays["first_day"].reshape(-1, 24, 2).sum(axis=2)
    both = {name: _hours(arrays[name]) for name in ("profile", "seen")}
    return {name: arrays[name] for name in ("ticks", "level", "likeness")} | longer | both | {"first_day": first_day}


def _hours(half: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[n, 2 kinds x 48 half-hours] to [n, 3 kinds x 24 hours]; a holiday is taken for a day at the weekend."""
    hours = half.reshape(-1, 2, 24, 2).mean(axis=3).astype(half.dtype)
    return np.concatenate([hours, hours[:, 1:]], axis=1).reshape(len(half), -1)


MIGRATIONS: dict[int, Callable[[Tree], None]] = {1: _order_of_ids, 2: _times_of_names, 3: _windows_of_whole_ticks}
"""Version -> what makes its tree one of the version that followed, in place."""
