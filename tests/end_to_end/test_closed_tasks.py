"""Whole runs of the tasks whose answers are a closed set: fever and multiple_choice."""

import math
from pathlib import Path
from typing import Any

import pytest

from gazetteer.errors import DataError, OptionError
from gazetteer.records import Ranks
from gazetteer.tasks.multiple_choice import orders
from tests.support.ranks import run_on_ranks
from tests.support.runs import logged, make_world, results, run_evaluate, run_train
from tests.support.tiny_data import choices, claims, passages, write_jsonl


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world"))
    rows = choices(5)
    rows[1]["options"] = dict.fromkeys("ABCD", "oslo")
    rows[1]["answer"] = "A"
    rows[2]["options"]["D"] = rows[2]["options"]["A"]
    del rows[3]["answer"]
    write_jsonl(folder / "mmlu.jsonl", rows)
    write_jsonl(folder / "claims.jsonl", claims(7))
    write_jsonl(folder / "learn.jsonl", choices(3))
    return folder


MMLU = {"task": "multiple_choice", "generation_max_length": 4}


def run_choices(world: Path, ranks: Ranks | None = None, **flags: Any) -> None:
    run_evaluate(world, ranks, **{**MMLU, "eval_data": world / "mmlu.jsonl", **flags})


def evaluate_choices(world: Path, **flags: Any) -> dict[str, float]:
    run_choices(world, **flags)
    return logged(world, flags["name"], "eval")[0]


