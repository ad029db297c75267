"""The study of dense training: its very commands, on tiny models, and their report."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gazetteer.ir.measures import Counts, Measured
from gazetteer.options import parse_options
from tests.support.dense_runs import training_lines
from tests.support.lead_models import save_encoder
from tests.support.tiny_data import write_jsonl

STUDY = Path(__file__).resolve().parents[2] / "example_scripts" / "studies"
METHODS = (
    "batch",
    "bm25",
    "loop",
    "mined",
    "lead",
    "mined-lead",
    "random",
    "unit-batch",
    "unit-bm25",
    "unit-mined",
)


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        return importlib.import_module("dense_training")


def make_data(folder: Path) -> Path:
    """What the study reads, made up: questions with a gold passage, and a collection of BEIR."""
    lines = training_lines(16)
    passages = [p for line in lines for p in (*line["positives"], *line["negatives"])]
    shown = ("id", "title", "text")
    write_jsonl(
        folder / "wiki" / "passages.jsonl", [{name: p[name] for name in shown} for p in passages]
    )
    write_jsonl(
        folder / "nq" / "nq_oracle.dev.jsonl",
        [
            {
                "question": line["query"],
                "answers": ["x"],
                "gold_passage_id": line["positives"][0]["id"],
                # Two questions a title: never one to train on, the other held out.
                "title": f"title {number // 2}",
            }
            for number, line in enumerate(lines)
        ],
    )
    beir = folder / "ir" / "cranfield"
    write_jsonl(
        beir / "corpus.jsonl",
        [{"_id": p["id"], "title": p["title"], "text": p["text"]} for p in passages],
    )
    write_jsonl(
        beir / "queries.jsonl", [{"_id": line["query_id"], "text": line["query"]} for line in lines]
    )
    judged = [f"{line['query_id']}\t{line['positives'][0]['id']}\t1\n" for line in lines]
    (beir / "qrels").mkdir()
    text = "query-id\tcorpus-id\tscore\n" + "".join(judged)
    (beir / "qrels" / "test.tsv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    for name in ("wiki", "nq", "ir/cranfield"):
        (folder / "data" / name).mkdir(parents=True)
    make_data(folder / "data")
    save_encoder(folder / "student", layers=2, seed=1)
    save_encoder(folder / "large", layers=3, seed=2)
    return folder


def words_for(world: Path, *more: str) -> list[str]:
    words = ["--data", world / "data", "--output_directory", world / "out"]
    words += ["--student", world / "student", "--teacher", world / "large", "--steps", 1]
    words += ["--batch", 2, "--seeds", 3, *more]
    return list(map(str, words))


def parts_in(text: str) -> list[str]:
    return re.findall(r"^\d\d:\d\d:\d\d (\S+)$", text, re.MULTILINE)


def test_it_runs_and_reports_every_row_and_goes_on_where_it_was_stopped(
    world: Path, study: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.main(words_for(world, "--collections", "nq")) == 0
    first = capsys.readouterr().out
    report = (world / "out" / "report.md").read_text(encoding="utf-8")
    assert first.endswith(report)
    assert [name for name in parts_in(first) if name.endswith("-3")] == [
        f"nq-0-{method}-3" for method in METHODS
    ]
    names = study.dense_training_report.NAMES
    assert all(f"| {label} |" in report for label in names.values())
    assert f"| {names['lead']} - {names['bm25']} | nDCG@10 |" in report
    assert not list((world / "out").glob("experiments/*/checkpoint"))
    # Negatives of "mined" are what the model of "batch" found.
    mined = (world / "out/data/nq/0/mined-3/train.hn.jsonl").read_text(encoding="utf-8")
    assert '"gazetteer"' in mined

    (world / "out" / "seconds" / "nq-0-loop-3").unlink()
    again = ["--collections", "nq", "cranfield", "--methods", "batch", "loop"]
    assert study.main(words_for(world, *again)) == 0
    second = capsys.readouterr().out
    assert [name for name in parts_in(second) if name.endswith("-3")] == [
        "nq-0-loop-3", "cranfield-0-batch-3", "cranfield-0-loop-3",
        "cranfield-1-batch-3", "cranfield-1-loop-3",
    ]  # fmt: skip
    # Held out in turn, all queries of Cranfield count.
    results = study.dense_training_report.read_results(world / "out", "cranfield")
    assert sum(results.held) == len(results.runs["batch"][3].query_ids) == 16


def test_all_of_its_commands_parse(
    world: Path, study: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_for(world, "--print", "--collections", "nq")
    assert study.main([*words, "--more", "--clip", "0.5"]) == 0
    planned = [shlex.split(line)[1:] for line in capsys.readouterr().out.splitlines()]
    trained = [words for words in planned if words[0] == "train.py"]
    assert len(trained) == len(METHODS)
    for words in trained:
        Path(words[words.index("--train_data") + 1]).parent.mkdir(parents=True, exist_ok=True)
        Path(words[words.index("--train_data") + 1]).touch()
        Path(words[words.index("--passages") + 1]).touch()
        options = parse_options(words[1:], program="train")
        assert options.optimisation.clip == 0.5


def test_sides_share_no_title_and_validation_sees_nothing_held_out(
    world: Path, study: ModuleType
) -> None:
    data = sys.modules["dense_training_data"]
    folder = world / "data"
    judged = data.read_nq(folder / "nq/nq_oracle.dev.jsonl", folder / "wiki/passages.jsonl")
    train, test = data.sides(judged, 3, "0")
    assert {judged.groups[q] for q in train}.isdisjoint(judged.groups[q] for q in test)
    assert train.keys() | test.keys() == judged.qrels.keys()
    smaller, validation = data.sides(judged, 3, "0v")
    assert smaller.keys() | validation.keys() == train.keys()
    assert smaller.keys().isdisjoint(validation)


def test_tables_compare_runs_of_the_same_seed(study: ModuleType) -> None:
    report = study.dense_training_report
    counts = Counts(**dict.fromkeys(Counts.__dataclass_fields__, 0))

    def made(*values: float) -> Measured:
        each = np.array(values)
        return Measured(("a", "b"), {"nDCG@10": each, "R@20": each}, counts)

    runs = {
        "start": {0: made(0.1, 0.3)},
        "batch": {1: made(0.3, 0.5), 2: made(0.5, 0.7)},
        "bm25": {2: made(0.5, 0.9)},
    }
    results = report.Results("nq", runs, (5,), (2,))
    rows = [row.split("|")[1:] for row in report.pairs_table(results).split("\n")[2:]]
    cells = {(row[0].strip(), row[1].strip()): [cell.strip() for cell in row[2:]] for row in rows}
    against_start = cells["in-batch - start", "nDCG@10"]
    assert (against_start[0], against_start[-2]) == ("0.300 ± 0.141", "2")
    assert cells["and hard ones by BM25 - in-batch", "R@20"][0] == "0.100"
    assert "| in-batch | 0.500 ± 0.141 | 0.500 ± 0.141 | 2 |" in report.result_table(results)


def test_mistakes_are_told(
    world: Path, study: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="2"):
        study.main(words_for(world, "--collections", "trivia"))
    assert "expected one of nq, cranfield, cisi" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        study.main(words_for(world, "--methods", "unit-mined", "batch"))
    assert "--methods unit-mined needs unit-batch" in capsys.readouterr().err
    words = words_for(world, "--collections", "cisi", "--output_directory", str(tmp_path))
    assert study.main(words) == 2
    assert "ir/cisi/qrels/test.tsv" in capsys.readouterr().err
