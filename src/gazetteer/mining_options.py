"""Flags of mining in the loop, for `--task dense`; bounds are in option_bounds.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gazetteer.flags import flag, flags_of
from gazetteer.task_names import DENSE

if TYPE_CHECKING:
    from gazetteer.options import Options


@dataclass(frozen=True, kw_only=True, slots=True)
class MiningOptions:
    """Mining: hard negatives out of the index, whenever it is embedded (--task dense)."""

    mine_negatives: int = flag(
        0, "negatives per line, instead of its own; anew with every --refresh_index (new)"
    )
    mine_depth: int = flag(200, "passages found per query that they are drawn from (new)")
    mine_margin: float | None = flag(
        None, "drop what scores above (1 - this) of the best positive found; 0.05 is usual (new)"
    )
    mine_new_texts: bool = flag(
        False, "drop what has the tokens of a positive or an earlier negative (new)"
    )
    mine_memory: float = flag(0.0, "share of negatives that stay from the last time (new)")


def mining_rules(options: Options, program: str) -> Iterator[str]:
    """What mining needs, and what it cannot go with."""
    mining = options.mining
    if not mining.mine_negatives:
        return
    given = f"--mine_negatives ({mining.mine_negatives})"
    if options.task.task != DENSE:
        yield f"{given} must come with --task {DENSE}"
    if not (options.data.passages or options.index.load_index_path):
        yield f"{given} must come with --passages, where they are found"
    if mining.mine_depth < mining.mine_negatives:
        rule = f"be at least --mine_negatives ({mining.mine_negatives})"
        yield f"--mine_depth ({mining.mine_depth}) must {rule}"
    if options.retriever.query_side_retriever_training:
        yield (
            f"{given} must not come with --query_side_retriever_training: it follows the refreshes "
            "of the index, and there would be none"
        )
    if options.dense.dense_loss != "infonce":
        yield (
            f"{given} must not come with --dense_loss {options.dense.dense_loss}: no teacher has "
            "scored what will be found"
        )


def mining_remarks(options: Options) -> Iterator[str]:
    """Flags that do nothing here."""
    mining = options.mining
    for each in flags_of(MiningOptions) if not mining.mine_negatives else ():
        value = getattr(mining, each.name)
        if value != each.default:
            yield f"{each.name} {value}: no effect without --mine_negatives"
