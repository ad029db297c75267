"""Runs of evaluate.py's loop on one worker."""

from pathlib import Path

import pytest

from gazetteer.errors import IndexFileError
from gazetteer.index import read_manifest
from gazetteer.metrics.answers import exact_match, f1
from gazetteer.metrics.ranking import has_answer
from tests.support.runs import logged, make_world, results, run_evaluate, run_train
from tests.support.tiny_data import passages, questions, write_jsonl


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def test_records_come_in_input_order_with_atlas_fields(world: Path) -> None:
    run_evaluate(world, name="records", write_results=True, per_gpu_batch_size=3)
    records = results(world, "records", "dev-step-0.jsonl")
    asked = questions(7, seed=2)
    assert [r["id"] for r in records] == [q["id"] for q in asked]
    assert [r["answers"] for r in records] == [q["answers"] for q in asked]
    for record, question in zip(records, asked, strict=True):
        assert list(record) == ["query", "answers", "generation", "passages", "id"]
        assert record["query"] == f"question: {question['question']} answer: <extra_id_0>"
        assert len(record["passages"]) == 2
        assert {"id", "title", "text"} <= record["passages"][0].keys()
    source = {row["id"]: row for row in passages(40)}
    shown = next(p for r in records for p in r["passages"] if "section" in p)
    row = source[shown["id"]]
    assert shown["title"] == f"{row['title']}: {row['section']}"
    assert shown["text"] == row["text"]


def test_ids_are_echoed_as_they_were_given(world: Path, tmp_path: Path) -> None:
    ids = [7, "7", -1, 2**70]
    rows = [row | {"id": given} for row, given in zip(questions(4), ids, strict=True)]
    data = write_jsonl(tmp_path / "numbered.jsonl", rows)
    run_evaluate(world, name="numbered", eval_data=data, write_results=True)
    assert [r["id"] for r in results(world, "numbered", "numbered-step-0.jsonl")] == ids


def test_logged_metrics_are_the_averages_of_the_records(world: Path) -> None:
    run_evaluate(world, name="averages", write_results=True)
    records = results(world, "averages", "dev-step-0.jsonl")
    found = logged(world, "averages", "eval")[0]
    for name, metric in (("exact_match", exact_match), ("f1", f1)):
        values = [metric(r["generation"], r["answers"]) for r in records]
        assert found[f"dev.jsonl/{name}"] == pytest.approx(100 * sum(values) / len(values))


def test_passages_can_be_left_out(world: Path) -> None:
    run_evaluate(world, name="lean", write_results=True, dont_write_passages=True)
    assert all("passages" not in r for r in results(world, "lean", "dev-step-0.jsonl"))


def test_retrieval_alone_needs_no_reader_and_reports_recall(world: Path) -> None:
    gold = [{**q, "gold_passage_id": f"p{i}"} for i, q in enumerate(questions(6))]
    write_jsonl(world / "gold.jsonl", gold)
    run_evaluate(world, name="found", retrieve_only=True, reader_model_type=None, n_context=20,
                 eval_data=world / "gold.jsonl", write_results=True)  # fmt: skip
    records = results(world, "found", "gold-step-0.jsonl")
    metrics = logged(world, "found", "eval")[0]
    assert all("generation" not in r and len(r["passages"]) == 20 for r in records)
    names = [k.removeprefix("gold.jsonl/") for k in metrics if k.startswith("gold")]
    assert names == [
        *(f"{kind}_recall@{k}" for kind in ("answer", "gold") for k in (1, 5, 20)),
        "gold_mrr",
    ]
    for k in (1, 5, 20):
        hit = [any(has_answer(p["text"], r["answers"]) for p in r["passages"][:k]) for r in records]
        assert metrics[f"gold.jsonl/answer_recall@{k}"] == pytest.approx(100 * sum(hit) / 6)
        right = [f"p{i}" in [p["id"] for p in r["passages"][:k]] for i, r in enumerate(records)]
        assert metrics[f"gold.jsonl/gold_recall@{k}"] == pytest.approx(100 * sum(right) / 6)


def test_closed_book_needs_neither_passages_nor_retriever(world: Path) -> None:
    run_evaluate(world, name="closed", closed_book=True, passages=None, write_results=True,
                 retriever_model_path="nobody/nothing")  # fmt: skip
    assert all(r["passages"] == [] for r in results(world, "closed", "dev-step-0.jsonl"))


