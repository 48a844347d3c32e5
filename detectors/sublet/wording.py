"""What a sublet finding says to a person, and which innocent explanations it has excluded, in English and Chinese."""

from collections.abc import Sequence

import numpy as np

from detectors.contract import Wording
from detectors.registry import PortLease, Registry
from detectors.signature.masking import shown
from detectors.sublet.owners import Owner

_NAMED = 3
_SHANGHAI_MS = 8 * 3_600_000  # ahead of UTC


def summary(
    port: str, lease: PortLease, enterprises: Sequence[str], unknown: int, submits: int, share: float
) -> Wording:
    """One sentence; `submits` and `share` are those of foreign tenants within a day."""
    lessee = shown(lease.lessee_name or lease.lessee_id or "")
    names = [shown(name) for name in enterprises[:_NAMED]]
    more = len(enterprises) > _NAMED
    which_en = f" ({', '.join(names)}{', ...' if more else ''})" if names else ""
    which_zh = f"（{'、'.join(names)}{'等' if more else ''}）" if names else ""
    unknown_en = f" and {unknown} names of unknown owners" if unknown else ""
    unknown_zh = f"及 {unknown} 个归属不明的签名" if unknown else ""
    return Wording(
        f"{port}, leased to {lessee}, is used by {len(enterprises)} other enterprises{which_en}{unknown_en}: "
        f"{submits:,} submits within a day, {share:.0%} of what the port sent meanwhile",
        f"{port}（承租方：{lessee}）被 {len(enterprises)} 家其他企业使用{which_zh}{unknown_zh}："
        f"24 小时内 {submits:,} 条，占同期该端口 {share:.0%}",
    )


def ruled_out(lease: PortLease, owners: Sequence[Owner], registry: Registry, at_ms: int) -> tuple[Wording, ...]:
    """What was looked up for these owners, none of whom it excuses."""
    group = lease.group_id or registry.group_of(lease.lessee_id or "")
    lapsed = _lapsed(lease, owners, at_ms)
    return (
        Wording(
            f"Same group: none of them belongs to the lessee's group ({group})",
            f"同一集团：均不属于承租方所在集团（{group}）",
        ),
        Wording(
            f"Authorised third party: {len(lease.third_parties)} on file for this port, none of them in its dates"
            + (f"; lapsed: {lapsed}" if lapsed else ""),
            f"授权第三方：该端口登记 {len(lease.third_parties)} 家，均不在有效期内或不相符"
            + (f"；已失效：{lapsed}" if lapsed else ""),
        ),
        Wording(
            "Filed on this port: none of the names has a filing in force here",
            "本端口报备：相关签名在本端口均无有效报备",
        ),
        Wording(
            f"Aggregator or platform: the customer type is {lease.customer_type}; clients filed here are left out",
            f"聚合商或平台：客户类型为 {lease.customer_type}，已报备客户不计入",
        ),
    )


def _lapsed(lease: PortLease, owners: Sequence[Owner], at_ms: int) -> str:
    ids = {owner.enterprise_id for owner in owners}
    ended = [(p.enterprise_id, p.to) for p in lease.third_parties if p.enterprise_id in ids and p.to and p.to <= at_ms]
    return ", ".join(f"{party} ({_day(to_ms)})" for party, to_ms in ended)


def _day(at_ms: int) -> str:
    """The date in Shanghai."""
    return str(np.datetime64(at_ms + _SHANGHAI_MS, "ms").astype("datetime64[D]"))
