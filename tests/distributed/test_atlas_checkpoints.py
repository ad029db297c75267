"""Training from and evaluating Atlas's `model.pth.tar` on two workers, as on one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gazetteer.errors import CheckpointError
from gazetteer.records import Ranks
from tests.support.atlas_checkpoints import atlas_model, save_atlas, untied_t5
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, make_world, results, run_evaluate, run_train
from tests.support.tiny_models import reader_tokenizer, tiny_bert

RUN = {"train_retriever": True, "query_side_retriever_training": True, "total_steps": 3}


def job(ranks: Ranks, world: Path) -> str:
    """Both programs; what a damaged file is called, on this rank."""
    size = ranks.world_size
    flags = {"reader_model_type": world / "untied", "model_path": world / "atlas"}
    run_evaluate(world, ranks, name=f"read{size}", write_results=True, **flags)
    run_train(world, ranks, name=f"train{size}", per_gpu_batch_size=4 // size, lr_retriever=0.01,
              warmup_steps=0, **RUN, **flags)  # fmt: skip
    with pytest.raises(CheckpointError) as caught:
        run_evaluate(world, ranks, name=f"bad{size}", **flags | {"model_path": world / "damaged"})
    assert caught.value.is_shared == (size > 1)
    return str(caught.value)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    untied_t5(0).save_pretrained(folder / "untied")
    reader_tokenizer().save_pretrained(folder / "untied")
    model = atlas_model(untied_t5(7), tiny_bert(5), tiny_bert(6), module="module.")
    content = save_atlas(folder / "atlas", model).read_bytes()
    (folder / "damaged").mkdir()
    (folder / "damaged" / "model.pth.tar").write_bytes(content[: len(content) // 2])
    return folder


def test_two_workers_do_what_one_does(world: Path) -> None:
    alone = job(Ranks(), world)
    assert "model.pth.tar" in alone and "\n" not in alone
    assert run_on_ranks(job, 2, world, timeout_seconds=240) == [alone, alone]
    one, two = (results(world, f"read{size}", "dev-step-0.jsonl") for size in (1, 2))
    assert two == one
    losses = [[line["loss/train_loss"] for line in logged(world, f"train{n}").values()]
              for n in (1, 2)]  # fmt: skip
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    saved = [world / f"experiments/train{size}/checkpoint/latest" for size in (1, 2)]
    for name in ("reader", "retriever/query"):
        first, second = (load_file(folder / name / "model.safetensors") for folder in saved)
        for key in first:
            torch.testing.assert_close(first[key], second[key], rtol=1e-3, atol=1e-4)
    kept = load_file(saved[1] / "retriever/passage/model.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in tiny_bert(6).state_dict().items())
