"""Evaluation, computed once more with nothing but transformers, padded as Atlas pads.

What is asked of the reader and how its losses are averaged is spelled out here; the numbers have to
agree to 1e-5, and answers to the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from tests.support.runs import logged, make_world, results, run_evaluate
from tests.support.tiny_data import choices, claims, passages, questions, write_jsonl

N_CONTEXT, BATCH, LENGTH, GENERATED, LINES = 2, 2, 64, 8, 5
FEVER = {"SUPPORTS": "true", "REFUTES": "false", "NOT ENOUGH INFO": "maybe"}


@dataclass(frozen=True)
class Asked:
    """One example: what the reader is given, and what it should say."""

    query: str
    target: str
    passages: Sequence[dict[str, str]]


class Released:
    """T5, fusion in the decoder by reshaping, one batch at a time."""

    def __init__(self, folder: Path, beams: int) -> None:
        self.model = T5ForConditionalGeneration.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.beams = beams

    @torch.no_grad()
    def batch(self, examples: Sequence[Asked]) -> tuple[float, torch.Tensor, list[str]]:
        """Loss over the batch's target tokens, logits of the targets, answers."""
        texts = [
            f"{e.query} title: {p['title']} context: {p['text']}"
            for e in examples
            for p in e.passages[:N_CONTEXT]
        ]
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        states = self.model.encoder(**tokens).last_hidden_state
        fused = BaseModelOutput(
            last_hidden_state=states.view(len(examples), N_CONTEXT * LENGTH, -1)
        )
        mask = tokens["attention_mask"].view(len(examples), -1)
        targets = self.tokenizer(
            [f"{e.target} </s>" for e in examples],
            padding=True, add_special_tokens=False, return_tensors="pt",
        )  # fmt: skip
        labels = targets["input_ids"].masked_fill(targets["attention_mask"] == 0, -100)
        read = self.model(encoder_outputs=fused, attention_mask=mask, labels=labels)
        ids = self.model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            encoder_outputs=fused, attention_mask=mask, max_length=GENERATED, num_beams=self.beams
        )
        answers = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return float(read.loss), read.logits, [answer.strip() for answer in answers]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), corpus=3)


def with_passages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"passages": plain(number)} for number, row in enumerate(rows)]


def plain(seed: int) -> list[dict[str, str]]:
    return [{"title": p["title"], "text": p["text"]} for p in passages(3, seed=seed)]


def evaluated(world: Path, task: str, rows: list[dict[str, Any]], **flags: Any):
    """Our own records and eval_loss."""
    data = write_jsonl(world / f"{task}.jsonl", with_passages(rows))
    run_evaluate(world, name=task, task=task, eval_data=data, use_file_passages=True,
                 passages=None, write_results=True, n_context=N_CONTEXT, text_maxlength=LENGTH,
                 per_gpu_batch_size=BATCH, generation_max_length=GENERATED, **flags)  # fmt: skip
    records = results(world, task, f"{task}-step-0.jsonl")
    return records, logged(world, task, "eval")[0][f"{task}.jsonl/eval_loss"]


def batches(examples: Sequence[Asked]) -> list[Sequence[Asked]]:
    return [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]


def asked(task: str) -> tuple[list[dict[str, Any]], list[Asked]]:
    """Lines of a data file, and what they ask."""
    if task == "fever":
        rows = claims(LINES)
        texts = [(row["claim"], FEVER[row["label"]]) for row in rows]
    else:
        rows = [row | {"answers": row["answers"][:1]} for row in questions(LINES)]
        texts = [(row["question"], row["answers"][0]) for row in rows]
    if task == "kilt":
        rows = [
            {"id": row["id"], "input": row["question"], "output": [{"answer": row["answers"][0]}]}
            for row in rows
        ]
    return rows, [
        Asked(f"question: {query} answer: <extra_id_0>", f"<extra_id_0> {target}", plain(number))
        for number, (query, target) in enumerate(texts)
    ]


@pytest.mark.parametrize(("task", "beams"), [("qa", 2), ("fever", 1), ("kilt", 2)])
def test_losses_answers_and_records(world: Path, task: str, beams: int) -> None:
    rows, examples = asked(task)
    records, loss = evaluated(world, task, rows, generation_num_beams=beams)
    released = Released(world / "reader", beams)
    found = [released.batch(batch) for batch in batches(examples)]
    assert loss == pytest.approx(sum(each for each, _, _ in found) / len(found), abs=1e-5)
    assert [r["generation"] for r in records] == [text for *_, texts in found for text in texts]
    assert [r["query"] for r in records] == [example.query for example in examples]
    assert [r["answers"] for r in records] == [[e.target[13:]] for e in examples]
    for record, example in zip(records, examples, strict=True):
        assert list(record) == ["query", "answers", "generation", "passages", "id"]
        shown = [{"title": p["title"], "text": p["text"]} for p in record["passages"]]
        assert shown == list(example.passages[:N_CONTEXT])


def test_probabilities_of_choices_over_cyclic_orders(world: Path) -> None:
    rows = choices(3)
    records, loss = evaluated(
        world, "multiple_choice", rows, multiple_choice_eval_permutations="cyclic"
    )
    examples = []
    for number, row in enumerate(rows):
        texts, right = list(row["options"].values()), "ABCD".index(row["answer"])
        for turn in range(4):
            turned = texts[turn:] + texts[:turn]
            shown = " ".join(f"({x}) {text}" for x, text in zip("ABCD", turned, strict=True))
            query = f"question: {row['question']} options: {shown} answer: <extra_id_0>"
            letter = "ABCD"[(right - turn) % 4]
            examples.append(Asked(query, f"<extra_id_0> {letter}", plain(number)))
    released = Released(world / "reader", 1)
    found = [released.batch(batch) for batch in batches(examples)]
    assert loss == pytest.approx(sum(each for each, _, _ in found) / len(found), abs=1e-5)
    # T5 has a piece for each letter, and this is position 1; here the last of two pieces differs.
    pieces = [
        released.tokenizer(f"<extra_id_0> {x}", add_special_tokens=False)["input_ids"]
        for x in "ABCD"
    ]
    place = len(pieces[0]) - 1
    logits = [row[place, [ids[-1] for ids in pieces]] for _, each, _ in found for row in each]
    free = [text for *_, texts in found for text in texts]
    for number, record in enumerate(records):
        mine = range(4 * number, 4 * number + 4)
        # Option i stands at letter i - turn in each turn.
        each = [[logits[4 * number + turn].softmax(0)[(i - turn) % 4].item() for turn in range(4)]
                for i in range(4)]  # fmt: skip
        average = [sum(turns) / 4 for turns in each]
        assert list(record["choice_probs"]) == list(record["all_probs"]) == list("ABCD")
        assert list(record["choice_probs"].values()) == pytest.approx(average, abs=1e-5)
        for letter, turns in zip("ABCD", each, strict=True):
            assert record["all_probs"][letter] == pytest.approx(turns, abs=1e-5)
        assert record["generation"] == "ABCD"[average.index(max(average))]
        assert record["answers"] == [rows[number]["answer"]]
        assert [part["generation"] for part in record["permutations"]] == [free[i] for i in mine]
        assert [part["query"] for part in record["permutations"]] == [
            examples[i].query for i in mine
        ]
        for turned_number, part in zip(mine, record["permutations"], strict=True):
            expected = pytest.approx(logits[turned_number].tolist(), abs=1e-4)
            assert list(part["choice_logits"].values()) == expected