def test_given_passages_are_read_and_written(world: Path) -> None:
    given = [
        {**q, "passages": [{"title": p["title"], "text": p["text"], "mark": i}
                           for p in passages(3, seed=i)]}
        for i, q in enumerate(questions(5))
    ]  # fmt: skip
    write_jsonl(world / "given.jsonl", given)
    flags = {"use_file_passages": True, "passages": None, "write_results": True}
    run_evaluate(world, name="given", eval_data=world / "given.jsonl", **flags)
    for number, record in enumerate(results(world, "given", "given-step-0.jsonl")):
        expected = [p["text"] for p in passages(3, seed=number)][:2]
        assert [p["text"] for p in record["passages"]] == expected
        assert {p["mark"] for p in record["passages"]} == {number}
    run_train(world, name="given", train_data=world / "given.jsonl",
              eval_data=world / "given.jsonl", total_steps=2, eval_freq=2, **flags)  # fmt: skip
    assert len(logged(world, "given")) == 2


def test_the_base_task_counts_exact_targets(world: Path) -> None:
    rows = [{"query": "what is the capital", "target": "<extra_id_0> lima"}] * 3
    write_jsonl(world / "base.jsonl", rows)
    run_evaluate(world, name="base", task="base", eval_data=world / "base.jsonl")
    assert {"base.jsonl/accuracy", "base.jsonl/eval_loss"} <= logged(world, "base", "eval")[
        0
    ].keys()


def test_questions_without_answers_are_answered_but_not_scored(world: Path) -> None:
    write_jsonl(world / "blind.jsonl", [{"question": "who was the king"}] * 2)
    run_evaluate(world, name="blind", eval_data=world / "blind.jsonl", write_results=True)
    assert len(results(world, "blind", "blind-step-0.jsonl")) == 2
    assert "blind.jsonl/exact_match" not in logged(world, "blind", "eval")[0]


def test_a_saved_index_is_all_that_is_needed_to_search(world: Path) -> None:
    index = world / "index"
    flags = {"retrieve_only": True, "n_context": 9, "write_results": True}
    run_evaluate(world, name="saves", save_index_path=index, save_index_n_shards=128, **flags)
    assert len(read_manifest(index).files) == 128
    run_evaluate(world, name="loads", load_index_path=index, passages=None, **flags)
    first, second = (results(world, name, "dev-step-0.jsonl") for name in ("saves", "loads"))
    assert first == second


def test_a_stale_index_is_refused_with_both_values(world: Path) -> None:
    index = world / "stale"
    flags = {"retrieve_only": True, "save_index_path": None, "load_index_path": index}
    run_evaluate(world, name="s", retrieve_only=True, save_index_path=index)
    with pytest.raises(IndexFileError, match="encoder pooling: index has mean, in use is cls"):
        run_evaluate(world, name="s", retriever_pooling="cls", **flags)
    write_jsonl(world / "other.jsonl", passages(40, seed=9))
    with pytest.raises(IndexFileError, match="corpus: index has"):
        run_evaluate(world, name="s", **{**flags, "passages": world / "other.jsonl"})
    run_evaluate(world, name="s", retriever_pooling="cls", allow_stale_index=True, **flags)
    log = (world / "experiments" / "s" / "run.log").read_text()
    assert "encoder pooling" in log and "--allow_stale_index" in log


def test_an_index_of_another_way_to_embed_is_refused(world: Path) -> None:
    index = world / "t5"
    t5 = {"retrieve_only": True, "retriever_model_path": world / "reader"}
    head = {"add_linear_head": True, "projection_out_dim": 8}
    run_evaluate(world, name="t5", save_index_path=index, **t5, **head)
    assert read_manifest(index).embedding_dim == 8
    loaded = t5 | {"load_index_path": index}
    run_evaluate(world, name="t5", **loaded, **head)
    with pytest.raises(IndexFileError, match=r"encoder weights: index has \w+, in use is"):
        run_evaluate(world, name="t5", seed=1, **loaded, **head)
    with pytest.raises(IndexFileError, match="index has first_decoder_token, in use is mean"):
        run_evaluate(world, name="t5", encoder_only=True, **loaded, **head)


def test_the_index_is_saved_anew_when_it_is_refreshed(world: Path) -> None:
    index = world / "refreshed"
    run_train(world, name="refreshes", total_steps=5, train_retriever=True, refresh_index="2",
              save_index_path=index)  # fmt: skip
    manifest = read_manifest(index)
    assert manifest.step == 4
    assert {p.name for p in index.glob("embeddings.*")} == {f.name for f in manifest.files}


def test_prompts_begin_the_answers_and_are_not_shown(world: Path) -> None:
    run_evaluate(world, name="prompt", decoder_prompt_format="the capital {query}",
                 generation_max_length=60, write_results=True)  # fmt: skip
    for record in results(world, "prompt", "dev-step-0.jsonl"):
        assert not record["generation"].startswith("the capital")
