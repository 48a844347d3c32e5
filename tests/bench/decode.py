"""How fast are records decoded, by whom, and what do bad ones cost? Run: python tests/bench/decode.py [records]

Prints microseconds of CPU per record, best of several interleaved rounds. Decoders are compared on the fields that the
pipeline reads; only the last row does the whole work, to a `SubmitBatch`.
"""

import io
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import msgspec
import numpy as np
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.json

from streams.contract import JudgedFields, Submit
from streams.worker.codec import CHUNK, NDJSON, decode

ROUNDS = 15
HAN = "验证码您好尊敬的用户本次登录操作有效期五分钟请勿泄露给他人退订回复优惠活动快递已送达"
NAMES = ["某某银行", "顺风快递", "阿里云", "国家电网"]


def record(rng: random.Random, i: int) -> dict[str, object]:
    """A submit with every common field, about 420 bytes."""
    text = "".join(rng.choices(HAN, k=rng.randrange(12, 28)))
    return {
        "event_id": f"gw01-20261124-{i:012d}",
        "event_time_ms": 1_795_478_400_000 + i,
        "access_port": f"1069{rng.randrange(10_000):04d}",
        "extension": str(rng.randrange(1000, 9999)),
        "received_ms": 1_795_478_400_040 + i,
        "account": f"acct{rng.randrange(500)}",
        "sp_id": f"9{rng.randrange(100_000):05d}",
        "gateway_id": f"gw{rng.randrange(9)}",
        "protocol": "cmpp",
        "carrier": rng.choice(["mobile", "unicom", "telecom"]),
        "province": "广东",
        "recipient_count": 1,
        "recipients": [f"138{rng.randrange(10**8):08d}"],
        "segment_count": 1,
        "text": f"【{rng.choice(NAMES)}】{text}",
        "submit_result": "accepted",
    }


def encoded(value: Mapping[str, object]) -> bytes:
    return orjson.dumps(value)


Spoiler = Callable[[dict[str, object]], bytes | None]

BAD: dict[str, Spoiler] = {
    "null": lambda _: None,
    "cut short": lambda r: encoded(r)[:-1],
    "bad UTF-8": lambda r: encoded(r).replace("【".encode(), b"\xff"),
    "no access_port": lambda r: encoded({k: v for k, v in r.items() if k != "access_port"}),
    "port not digits": lambda r: encoded(r | {"access_port": "1069x"}),
    "time in seconds": lambda r: encoded(r | {"event_time_ms": 1_795_478_400}),
    "account a number": lambda r: encoded(r | {"account": 7}),
    "recipient not digits": lambda r: encoded(r | {"recipients": ["+86138"]}),
    "a BOM before it": lambda r: b"\xef\xbb\xbf" + encoded(r),
    "nested 30,000 deep": lambda r: encoded(r)[:-1] + b',"x":' + b"[" * 30_000,
}


def decoders(values: list[bytes]) -> Iterator[tuple[str, Callable[[], object]]]:
    judged = msgspec.json.Decoder(JudgedFields)
    whole = msgspec.json.Decoder(Submit)
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "event_id": pl.String,
        "event_time_ms": pl.Int64,
        "access_port": pl.String,
        "extension": pl.String,
        "received_ms": pl.Int64,
        "account": pl.String,
        "carrier": pl.String,
        "recipient_count": pl.Int64,
        "recipients": pl.List(pl.String),
        "segment_count": pl.Int64,
        "text": pl.String,
    }
    arrow_schema = pa.schema(
        [
            (name, pa.int64() if kind is pl.Int64 else pa.string() if kind is pl.String else pa.list_(pa.string()))
            for name, kind in schema.items()
        ]
    )
    parse = pyarrow.json.ParseOptions(explicit_schema=arrow_schema, unexpected_field_behavior="ignore")
    read = pyarrow.json.ReadOptions(use_threads=False, block_size=1 << 24)
    offsets = np.arange(len(values))
    block = b"\n".join(values)
    yield "json.loads", lambda: list(map(json.loads, values))
    yield "orjson.loads", lambda: list(map(orjson.loads, values))
    yield (
        "pyarrow.json",
        lambda: pyarrow.json.read_json(io.BytesIO(b"\n".join(values)), read_options=read, parse_options=parse),
    )
    yield "polars.read_ndjson", lambda: pl.read_ndjson(b"\n".join(values), schema=schema, low_memory=True)
    yield "msgspec, all fields, one by one", lambda: by_chunk(whole.decode, values)
    yield "msgspec, decode_lines", lambda: by_chunk_of_lines(judged.decode_lines, values)
    yield "msgspec, one by one", lambda: by_chunk(judged.decode, values)
    yield "codec.decode of records", lambda: decode(values, offsets, offsets)
    yield "codec.decode of a block", lambda: decode([block], offsets[:1], offsets[:1], {0: NDJSON})


def by_chunk(one: Callable[[bytes], object], values: list[bytes]) -> None:
    for start in range(0, len(values), CHUNK):
        list(map(one, values[start : start + CHUNK]))


def by_chunk_of_lines(many: Callable[[bytes], object], values: list[bytes]) -> None:
    for start in range(0, len(values), CHUNK):
        many(b"\n".join(values[start : start + CHUNK]))


def spoiled(records: Sequence[dict[str, object]], spoil: Spoiler, share: float) -> list[bytes | None]:
    rng = random.Random(2)  # noqa: S311 - a repeatable sample
    bad = set(rng.sample(range(len(records)), round(share * len(records))))
    return [spoil(r) if i in bad else encoded(r) for i, r in enumerate(records)]


def best(candidates: Mapping[str, Callable[[], object]], records: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Microseconds of CPU per record, the least of some rounds in which all take turns."""
    seconds = dict.fromkeys(candidates, float("inf"))
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return {name: least / records * 1e6 for name, least in seconds.items()}


def main(count: int) -> None:
    rng = random.Random(1)  # noqa: S311 - repeatable traffic
    records = [record(rng, i) for i in range(count)]
    values = [encoded(r) for r in records]
    out = sys.stdout.write
    out(f"{count} records of {sum(map(len, values)) / count:.0f} bytes; microseconds of CPU per record\n\n")
    for name, least in best(dict(decoders(values)), count).items():
        out(f"{name:34}{least:8.2f}\n")
    shares = [0.0, 0.001, 0.01, 0.2, 1.0]
    out(f"\ncodec.decode with bad records:    {''.join(f'{share:8.1%}' for share in shares)}\n")
    offsets = np.arange(count)
    for name, spoil in BAD.items():
        batches = {str(share): spoiled(records, spoil, share) for share in shares}
        costs = best({k: partial(decode, v, offsets, offsets) for k, v in batches.items()}, count, rounds=5)
        out(f"{name:34}{''.join(f'{least:8.2f}' for least in costs.values())}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4000)
