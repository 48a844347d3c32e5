"""Microseconds of CPU per text for the reading of names. Run: python tests/bench/extract.py"""

import random
import time
from collections.abc import Callable

from detectors.signature.extract import extract, extract_column
from detectors.signature.masking import masked

ROWS = 20_000
ROUNDS = 7
BODY = "您的验证码是{}，请在5分钟内完成验证，如非本人操作请忽略本短信，切勿告知他人，感谢您的支持与理解。"


def names(count: int) -> list[str]:
    rng = random.Random(1)  # noqa: S311 - reproducible data, no secret
    return ["".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(2, 6))) for _ in range(count)]


def plain(name: str, row: int) -> str:
    return f"【{name}】{BODY.format(row)}"


def nobody(_: str, row: int) -> str:
    return BODY.format(row)


def tail(name: str, row: int) -> str:
    return f"{BODY.format(row)}【{name}】退订回T"


def bracketed_code(name: str, row: int) -> str:
    return f"【{name}】验证码【{row}】，请勿泄露，如非本人操作请忽略本短信。"


SHAPES: dict[str, tuple[list[Callable[[str, int], str]], int]] = {
    "plain heads, 500 names": ([plain], 500),
    "plain heads, a name per text": ([plain], ROWS),
    "no bracket": ([nobody], 500),
    "tails before an opt-out": ([tail], 500),
    "heads with a bracketed code": ([bracketed_code], 500),
    "mixed: 96 % plain, the rest of all kinds": ([plain] * 96 + [nobody, tail, tail, bracketed_code], 500),
}


def cost_us(shape: str) -> float:
    """Best of several rounds, on texts that nobody has hashed yet."""
    kinds, count = SHAPES[shape]
    senders = names(count)
    best = float("inf")
    for _ in range(ROUNDS):
        texts: list[str | None] = [kinds[row % len(kinds)](senders[row % count], row) for row in range(ROWS)]
        started = time.process_time()
        extract_column(texts)
        best = min(best, time.process_time() - started)
    return best / ROWS * 1e6


def sample_cost_us() -> float:
    texts = [plain(name, 482_913) for name in names(500)]
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for text in texts:
            masked(text, *extract(text))
        best = min(best, time.process_time() - started)
    return best / len(texts) * 1e6


if __name__ == "__main__":
    for shape in SHAPES:
        print(f"{cost_us(shape):8.3f} us/text  {shape}")
    print(f"{sample_cost_us():8.3f} us/text  masked sample of a plain head, once per group")
