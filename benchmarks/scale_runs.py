"""Real runs of 1 to 4 gloo workers, for `benchmarks.scale_model --check`.

Counted are the bytes that a worker hands to each collective of an update, and its CPU seconds in an
update and in a refresh, medians: CPU time, since more workers than cores take turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gazetteer.options import parse_options
from gazetteer.records import Ranks
from tests.support.ranks import run_on_ranks
from tests.support.runs import make_world, words_of

PASSAGES, QUERIES, HITS, UPDATES = 1_200, 2, 4, 8
DIM = 32
NAMES = {
    "all_gather": ("number of queries", "queries"),
    "all_to_all_single": ("hits",),
    "all_reduce": ("target tokens", "gradients"),
}
"""In the order in which an update calls them; the last name is for all that follow."""


def measure() -> dict[str, Any]:
    """Run, and gather what rank 0 saw; the workers are alike."""
    runs: dict[str, Any] = {}
    gradients = 0
    with tempfile.TemporaryDirectory() as scratch:
        world = make_world(Path(scratch), corpus=PASSAGES, train=200)
        for workers in (1, 2, 3, 4):
            found = run_on_ranks(_train, workers, str(world), timeout_seconds=900)[0]
            gradients = found.pop("gradients")
            runs[str(workers)] = found
    load = {"dim": DIM, "queries": QUERIES, "passages": HITS, "hits": HITS, "weight_bytes": 4}
    return {"rows": PASSAGES, "gradients": gradients, "workload": load, "runs": runs}


def _train(ranks: Ranks, world: str) -> dict[str, Any]:
    from gazetteer.data_files import open_data
    from gazetteer.stats import WeightedStats
    from gazetteer.training import loop
    from gazetteer.training.building import build_training

    flags = {
        "name": f"workers{ranks.world_size}",
        "n_context": HITS,
        "retriever_n_context": HITS,
        "train_retriever": True,
        "per_gpu_batch_size": QUERIES,
        "total_steps": UPDATES,
    }
    options = parse_options(words_of(Path(world), "train", **flags), program="train")
    run = build_training(options, ranks, open_data(options, ranks, is_training=True))
    assert run.retrieving is not None
    keeper = run.retrieving.keeper
    refreshes = []
    for number in range(4):
        start = time.process_time()
        keeper.refresh(number + 1)
        refreshes.append(time.process_time() - start)
    trained = [p for optimiser in run.state.optimisers.values() for p in optimiser.parameters]
    counted: list[Counter[str]] = []
    seconds = []
    with _Counting(run.step) as counting:
        for _ in range(UPDATES):
            start = time.process_time()
            loop.update(run, WeightedStats())
            seconds.append(time.process_time() - start)
            counted.append(counting.taken())
    assert all(each == counted[0] for each in counted[1:]), counted
    return {
        "bytes": dict(counted[0]),
        "step": statistics.median(seconds[1:]),
        "refresh": statistics.median(refreshes[1:]),
        "gradients": sum(p.nbytes for p in trained),
    }


class _Counting:
    """Adds up what is handed to collectives, gradients that are averaged included."""

    def __init__(self, step: Any) -> None:  # noqa: ANN401 - replicated or not
        self._step = step
        self._bytes: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._originals: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> _Counting:
        import torch.distributed as dist
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        for name in NAMES:
            self._originals[name] = getattr(dist, name)
            setattr(dist, name, self._counted(name))
        if hasattr(self._step, "register_comm_hook"):
            # What torch would do unseen, through the function that is counted.
            self._step.register_comm_hook(None, allreduce_hook)
        return self

    def __exit__(self, *reason: object) -> None:
        import torch.distributed as dist

        for name, original in self._originals.items():
            setattr(dist, name, original)

    def taken(self) -> Counter[str]:
        """What was counted since."""
        found, self._bytes = self._bytes, Counter()
        self._calls = Counter()
        return found

    def _counted(self, name: str) -> Callable[..., Any]:
        original = self._originals[name]

        def counted(*words: Any, **named: Any) -> Any:  # noqa: ANN401
            # all_reduce(tensor), all_gather(parts, mine), all_to_all_single(out, sent, ..)
            tensor = words[0] if name == "all_reduce" else words[1]
            known = NAMES[name]
            what = known[min(self._calls[name], len(known) - 1)]
            self._calls[name] += 1
            self._bytes[what] += tensor.nbytes
            return original(*words, **named)

        return counted
