"""A decoder-only reader on two workers learns and answers as on one."""

from pathlib import Path

import pytest

from gazetteer.records import Ranks
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, make_world, run_evaluate, run_train
from tests.support.tiny_causal import save_tiny_causal


def job(ranks: Ranks, world: Path) -> None:
    size = ranks.world_size
    reader = {"reader_model_type": world / "llama", "reader_lora_rank": 2}
    run_train(world, ranks, name=f"train{size}", per_gpu_batch_size=4 // size, total_steps=4,
              train_retriever=True, gold_score_mode="loop", lr=1e-4, refresh_index="2",
              **reader)  # fmt: skip
    run_evaluate(world, ranks, name=f"read{size}", write_results=True, generation_min_length=4,
                 **reader)  # fmt: skip


def test_losses_and_answers_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    save_tiny_causal(make_world(tmp_path) / "llama", has_chat=True)
    job(Ranks(), tmp_path)
    run_on_ranks(job, 2, tmp_path, timeout_seconds=240)
    one, two = logged(tmp_path, "train1"), logged(tmp_path, "train2")
    assert len(one) == len(two) == 4
    for step, record in one.items():
        for name in ("loss/reader_loss", "loss/retriever_loss"):
            assert two[step][name] == pytest.approx(record[name], rel=1e-5), (step, name)
    expected, found = (
        (tmp_path / "experiments" / f"read{size}" / "dev-step-0.jsonl").read_bytes()
        for size in (1, 2)
    )
    assert found == expected
