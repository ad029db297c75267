"""train.py and evaluate.py begin with a checkpoint of Atlas as with the folders made of it."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gazetteer import dry_run
from gazetteer.convert.__main__ import main
from gazetteer.errors import CheckpointError, OptionError
from gazetteer.records import Ranks
from tests.support.atlas_checkpoints import atlas_model, save_atlas, untied_t5
from tests.support.runs import logged, make_world, options_of, results, run_evaluate, run_train
from tests.support.tiny_models import reader_tokenizer, tiny_bert, tiny_t5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    untied_t5(0).save_pretrained(folder / "untied")
    reader_tokenizer().save_pretrained(folder / "untied")
    return folder


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["reader", "untied"])
def test_model_path_gives_what_converted_folders_give(
    world: Path, kind: str, precision: str
) -> None:
    reader = tiny_t5(7) if kind == "reader" else untied_t5(7)
    passage = tiny_bert(6) if kind == "untied" else None
    name = f"{kind}-{precision}"
    model = atlas_model(reader, tiny_bert(5), passage, module="module.")
    atlas = save_atlas(world / f"atlas-{name}", model).parent
    arguments = ["--reader_model_type", world / kind, "--retriever_model_path", world / "retriever"]
    ours = world / f"ours-{name}"
    assert main([str(atlas), "--output", str(ours), *map(str, arguments)]) == 0
    flags = {"reader_model_type": world / kind, "precision": precision, "write_results": True}
    for label, path in (("atlas", atlas), ("ours", ours)):
        run_evaluate(world, name=f"{label}-{name}", model_path=path, **flags)
    run_evaluate(world, name=f"other-{name}", **flags)
    found = [
        (results(world, f"{label}-{name}", "dev-step-0.jsonl"), eval_loss(world, f"{label}-{name}"))
        for label in ("atlas", "ours", "other")
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]


def eval_loss(world: Path, name: str) -> float:
    return logged(world, name, "eval")[0]["dev.jsonl/eval_loss"]


def test_training_begins_with_it_and_says_so(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    reader = untied_t5(7)
    atlas = save_atlas(world / "start", atlas_model(reader, tiny_bert(5))).parent
    caplog.set_level(logging.INFO)
    flags = {"reader_model_type": world / "untied", "model_path": atlas}
    run_train(world, name="begun", total_steps=1, lr=0, weight_decay=0, **flags)
    log = (world / "experiments/begun/run.log").read_text()
    assert "Atlas's checkpoint of step 70, weights taken: reader.*, retriever.contriever.*" in log
    assert "step and optimiser state not taken: as in Atlas" in log
    assert "--text_maxlength 512, now 64" in log
    assert "--n_context 40, now 2" in log
    assert "gold_score_mode" not in log.split("options it was trained with")[1].splitlines()[0]
    saved = world / "experiments/begun/checkpoint/latest"
    weights = load_file(saved / "reader/model.safetensors")
    assert torch.equal(weights["lm_head.weight"], reader.lm_head.weight)
    assert torch.equal(weights["shared.weight"], reader.shared.weight)


def test_the_reader_is_the_one_its_options_name(world: Path) -> None:
    options = {"reader_model_type": str(world / "reader")}
    atlas = save_atlas(world / "named", atlas_model(tiny_t5(7)), options=options).parent
    assert run_evaluate(world, name="named", model_path=atlas, reader_model_type=None) == 0


def test_query_side_training_keeps_the_towers_apart(world: Path) -> None:
    passage = tiny_bert(6)
    atlas = save_atlas(world / "two", atlas_model(query=tiny_bert(5), passage=passage)).parent
    flags = {"train_retriever": True, "query_side_retriever_training": True, "total_steps": 2}
    run_train(world, name="two", model_path=atlas, lr_retriever=0.01, warmup_steps=0, **flags)
    saved = world / "experiments/two/checkpoint/latest/retriever"
    frozen = load_file(saved / "passage/model.safetensors")
    learnt = load_file(saved / "query/model.safetensors")
    assert all(torch.equal(tensor, passage.state_dict()[name]) for name, tensor in frozen.items())
    before = tiny_bert(5).state_dict()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in learnt.items())


def test_dry_run_looks_into_it(world: Path) -> None:
    atlas = save_atlas(world / "dry", atlas_model()).parent
    options = options_of(world, "evaluate", name="dry", model_path=atlas, dry_run=True)
    assert any(line.startswith("reader: ") for line in dry_run.plan(options, Ranks()))
    (atlas / "model.pth.tar").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        list(dry_run.plan(options, Ranks()))


def test_dry_run_finds_what_does_not_fit(world: Path) -> None:
    norm = "retriever.contriever.embeddings.LayerNorm.weight"
    atlas = save_atlas(world / "misfit", atlas_model() | {norm: torch.ones(3)}).parent
    options = options_of(world, "evaluate", name="misfit", model_path=atlas, dry_run=True)
    with pytest.raises(
        CheckpointError, match=r"LayerNorm\.weight has shape \[3\], expected \[32\]"
    ):
        list(dry_run.plan(options, Ranks()))
    atlas = save_atlas(world / "misfit", atlas_model(untied_t5())).parent
    with pytest.raises(CheckpointError, match=r"is it another model\? \(--reader_model_type\)"):
        list(dry_run.plan(options, Ranks()))


def test_our_checkpoints_go_to_atlas_and_come_back(world: Path) -> None:
    flags = {"train_retriever": True, "query_side_retriever_training": True, "total_steps": 1}
    run_train(world, name="ours", **flags)
    ours = world / "experiments/ours/checkpoint/latest"
    assert main([str(ours), "--to", "atlas", "--output", str(world / "given")]) == 0
    content = torch.load(world / "given/model.pth.tar", weights_only=False)
    assert content["step"] == 1
    assert content["opt"].n_context == 2
    assert {name.split(".")[1] for name in content["model"] if name.startswith("retr")} == {
        "query_contriever",
        "passage_contriever",
    }
    for name, path in (("direct", ours), ("returned", world / "given")):
        run_evaluate(world, name=name, model_path=path, write_results=True)
    direct, returned = (
        (results(world, name, "dev-step-0.jsonl"), eval_loss(world, name))
        for name in ("direct", "returned")
    )
    assert direct == returned


def test_no_retriever_and_no_reader(world: Path) -> None:
    model = atlas_model()
    reader = {name: t for name, t in model.items() if name.startswith("reader.")}
    atlas = save_atlas(world / "alone", reader).parent
    assert run_evaluate(world, name="alone", model_path=atlas) == 0
    log = (world / "experiments/alone/run.log").read_text()
    assert "no retriever in it: one that is needed comes from --retriever_model_path" in log
    retriever = {name: t for name, t in model.items() if name not in reader}
    atlas = save_atlas(world / "searching", retriever).parent
    assert run_evaluate(world, name="searching", model_path=atlas, retrieve_only=True) == 0
    with pytest.raises(CheckpointError, match="holds no reader"):
        run_evaluate(world, name="unread", model_path=atlas)


def test_a_run_of_atlas_is_never_written_over(world: Path) -> None:
    folder = world / "experiments/theirs/checkpoint/step-4"
    path = save_atlas(folder, atlas_model())
    content = path.read_bytes()
    with pytest.raises(OptionError, match=r"holds checkpoints of Atlas.*--model_path .*step-4"):
        run_train(world, name="theirs")
    assert path.read_bytes() == content
