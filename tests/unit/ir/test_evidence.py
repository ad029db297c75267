"""KILT's measures: pages found, against sets of evidence."""

import json

import pytest

from gazetteer.dense.evaluate import main
from gazetteer.ir.evidence import measure_pages, r_precision, set_positions

PAIR, SINGLE = frozenset("ab"), frozenset("c")


@pytest.mark.parametrize(
    ("ranking", "precision", "positions"),
    [
        ("ab", 1.0, [1]),
        ("axb", 0.5, [2]),
        ("xyab", 0.0, [3]),
        ("c", 1.0, [1]),
        # The pages of a set take one place, that of the last.
        ("acb", 0.5, [1, 2]),
        ("xa", 0.5, []),
        ("", 0.0, []),
    ],
)
def test_a_set_counts_where_its_last_page_is(ranking, precision, positions):
    sets = (PAIR, SINGLE) if "c" in ranking else (PAIR,)
    assert r_precision(sets, ranking) == precision
    assert set_positions(sets, ranking) == positions


def test_means_are_over_questions_with_evidence():
    evidence = {"1": [PAIR, SINGLE], "2": [SINGLE], "3": [SINGLE], "none": []}
    run = {"1": {"a": 3.0, "x": 2.0, "b": 1.0}, "2": {"x": 2.0, "c": 1.0}, "other": {"a": 1.0}}
    measured = measure_pages(evidence, run)
    assert measured.query_ids == ("1", "2", "3")
    assert measured.values["R-precision"].tolist() == [0.5, 0.0, 0.0]
    assert measured.values["recall@1"].tolist() == [0.0, 0.0, 0.0]
    assert measured.values["recall@5"].tolist() == [0.5, 1.0, 0.0]
    assert (measured.counts.missing, measured.counts.unjudged) == (1, 1)


def test_the_command_reads_runs_of_kilt_and_of_trec(tmp_path, capsys):
    def line(query_id, *pages):
        provenance = [{"wikipedia_id": page} for page in pages]
        return json.dumps({"id": query_id, "input": "q", "output": [{"provenance": provenance}]})

    gold, kilt, trec = (tmp_path / name for name in ("gold.jsonl", "run.jsonl", "run.trec"))
    gold.write_text(line("1", "a", "b") + "\n" + line("2", "c") + "\n" + line("3") + "\n")
    kilt.write_text(line("1", "b", "a") + "\n" + line("2", "x") + "\n")
    trec.write_text("1 Q0 b 1 2 t\n1 Q0 a 2 1 t\n2 Q0 x 1 1 t\n")
    for run in (kilt, trec):
        assert main(["--kilt", "--json", str(gold), str(run)]) == 0
        assert json.loads(capsys.readouterr().out)["measures"]["R-precision"] == 0.5
    assert main(["--kilt", "-m", "MRR@10", str(gold), str(kilt)]) == 2
    gold.write_text(line("3") + "\n")
    assert main(["--kilt", str(gold), str(kilt)]) == 2
    assert "found no question with evidence" in capsys.readouterr().err