def softmax(logits: dict[str, float]) -> list[float]:
    powers = [math.exp(value - max(logits.values())) for value in logits.values()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(("kind", "count"), [("single", 1), ("cyclic", 4), ("all", 24)])
def test_the_average_over_orders_is_that_of_the_letters_put_back(
    world: Path, kind: str, count: int
) -> None:
    found = evaluate_choices(
        world, name=kind, multiple_choice_eval_permutations=kind, write_results=True
    )
    records = results(world, kind, "mmlu-step-0.jsonl")
    assert len(records) == 5
    right = {}
    for number, record in enumerate(records):
        parts = record["permutations"]
        assert len(parts) == count and "choice_logits" not in record
        each = []
        for order, part in zip(orders(4, kind), parts, strict=True):  # type: ignore[arg-type]
            letter_of = {option: letter for letter, option in enumerate(order)}
            shown = softmax(part["choice_logits"])
            each.append([shown[letter_of[option]] for option in range(4)])
        for option, letter in enumerate("ABCD"):
            of_option = [row[option] for row in each]
            assert record["all_probs"][letter] == pytest.approx(of_option)
            assert record["choice_probs"][letter] == pytest.approx(sum(of_option) / count)
        assert sum(record["choice_probs"].values()) == pytest.approx(1)
        # Equal to what rounding leaves of it: the first of them.
        highest = max(record["choice_probs"].values())
        best = next(x for x, p in record["choice_probs"].items() if p > highest - 1e-6)
        assert record["generation"] == best
        if record["answers"]:
            right[number] = record["answers"] == [best]
    assert set(right) == {0, 1, 2, 4}
    assert found["mmlu.jsonl/debiased_accuracy"] == pytest.approx(100 * sum(right.values()) / 4)
    free = [p["generation"] in p["answers"] for r in records if r["answers"]
            for p in r["permutations"]]  # fmt: skip
    assert found["mmlu.jsonl/accuracy"] == pytest.approx(100 * sum(free) / len(free))
    names = [name.split("/")[1] for name in found if name.startswith("mmlu")]
    assert names == ["debiased_accuracy", "accuracy", "eval_loss"]


def test_records_show_the_question_as_it_stands_first(world: Path) -> None:
    evaluate_choices(world, name="shown", multiple_choice_eval_permutations="cyclic",
                     write_results=True)  # fmt: skip
    rows = choices(5)
    record = results(world, "shown", "mmlu-step-0.jsonl")[0]
    assert list(record) == ["query", "answers", "generation", "passages", "metadata",
                            "choice_probs", "all_probs", "permutations"]  # fmt: skip
    assert record["metadata"] == {**rows[0], "is_original": True}
    assert record["query"] == record["permutations"][0]["query"]
    second = record["permutations"][1]
    assert second["metadata"]["is_original"] is False
    texts = list(rows[0]["options"].values())
    assert list(second["metadata"]["options"].values()) == texts[1:] + texts[:1]
    assert (
        second["metadata"]["options"][second["answers"][0]]
        == (rows[0]["options"][rows[0]["answer"]])
    )


def job(ranks: Ranks, world: Path) -> None:
    size = ranks.world_size
    for batch in (1, 3):
        flags = {"per_gpu_batch_size": batch, "multiple_choice_eval_permutations": "cyclic",
                 "rank_candidates": True}  # fmt: skip
        run_choices(world, ranks, name=f"w{size}b{batch}", write_results=True, **flags)
    run_choices(world, ranks, name=f"silent{size}", **flags)
    data = world / "learn.jsonl"
    run_train(world, ranks, name=f"train{size}", train_data=data, eval_data=data, total_steps=3,
              per_gpu_batch_size=6 // size, shuffle=True, eval_freq=3,
              multiple_choice_train_permutations="cyclic", **MMLU)  # fmt: skip


@pytest.fixture(scope="module")
def by_size(world: Path) -> Path:
    job(Ranks(), world)
    for size in (2, 3):
        run_on_ranks(job, size, world, timeout_seconds=240)
    return world


def close(first: Any, second: Any) -> None:
    """Equal, floats within 1e-5."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            close(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            close(one, other)
    else:
        assert first == (pytest.approx(second, abs=1e-5) if isinstance(first, float) else second)


@pytest.mark.parametrize("name", ["w1b3", "w2b1", "w2b3", "w3b1", "w3b3"])
def test_orders_answered_by_other_workers_are_averaged_all_the_same(
    by_size: Path, name: str
) -> None:
    files = [results(by_size, run, "mmlu-step-0.jsonl") for run in ("w1b1", name)]
    close(*files)
    one, other = (logged(by_size, run, "eval")[0] for run in ("w1b1", name))
    for metric in ("debiased_accuracy", "accuracy", "ranking_accuracy"):
        assert one[f"mmlu.jsonl/{metric}"] == pytest.approx(other[f"mmlu.jsonl/{metric}"])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_debiased_accuracy_needs_no_written_results(by_size: Path, size: int) -> None:
    silent, writing = (logged(by_size, run, "eval")[0] for run in (f"silent{size}", "w1b1"))
    name = "mmlu.jsonl/debiased_accuracy"
    assert silent[name] == pytest.approx(writing[name])


@pytest.mark.parametrize("size", [2, 3])
def test_training_sees_every_order_of_every_line_in_an_epoch(by_size: Path, size: int) -> None:
    one, many = logged(by_size, "train1"), logged(by_size, f"train{size}")
    assert list(one) == list(many) == [1, 2, 3]
    for step in one:
        assert one[step]["loss/train_loss"] == pytest.approx(many[step]["loss/train_loss"], 1e-5)
    assert "learn.jsonl/debiased_accuracy" in logged(by_size, f"train{size}", "eval")[3]


def test_claims_are_answered_judged_and_ranked(world: Path) -> None:
    run_evaluate(world, name="fever", task="fever", eval_data=world / "claims.jsonl",
                 write_results=True, rank_candidates=True)  # fmt: skip
    records = results(world, "fever", "claims-step-0.jsonl")
    assert [r["answers"] for r in records] == [["true"], ["false"], ["maybe"]] * 2 + [["true"]]
    assert [r["id"] for r in records] == list(range(7))
    hits = 0
    for record, row in zip(records, claims(7), strict=True):
        assert record["query"] == f"question: {row['claim']} answer: <extra_id_0>"
        scores = record["candidate_log_likelihoods"]
        assert list(scores) == ["true", "false", "maybe"]
        hits += max(scores, key=scores.__getitem__) in record["answers"]
    found = logged(world, "fever", "eval")[0]
    assert found["claims.jsonl/ranking_accuracy"] == pytest.approx(100 * hits / 7)
    assert {"claims.jsonl/accuracy", "claims.jsonl/eval_loss"} <= found.keys()


def test_claims_without_labels_are_answered_and_written_but_not_learnt_from(world: Path) -> None:
    rows = [{"claim": row["claim"]} for row in claims(3)]
    data = write_jsonl(world / "blind.jsonl", rows)
    run_evaluate(world, name="blind", task="fever", eval_data=data, write_results=True)
    assert len(results(world, "blind", "blind-step-0.jsonl")) == 3
    assert "blind.jsonl/accuracy" not in logged(world, "blind", "eval")[0]
    expected = r"blind.jsonl:1: field 'label': found nothing, expected a string \(--train_data\)"
    with pytest.raises(DataError, match=expected):
        run_train(world, name="blind", task="fever", train_data=data)


@pytest.mark.parametrize("task", ["fever", "multiple_choice"])
def test_passages_of_the_file_are_read_in_training_and_evaluation(world: Path, task: str) -> None:
    rows = claims(4) if task == "fever" else choices(4)
    for number, row in enumerate(rows):
        row["passages"] = [{"text": p["text"]} for p in passages(3, seed=number)]
    data = write_jsonl(world / f"{task}-given.jsonl", rows)
    flags = {"task": task, "use_file_passages": True, "passages": None, "eval_data": data,
             "multiple_choice_eval_permutations": "cyclic", "write_results": True}  # fmt: skip
    run_train(world, name=f"{task}-given", train_data=data, total_steps=2, eval_freq=2, **flags)
    records = results(world, f"{task}-given", f"{task}-given-step-2.jsonl")
    for record, row in zip(records, rows, strict=True):
        for part in record.get("permutations", [record]):
            shown = [passage["text"] for passage in part["passages"]]
            assert shown == [passage["text"] for passage in row["passages"]][:2]
            assert "passages" not in part.get("metadata", {})


@pytest.mark.parametrize("task", ["fever", "multiple_choice"])
def test_retrieval_alone_reports_no_recall_of_answers_that_no_passage_holds(
    world: Path, task: str
) -> None:
    rows = claims(3) if task == "fever" else choices(3)
    data = write_jsonl(world / f"{task}-found.jsonl", rows)
    run_evaluate(world, name=f"{task}-found", task=task, eval_data=data, retrieve_only=True,
                 write_results=True)  # fmt: skip
    assert len(results(world, f"{task}-found", f"{task}-found-step-0.jsonl")) == 3
    assert not [n for n in logged(world, f"{task}-found", "eval")[0] if "recall" in n]


BAD = {
    "three options": ({"options": dict.fromkeys("ABC", "x")},
                      "field 'options': found options A, B, C, expected A, B, C, D, see "
                      "--multiple_choice_num_options"),
    "a gap": ({"options": dict.fromkeys("ABCE", "x")}, "found options A, B, C, E, expected A, B"),
    "no options": ({"options": {}}, "found options none, expected A, B, C, D"),
    "a list": ({"options": ["x"] * 4}, "field 'options': found a list, expected an object of str"),
    "a number": ({"options": {"A": 1, "B": "x", "C": "x", "D": "x"}},
                 "field 'options': found the number 1 as option A, expected an object of strings"),
    "no such letter": ({"answer": "E"}, 'field \'answer\': found the string "E", expected A or B'),
    "an index": ({"answer": 1}, "field 'answer': found the number 1, expected a string"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_question_is_refused_by_line_and_field(world: Path, case: str) -> None:
    change, expected = BAD[case]
    rows = choices(3)
    rows[1] |= change
    data = write_jsonl(world / "bad.jsonl", rows)
    with pytest.raises(DataError) as caught:
        evaluate_choices(world, name="bad", eval_data=data)
    assert f"{data}:2: " in str(caught.value) and expected in str(caught.value)
    evaluate_choices(world, name="bad", eval_data=data, on_bad_line="skip", write_results=True)
    assert len(results(world, "bad", "bad-step-0.jsonl")) == 2


def test_other_numbers_of_options(world: Path) -> None:
    data = write_jsonl(world / "three.jsonl", choices(4, options=3))
    evaluate_choices(world, name="three", eval_data=data, multiple_choice_num_options=3,
                     multiple_choice_eval_permutations="all", write_results=True)  # fmt: skip
    records = results(world, "three", "three-step-0.jsonl")
    assert [len(r["permutations"]) for r in records] == [6] * 4


def test_letters_the_tokenizer_cannot_tell_apart_are_refused(world: Path) -> None:
    with pytest.raises(OptionError, match="does not tell the answers A, B, C, D apart"):
        evaluate_choices(world, name="cut", target_maxlength=1)


def test_prompts_of_the_decoder_do_not_move_the_letters(world: Path) -> None:
    evaluate_choices(world, name="prompted", decoder_prompt_format="the answer to {query}",
                     generation_max_length=80, write_results=True)  # fmt: skip
    for record in results(world, "prompted", "mmlu-step-0.jsonl"):
        logits = record["permutations"][0]["choice_logits"]
        assert len(set(logits.values())) == 4
