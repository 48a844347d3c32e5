"""Traffic for benchmarks: many ports, dense in time, lawful: what is measured is the path and not its alarms."""

from pathlib import Path

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from streams.simulate import simulate

PORTS = 2_000
EXTENSIONS = 2
RECORD_BYTES = 330
SUBMITS_PER_S = 20_000  # of event time
START_MS = 1_794_268_800_000
_SHARE_EXPONENT = 0.8  # of a Zipf law over ports: the busiest has about 1 % of all


def write(folder: Path, records: int) -> None:
    """submits.jsonl (records of about RECORD_BYTES) and registry/ for PORTS ports with EXTENSIONS filings each.

    Texts are those of the simulator's templates; each port has three names of its own.
    """
    rng = np.random.default_rng(7)
    bodies = texts()
    ports = [f"1069{n:06d}" for n in range(PORTS)]
    extensions = [f"{n:04d}" for n in range(EXTENSIONS)]
    names = [[name(port * EXTENSIONS + n) for n in range(EXTENSIONS)] for port in range(PORTS)]
    write_registry(folder / "registry", ports, extensions, names)
    which = rng.choice(PORTS, records, p=shares(PORTS)).tolist()
    extension = rng.integers(0, EXTENSIONS, records).tolist()
    delay = rng.integers(20, 900, records).tolist()
    with (folder / "submits.jsonl").open("wb") as file:
        for n, (port, number, late) in enumerate(zip(which, extension, delay, strict=True)):
            at_ms = START_MS + n * 1_000 // SUBMITS_PER_S
            record = {
                "event_id": f"b{n:021d}",
                "event_time_ms": at_ms,
                "access_port": ports[port],
                "extension": extensions[number],
                "received_ms": at_ms + late,
                "account": f"acc9{port:05d}",
                "carrier": ("mobile", "unicom", "telecom")[n % 3],
                "recipient_count": 1,
                "text": f"【{names[port][number]}】{bodies[n % len(bodies)]}",
            }
            file.write(orjson.dumps(record) + b"\n")


def texts() -> list[str]:
    """What stands behind the name in the simulator's texts."""
    models = [orjson.loads(line) for _, line in zip(range(20_000), simulate("quiet-day", 1).lines(), strict=False)]
    return [text.partition("】")[2] for model in models if (text := model.get("text") or "").startswith("【")]


def shares(ports: int) -> NDArray[np.float64]:
    """Of all submits, per port: float64[ports], the busiest first."""
    share = 1 / np.arange(1, ports + 1) ** _SHARE_EXPONENT
    of_all: NDArray[np.float64] = share / share.sum()
    return of_all


def name(number: int) -> str:
    """A different name for every number."""
    syllables = "云山海川林松竹梅兰菊春夏秋冬东西南北青白"
    return "".join(syllables[number // len(syllables) ** place % len(syllables)] for place in range(4)) + "科技"


def write_registry(folder: Path, ports: list[str], extensions: list[str], names: list[list[str]]) -> None:
    """Each port leased to an enterprise of its own, which has filed one name on each extension."""
    folder.mkdir()
    encode = msgspec.json.Encoder().encode_lines
    leases = [{"access_port": port, "lessee_id": f"E{n}", "purposes": ["code"]} for n, port in enumerate(ports)]
    filings = [
        {"access_port": port, "extension": extension, "signature": names[n][k], "enterprise_id": f"E{n}", "state": 3}
        for n, port in enumerate(ports)
        for k, extension in enumerate(extensions)
    ]
    (folder / "ports.jsonl").write_bytes(encode(leases))
    (folder / "signatures.jsonl").write_bytes(encode(filings))
