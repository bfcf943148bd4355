"""The benchmark's results: one row per case from what its ranks measured, and lines of text."""

import sys
from collections.abc import Sequence
from typing import Any

from spava_app.engine.bench.cases import Case

GIB = 2**30


def row(case: Case, ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A case's row: the slowest rank's seconds, and each rank's memory in bytes."""

    def slowest(which: str) -> dict[str, float]:
        stages = ranks[0][which]
        return {stage: max(rank[which][stage] for rank in ranks) for stage in stages}

    return {
        "model": case.model,
        "method": case.method,
        "options": dict(case.options),
        "tokens": case.num_tokens,
        "first_seconds": slowest("first_seconds"),
        "seconds": slowest("seconds"),
        "seconds_per_token": max(rank["seconds_per_token"] for rank in ranks),
        "prefill_flops": ranks[0]["flops"],
        "prefill_of_matmul": min(rank["of_matmul"] for rank in ranks),
        "memory": [
            {name: rank[name] for name in ("predicted", "peak", "reserved", "outside")}
            for rank in ranks
        ],
        "profile": ranks[0]["profile"],
    }


def print_load(load: dict[str, Any]) -> None:
    """Print how a model came to the device, and the head of the table that follows."""
    first = load["ranks"][0]
    say(f"\n{load['model']}: ", end="")
    if "made" in first:
        say(f"weights made on the device in {first['made']:.1f} s")
    else:
        for kind in ("cold", "warm"):
            slowest = max((rank[kind] for rank in load["ranks"]), key=lambda one: one["seconds"])
            say(f"{kind} {slowest['seconds']:.1f} s, {slowest['gb_per_s']:.2f} GB/s; ", end="")
        before, after = first["host_before"], first["host_after"]
        say(f"host peak {_gib(before['peak'])} before, {_gib(after['peak'])} after", end="")
        say(f", its own memory at most {_gib(after['peak_anonymous'])}")
    say(f"{'method':12} {'tokens':>8} {'first s':>8} {'prefill s':>9} {'ms/token':>9}", end="")
    say(f" {'of matmul':>9}  peak GiB by rank: measured (predicted, off by)")


def print_row(row: dict[str, Any]) -> None:
    """Print a case, and the kernels of its profile."""
    shares = []
    for memory in row["memory"]:
        peak, predicted = memory["peak"], memory["predicted"]["total"]
        shares.append(f"({_gib(predicted)})")
        if peak is not None:
            shares[-1] = f"{_gib(peak)} ({_gib(predicted)}, {predicted / peak - 1:+.1%})"
    say(
        f"{row['method']:12} {row['tokens']:>8} {row['first_seconds']['prefill']:>8.3f} "
        f"{row['seconds']['prefill']:>9.3f} {1e3 * row['seconds_per_token']:>9.2f} "
        f"{row['prefill_of_matmul']:>9.1%}  {', '.join(shares)}"
    )
    for kernel in row["profile"] or ():
        say(f"    {kernel['ms']:10.1f} ms {kernel['calls']:>6} x {kernel['name'][:100]}")


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / GIB:.2f}"


def say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()
