"""What a benchmark process found out, as a line of JSON that its parent reads."""

import resource

import msgspec


class Measured(msgspec.Struct):
    """`seconds` and `cpu_seconds` are for `records`, from the first batch on; peak memory is the whole process'."""

    records: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    stages: dict[str, float] = {}

    @property
    def per_s(self) -> float:
        return self.records / self.seconds

    @property
    def cpu_s_per_million(self) -> float:
        return self.cpu_seconds / self.records * 1e6


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
