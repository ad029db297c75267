"""The scoreboard as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

QUALITY = {
    "exact_match": "EM",
    "token_f1": "F1",
    "answer_match": "match",
    "rouge_l": "ROUGE-L",
}


def markdown(board: Mapping[str, Any]) -> str:
    """Two tables: what is answered, and what it costs."""
    rows = board["rows"]
    timing = board["timing"]
    parts = [
        f"{board['questions']} questions; 95 % bootstrap intervals in brackets. "
        f'The baseline is "{board["baseline"]}"; differences and ratios are paired by question.',
        _table(_quality(rows)),
        f"One query, answered with {timing['new_tokens']} tokens; averages of up to "
        f"{timing['queries']} queries on {board['device']}. GFLOPs by torch's counter; keys and "
        "values when the answer is done; times are medians, each contestant in turns with the "
        "baseline.",
        _table(_costs(rows, timing["batch_size"])),
    ]
    return "\n\n".join(parts) + "\n"


def _quality(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    table = [["", *QUALITY.values(), "words", "F1 - baseline's", "share of its F1"]]
    for row in rows:
        cells = [row["name"]]
        for name in QUALITY:
            cells.append(_percent(row["measures"][name], row["intervals"][name]))
        cells.append(f"{row['measures']['answer_length']:.1f}")
        difference = row["differences"]["token_f1"]
        cells.append(_percent(difference["mean"], difference["interval"]))
        kept = row["f1_kept"]
        cells.append("" if kept["ratio"] is None else _ratio(kept["ratio"], kept["interval"]))
        table.append(cells)
    return table


def _costs(rows: Sequence[Mapping[str, Any]], size: int) -> list[list[str]]:
    sizes = list(dict.fromkeys(("1", str(size))))
    table = [
        [
            "", "vectors", "tokens per vector", "encode or compress", "prefill", "decode", "total",
            "reader's FLOPs less", "K/V kB", "less", *(f"ms, batch {each}" for each in sizes),
            *(f"speedup, batch {each}" for each in sizes),
        ]
    ]  # fmt: skip
    for row in rows:
        costs, less = row["costs"], row["times_less"]
        rate = costs["rate"]
        table.append(
            [
                row["name"],
                f"{costs['vectors']:.0f}",
                "" if rate is None else f"{rate:.1f}",
                *(
                    f"{costs[f'{part}_flops'] / 1e9:.3g}"
                    for part in ("encode", "prefill", "decode", "total")
                ),
                _times(less["reader_flops"]),
                f"{costs['kv_bytes'] / 1e3:.4g}",
                _times(less["kv_bytes"]),
                *(f"{row['time'][each]['median_ms_per_query']:.3g}" for each in sizes),
                *(
                    f"{row['time'][each]['speedup']:.2f}x "
                    + "[{:.2f}, {:.2f}]".format(*row["time"][each]["interval"])
                    for each in sizes
                ),
            ]
        )
    return table


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(cells)} |" for cells in rows)
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    return "\n".join([head, rule, *body])


def _percent(value: float, interval: Sequence[float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _ratio(value: float, interval: Sequence[float] | None) -> str:
    return f"{value:.2f}" + ("" if interval is None else " [{:.2f}, {:.2f}]".format(*interval))


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"
