"""Runs of the tasks made of passages, and of kilt: also with given passages, and bad lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gazetteer.errors import DataError
from gazetteer.evaluation.run import evaluate
from gazetteer.program import run_program
from gazetteer.records import Ranks
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, make_world, options_of, results, run_evaluate, run_train
from tests.support.tiny_data import passages, questions, write_jsonl

PASSAGE_TASKS = ("mlm", "lm", "section")
TASKS = (*PASSAGE_TASKS, "kilt")
METRICS = ["eval_loss", "accuracy", "f1", "rouge_1", "rouge_2", "rouge_L"]


def kilt_lines(count: int) -> list[dict[str, Any]]:
    """Every third without an answer."""
    return [
        {
            "id": row["id"],
            "input": row["question"],
            "output": [{"answer": a} for a in row["answers"]] if number % 3 else [],
        }
        for number, row in enumerate(questions(count))
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    lines = kilt_lines(12)
    write_jsonl(folder / "kilt.jsonl", lines)
    write_jsonl(folder / "kilt-train.jsonl", [line for line in lines if line["output"]])
    write_jsonl(folder / "texts.jsonl", passages(9))
    return folder


def files_of(world: Path, task: str) -> dict[str, Path]:
    """Data of a task; those of passages are a part of the corpus itself."""
    if task == "kilt":
        return {"train_data": world / "kilt-train.jsonl", "eval_data": world / "kilt.jsonl"}
    return {"train_data": world / "texts.jsonl", "eval_data": world / "texts.jsonl"}


def evaluation_of(world: Path, task: str) -> dict[str, Path]:
    return {"eval_data": files_of(world, task)["eval_data"]}


@pytest.mark.parametrize("task", TASKS)
def test_training_and_evaluation(world: Path, task: str) -> None:
    run_train(world, name=f"train-{task}", task=task, train_retriever=True, eval_freq=2,
              shuffle=True, write_results=True, **files_of(world, task))  # fmt: skip
    assert len(logged(world, f"train-{task}")) == 4
    assert sorted(logged(world, f"train-{task}", "eval")) == [2, 4]


@pytest.mark.parametrize("task", PASSAGE_TASKS)
def test_a_passage_never_finds_itself(world: Path, task: str) -> None:
    run_evaluate(world, name=f"self-{task}", task=task, write_results=True, n_context=20,
                 **evaluation_of(world, task))  # fmt: skip
    records = results(world, f"self-{task}", "texts-step-0.jsonl")
    wanted = [row for row in passages(9) if task != "section" or "section" in row]
    assert [record["id"] for record in records] == [row["id"] for row in wanted]
    assert [record["metadata"] for record in records] == wanted
    for record in records:
        found = [passage["id"] for passage in record["passages"]]
        assert len(found) == 20
        assert record["id"] not in found
    # That there was something to filter: without it, some do find themselves.
    if task == "mlm":
        asked = [{"query": record["query"], "target": "x"} for record in records]
        plain = write_jsonl(world / "plain.jsonl", asked)
        run_evaluate(world, name="plain", task="base", write_results=True, n_context=20,
                     eval_data=plain)  # fmt: skip
        shown = [[p["id"] for p in r["passages"]] for r in results(world, "plain", "plain-step-0.jsonl")]  # fmt: skip  # noqa: E501
        assert any(row["id"] in found for row, found in zip(wanted, shown, strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_metrics_have_their_names_and_intervals(world: Path, task: str) -> None:
    run_evaluate(world, name=f"metrics-{task}", task=task, **evaluation_of(world, task))
    file = "kilt.jsonl" if task == "kilt" else "texts.jsonl"
    expected = ["accuracy", "exact_match", "f1", "eval_loss"] if task == "kilt" else METRICS
    found = logged(world, f"metrics-{task}", "eval")[0]
    names = [name.removeprefix(f"{file}/") for name in found if name.startswith(file)]
    assert names == expected
    intervals = logged(world, f"metrics-{task}", "interval")[0]
    for name in names:
        low, high = intervals[f"{file}/{name}"]
        assert low <= found[f"{file}/{name}"] <= high
    assert intervals[f"{file}/eval_loss"][0] < intervals[f"{file}/eval_loss"][1]
    log = (world / "experiments" / f"metrics-{task}" / "run.log").read_text()
    assert log.count(f"Dataset: {file} | ") == log.count(f"95% intervals: {file} | ") == 1


@pytest.mark.parametrize("task", TASKS)
def test_passages_may_come_with_the_lines(world: Path, tmp_path: Path, task: str) -> None:
    lines = kilt_lines(6)[1:3] if task == "kilt" else passages(4)
    given = [line | {"passages": passages(3, seed=i)} for i, line in enumerate(lines)]
    data = write_jsonl(tmp_path / "given.jsonl", given)
    flags = {"use_file_passages": True, "passages": None, "task": task, "eval_data": data}
    run_evaluate(world, name=f"given-{task}", write_results=True, **flags)
    records = results(world, f"given-{task}", "given-step-0.jsonl")
    ids = [line["id"] for line in lines if task != "section" or "section" in line]
    assert [record["id"] for record in records] == ids
    for record in records:
        seed = [line["id"] for line in lines].index(record["id"])
        expected = [passage["text"] for passage in passages(3, seed=seed)][:2]
        assert [passage["text"] for passage in record["passages"]] == expected
    run_train(world, name=f"given-{task}-train", total_steps=2, train_data=data, **flags)
    assert len(logged(world, f"given-{task}-train")) == 2


def test_inputs_without_answers_are_answered_and_not_scored(world: Path, tmp_path: Path) -> None:
    lines = [{"id": "a", "input": "who was the king"}, {"id": "b", "input": "x", "output": []}]
    data = write_jsonl(tmp_path / "blind.jsonl", lines)
    run_evaluate(world, name="blind", task="kilt", eval_data=data, write_results=True)
    records = results(world, "blind", "blind-step-0.jsonl")
    assert [(r["id"], r["answers"], "generation" in r) for r in records] == [
        ("a", [], True), ("b", [], True),
    ]  # fmt: skip
    assert logged(world, "blind", "eval")[0] == {"kind": "eval", "step": 0}
    assert not logged(world, "blind", "interval")


@pytest.mark.parametrize("task", PASSAGE_TASKS)
def test_closed_book_and_retrieval_alone(world: Path, task: str) -> None:
    flags = {"task": task, "write_results": True, **evaluation_of(world, task)}
    run_evaluate(world, name=f"closed-{task}", closed_book=True, passages=None, **flags)
    run_evaluate(world, name=f"found-{task}", retrieve_only=True, **flags)
    closed, found = (
        results(world, f"{name}-{task}", "texts-step-0.jsonl") for name in ("closed", "found")
    )
    assert [r["query"] for r in closed] == [r["query"] for r in found]
    assert all("generation" not in r for r in found)


def test_short_lines_are_left_out_and_counted(world: Path) -> None:
    rows = passages(9)
    long = [row for row in rows if len(row["text"].split()) >= 12]
    assert 0 < len(long) < 9
    run_evaluate(world, name="long", task="lm", min_words_per_lm_instance=12, write_results=True,
                 **evaluation_of(world, "lm"))  # fmt: skip
    records = results(world, "long", "texts-step-0.jsonl")
    assert [record["id"] for record in records] == [row["id"] for row in long]
    log = (world / "experiments" / "long" / "run.log").read_text()
    assert f"--eval_data: {9 - len(long)} lines left out: too short (--min_words_per_lm" in log
    with pytest.raises(DataError, match="no examples among 9 good lines, the task keeps none"):
        run_evaluate(world, name="none", task="lm", min_words_per_lm_instance=99,
                     **evaluation_of(world, "lm"))  # fmt: skip


def test_a_new_epoch_has_new_holes(world: Path) -> None:
    from gazetteer import build
    from gazetteer.data.sampling import Draw
    from gazetteer.data_files import open_data

    # A single hole would always be at the end.
    flags = {"task": "mlm", "mlm_noise_density": 0.4} | files_of(world, "mlm")
    options = options_of(world, "train", **flags)
    data = open_data(options, Ranks(), is_training=True)
    assert data.train is not None
    models = build.build_models(options, Ranks(), None)
    batches = build.build_batches(options, Ranks(), models, data.train, data.task, is_training=True)
    first, again, later = (
        [e.query for e in batches.build([Draw(n, epoch) for n in range(9)]).examples]
        for epoch in (0, 0, 1)
    )
    assert first == again != later


WRONG = {
    "number": (b'{"id": "x", "title": "t", "section": "s", "text": 3}', "field 'text': found"),
    "nothing": (b'{"id": "x", "title": "t"}', "field 'text': found nothing"),
    "null": (b'{"id": "x", "title": "t", "text": null}', "field 'text': found null"),
    "id": (b'{"id": {}, "title": "t", "text": "a b"}', "field 'id': found an object"),
    "list": (b"[]", "found a list, expected a JSON object"),
    "cut": (b'{"id": "x", "te', "not valid JSON"),
    "bytes": (b'{"id": "x", "text": "\xff"}', "found byte 0xff"),
}


@pytest.mark.parametrize("task", PASSAGE_TASKS)
@pytest.mark.parametrize("kind", WRONG)
def test_a_malformed_line_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    task: str,
    kind: str,
) -> None:
    line, expected = WRONG[kind]
    good = json.dumps({"id": "a", "title": "t", "section": "s", "text": "a b"}).encode()
    data = tmp_path / "bad.jsonl"
    data.write_bytes(good + b"\n" + line + b"\n")
    words = ["--task", task, "--eval_data", data, "--passages", data, "--reader_model_type",
             "t5-small", "--checkpoint_dir", tmp_path / "runs", "--no_progress"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    assert run_program("evaluate", evaluate) == 2
    (error,) = capfd.readouterr().err.splitlines()
    assert error.startswith(f"evaluate.py: error: {data}:2: ")
    assert expected in error and error.endswith(" (--eval_data)")
    assert not (tmp_path / "runs").exists()


def test_a_section_needs_a_title(world: Path, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "bad.jsonl", [{"section": "s", "text": "a b"}])
    with pytest.raises(DataError, match=r"bad.jsonl:1: field 'title': found nothing"):
        run_evaluate(world, name="bad", task="section", eval_data=data)


def job(ranks: Ranks, world: Path) -> None:
    """Each task once, with a global batch that does not depend on the number of workers."""
    for task in TASKS:
        flags = {"task": task, "per_gpu_batch_size": 2 // ranks.world_size}
        name = f"{task}-{ranks.world_size}"
        run_train(
            world, ranks, name=f"train-{name}", shuffle=True, **flags, **files_of(world, task)
        )
        run_evaluate(world, ranks, name=name, write_results=True,
                     **flags | {"per_gpu_batch_size": 1}, **evaluation_of(world, task))  # fmt: skip


def test_two_workers_do_what_one_does(world: Path) -> None:
    job(Ranks(), world)
    run_on_ranks(job, 2, world, timeout_seconds=240)
    for task in TASKS:
        file = "kilt-step-0.jsonl" if task == "kilt" else "texts-step-0.jsonl"
        paths = [world / "experiments" / f"{task}-{size}" / file for size in (1, 2)]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        for kind in ("eval", "interval"):
            one, two = (logged(world, f"{task}-{size}", kind)[0] for size in (1, 2))
            assert list(one) == list(two)
            assert one.pop("kind") == two.pop("kind")
            for name, value in one.items():
                assert two[name] == pytest.approx(value, rel=1e-6), name
        one, two = (logged(world, f"train-{task}-{size}") for size in (1, 2))
        for step, numbers in one.items():
            expected = pytest.approx(numbers["loss/reader_loss"], rel=1e-4)
            assert two[step]["loss/reader_loss"] == expected
