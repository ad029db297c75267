"""`evaluate.py --retrieve_only` on test collections: a BEIR folder in, a run and measures out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gazetteer.dense import evaluate as evaluate_command
from gazetteer.errors import DataError, OptionError
from gazetteer.ir.judgements import read_qrels, write_qrels
from gazetteer.ir.measures import retrieval_metrics
from gazetteer.ir.runs import read_run
from tests.support.runs import logged, make_world, results, run_evaluate
from tests.support.tiny_data import write_collection

pytest.importorskip("ir_measures")
FLAGS: dict[str, Any] = {
    "task": None, "retrieve_only": True, "reader_model_type": None, "passages": None,
    "n_context": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("world"), corpus=3, dev=1)
    write_collection(world / "toy", documents=30, queries=5)
    return world


def run_of(world: Path, name: str, file: str = "toy-step-0.trec") -> dict[str, dict[str, float]]:
    return read_run(world / "experiments" / name / file, flag="--f")


def test_a_beir_folder_is_all_that_is_needed(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_evaluate(world, name="beir", eval_data=world / "toy", **FLAGS)
    qrels = read_qrels(world / "toy" / "qrels" / "test.tsv", flag="--f")
    run = run_of(world, "beir")
    assert list(run) == list(qrels)
    assert all(len(found) == (29 if query == "p1" else 30) for query, found in run.items())
    assert "p1" not in run["p1"] and "p3" in run["p3"]
    expected = retrieval_metrics(qrels, run, ["nDCG@10", "MRR@10", "MAP", "R@20", "R@100"])
    metrics = logged(world, "beir", "eval")[0]
    assert {key: metrics[f"toy/{key}"] for key in expected} == pytest.approx(expected)
    log = (world / "experiments" / "beir" / "run.log").read_text()
    assert "a test collection: n_context 1 -> 100" in log
    assert "toy: queries: 5 judged, of which 0 are missing from the run" in log
    assert f"Dataset: toy | {expected['nDCG@10']:.4f} nDCG@10 |" in log
    each = (world / "experiments" / "beir" / "toy-step-0.tsv").read_text().splitlines()
    assert each[0] == "query_id\tnDCG@10\tMRR@10\tMAP\tR@20\tR@100" and len(each) == 6
    files = [world / "toy/qrels/test.tsv", world / "experiments/beir/toy-step-0.trec"]
    capsys.readouterr()
    assert evaluate_command.main(["--json", "-m", "mrr.10", *map(str, files)]) == 0
    found = json.loads(capsys.readouterr().out)["measures"]["MRR@10"]
    assert found == pytest.approx(expected["MRR@10"])


def test_queries_and_judgements_in_other_files_give_the_same_run(world: Path) -> None:
    folder = world / "toy"
    lines = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    (world / "dev.tsv").write_text("".join(f"{q['_id']}\t{q['text']}\n" for q in lines))
    qrels = read_qrels(folder / "qrels" / "test.tsv", flag="--f")
    write_qrels(world / "qrels.trec", qrels)
    flags = FLAGS | {"passages": folder / "corpus.jsonl", "qrels": world / "qrels.trec"}
    run_evaluate(world, name="folder", eval_data=folder, **FLAGS)
    run_evaluate(world, name="files", eval_data=world / "dev.tsv", **flags)
    assert run_of(world, "files", "dev-step-0.trec") == run_of(world, "folder")


def test_identical_ids_are_kept_on_request_and_passages_are_written(world: Path) -> None:
    flags = FLAGS | {"n_context": 4, "write_results": True}
    run_evaluate(world, name="all", eval_data=world / "toy", keep_identical=True,
                 **(flags | {"n_context": None}))  # fmt: skip
    assert "p1" in run_of(world, "all")["p1"]
    run_evaluate(world, name="few", eval_data=world / "toy", **flags)
    records, run = results(world, "few", "toy-step-0.jsonl"), run_of(world, "few")
    assert [record["id"] for record in records] == list(run)
    for record in records:
        assert {p["id"] for p in record["passages"]} == set(run[record["id"]])
        assert len(record["passages"]) == 4


def test_what_cannot_be_found_is_said(world: Path) -> None:
    flags = FLAGS | {"passages": world / "passages.jsonl"}
    qrels = {"q2": {"p1": 1, "far": 1, "bad": 0}, "nobody": {"p1": 1}}
    write_qrels(world / "some.trec", qrels)
    run_evaluate(world, name="lost", eval_data=world / "toy", qrels=world / "some.trec", **flags)
    log = (world / "experiments" / "lost" / "run.log").read_text()
    assert "toy: 1 of 2 judged queries have no text: they count 0" in log
    assert "toy: 1 of 2 relevant documents are not among the passages" in log
    assert "2 judged, of which 1 are missing" in log


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"eval_data": "toy", "qrels_split": "dev"},
         "--eval_data ({w}/toy) must be a folder of BEIR: found no {w}/toy/qrels/dev.tsv"),
        ({"eval_data": "toy", "qrels": "gone"}, "--qrels ({w}/gone) must be an existing file"),
        ({"eval_data": "toy", "retrieve_only": None, "task": "qa", "reader_model_type": "reader",
          "passages": "passages.jsonl"}, "--eval_data ({w}/toy) must be an existing file"),
        ({"eval_data": "retriever"},
         "--eval_data ({w}/retriever) must be a folder of BEIR: found no {w}/retriever/queries"),
        ({"eval_data": "toy", "measures": "foo"}, "--measures (foo) must be a measure such as"),
        ({"eval_data": "dev.jsonl"}, "--task is required"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_once(
    world: Path, flags: dict[str, Any], expected: str
) -> None:
    names = ("eval_data", "qrels", "passages", "reader_model_type")
    given = {k: world / str(v) if k in names else v for k, v in flags.items()}
    with pytest.raises(OptionError) as caught:
        run_evaluate(world, name="refused", **{**FLAGS, **given})
    assert expected.format(w=world) in str(caught.value)
    assert not (world / "experiments" / "refused").exists()


def test_bad_queries_and_judgements_are_named(world: Path) -> None:
    write_qrels(world / "other.trec", {"x": {"p1": 1}})
    flags = {**FLAGS, "eval_data": world / "toy", "qrels": world / "other.trec"}
    with pytest.raises(DataError, match=r"none of 6 queries is judged in .*other\.trec"):
        run_evaluate(world, name="refused", **flags)
    (world / "broken.trec").write_text("q1 0 p1 yes\n")
    with pytest.raises(DataError, match=r"broken\.trec:1: found the grade"):
        run_evaluate(world, name="refused", **{**flags, "qrels": world / "broken.trec"})
