"""Measures follow trec_eval's rules for ties and gaps, whatever a measure is called."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gazetteer.errors import OptionError
from gazetteer.ir.comparison import (
    compare,
    differing_queries,
    randomisation_test,
    t_test,
    write_differences,
)
from gazetteer.ir.measures import (
    measure_run,
    parse_measures,
    retrieval_metrics,
    write_per_query,
)
from gazetteer.ir.records import Qrels, Run

pytest.importorskip("ir_measures")
TOY_QRELS: Qrels = {"q1": {"d1": 1}, "q2": {"d9": 1}, "q3": {"d5": 2, "d6": 1}}
TOY_RUN: Run = {
    "q1": {"d1": 1.0, "d2": 1.0, "d0": 1.0},
    "q3": {"d7": 3.0, "d5": 2.0, "d6": 1.0},
    "unjudged": {"d7": 1.0},
}


def _names(*names: str, rel: int | None = None) -> list[str]:
    return [measure.name for measure in parse_measures(names, flag="-m", rel=rel)]


def test_a_missing_query_counts_zero() -> None:
    measured = measure_run(TOY_QRELS, TOY_RUN, parse_measures(["MRR@10"], flag="-m"))
    assert measured.query_ids == ("q1", "q2", "q3")
    assert measured.values["MRR@10"].tolist() == [0.5, 0.0, 0.5]
    assert measured.averages["MRR@10"] == pytest.approx(1 / 3)
    assert measured.counts.judged == 3
    assert (measured.counts.missing, measured.counts.unjudged) == (1, 1)
    assert measured.counts.unjudged_documents == pytest.approx(3 / 6)


@pytest.mark.parametrize("name", ["MRR@10", "MRR@1", "MRR"])
@pytest.mark.parametrize(
    ("other", "expected"), [("d2", {"MRR@10": 0.5, "MRR@1": 0.0, "MRR": 0.5}), ("d0", {})]
)
def test_ties_are_ordered_by_id_descending(
    name: str, other: str, expected: dict[str, float]
) -> None:
    run = {"q": {"d1": 1.0, other: 1.00000001}}
    assert retrieval_metrics({"q": {"d1": 1}}, run, [name]) == {name: expected.get(name, 1.0)}


def test_grades_count_for_ndcg_and_levels_for_the_others() -> None:
    gained = 2 / math.log2(3) + 1 / math.log2(4)
    measured = retrieval_metrics(
        {"q3": TOY_QRELS["q3"]}, TOY_RUN, ["nDCG@10", "AP", "AP(rel=2)", "MRR(rel=2)@10", "P@2"]
    )
    assert measured == pytest.approx(
        {
            "nDCG@10": gained / (2 + 1 / math.log2(3)),
            "MAP": (1 / 2 + 2 / 3) / 2,
            "MAP(rel=2)": 1 / 2,
            "MRR(rel=2)@10": 1 / 2,
            "P@2": 1 / 2,
        }
    )


def test_every_name_of_a_measure_means_it() -> None:
    names = ("mrr.10", "mrr_cut.10", "MRR@10", "RR@10", "mrr_10", "rr@10")
    assert _names(*names) == ["MRR@10"]
    assert _names("ndcg_cut.10", "nDCG@10", "NDCG@10", "ndcg_cut_10") == ["nDCG@10"]
    assert _names("recall.1000", "R@1000", "Recall@1000", "recall_1000") == ["R@1000"]
    assert _names("map", "MAP", "AP") == ["MAP"]
    assert _names("map_cut.100", "MAP@100") == ["MAP@100"]
    assert _names("recip_rank", "MRR", "mrr") == ["MRR"]
    assert _names("P.5", "P_5", "success.1", "Rprec") == ["P@5", "Success@1", "Rprec"]
    assert _names("AP(rel=2)", "RR(rel=2)@10", "MRR@10(rel=2)") == ["MAP(rel=2)", "MRR(rel=2)@10"]


def test_a_level_holds_where_none_is_said_and_grades_do_not_count() -> None:
    assert _names("MAP", "AP(rel=3)", "nDCG@10", "mrr.10", rel=2) == [
        "MAP(rel=2)",
        "MAP(rel=3)",
        "nDCG@10",
        "MRR(rel=2)@10",
    ]


@pytest.mark.parametrize(
    "name",
    ["", "foo", "foo@10", "nDCG@0", "MRR@0", "R@-1", "nDCG@x", "nDCG(rel=2)@10", "AP(x)", "RR@1.5",
     "ERR@20", "AP(rel=2)(rel=3)", "__import__('os').getcwd()"],
)  # fmt: skip
def test_an_unknown_measure_is_refused(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_measures([name], flag="--measure")
    assert str(caught.value).startswith(f"--measure ({name}) must be a measure such as nDCG@10")


def test_a_run_of_nothing_judged_is_all_zero() -> None:
    for run in ({}, {"q1": {}}, {"other": {"d": 1.0}}):
        measured = measure_run(TOY_QRELS, run, parse_measures(["MRR@10", "MAP"], flag="-m"))
        assert measured.averages == {"MRR@10": 0.0, "MAP": 0.0}
        assert measured.counts.missing == 3


def test_a_query_with_nothing_relevant_counts_zero() -> None:
    qrels = {"q": {"d": 0}, "p": {"d": 1}}
    assert retrieval_metrics(qrels, {each: {"d": 1.0} for each in qrels}, ["R@5"]) == {"R@5": 0.5}


def test_every_query_is_written(tmp_path: Path) -> None:
    measured = measure_run(TOY_QRELS, TOY_RUN, parse_measures(["MRR@10", "R@1"], flag="-m"))
    write_per_query(tmp_path / "q.tsv", measured)
    assert (tmp_path / "q.tsv").read_text().splitlines() == [
        "query_id\tMRR@10\tR@1",
        "q1\t0.500000\t0.000000",
        "q2\t0.000000\t0.000000",
        "q3\t0.500000\t0.000000",
    ]


def test_two_runs_are_compared_query_by_query(tmp_path: Path) -> None:
    measures = parse_measures(["MRR@10"], flag="-m")
    first = measure_run(TOY_QRELS, TOY_RUN, measures)
    better = {"q1": {"d1": 1.0}, "q2": {"d1": 2.0, "d9": 1.0}, "q3": {"d7": 2.0, "d9": 1.0}}
    second = measure_run(TOY_QRELS, better, measures)
    (found,) = compare(first, second)
    assert (found.first, found.second) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert (found.wins, found.ties, found.losses) == (2, 0, 1)
    assert found.interval[0] <= found.second - found.first <= found.interval[1]
    deltas = [("q1", 0.5), ("q2", 0.5), ("q3", -0.5)]
    assert differing_queries(first, second, "MRR@10") == deltas
    write_differences(tmp_path / "d.tsv", first, second)
    lines = (tmp_path / "d.tsv").read_text().splitlines()
    assert lines[0] == "query_id\tMRR@10 first\tMRR@10 second\tMRR@10 delta"
    assert lines[3] == "q3\t0.500000\t0.000000\t-0.500000"


@pytest.mark.parametrize("count", [1, 7, 40])
def test_the_tests_agree_with_scipy(count: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    differences = np.random.default_rng(count).normal(0.2, 1.0, count)
    padded = np.concatenate([differences, np.zeros(3)])
    assert t_test(padded) == pytest.approx(stats.ttest_rel(padded, 0 * padded).pvalue)
    if count == 1:
        assert randomisation_test(padded) == 1.0
        return
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0
    )
    # Draws of 10,000 and 20,000 scatter by about 0.005 each.
    tolerance = 1e-12 if count == 7 else 0.02
    assert randomisation_test(padded) == pytest.approx(theirs.pvalue, abs=tolerance)
    assert randomisation_test(padded, seed=1) == randomisation_test(padded, seed=1)


def test_the_tests_of_what_does_not_differ() -> None:
    same = np.zeros(5)
    assert (t_test(same), randomisation_test(same)) == (1.0, 1.0)
    assert t_test(np.ones(1)) is None
    assert t_test(np.full(4, 0.5)) == 0.0
    assert randomisation_test(np.full(4, 0.5)) == 2 / 16
