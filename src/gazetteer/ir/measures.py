"""Measures of a run against judgements, by ir-measures, with one rule for ties and gaps.

* The mean is over the judged queries; one that the run lacks counts 0, and a query of the run that
  nobody judged is left out.
* Documents with equal scores (in float32) are ordered by id, descending, as in trec_eval, before
  anything is cut: also for MRR@k, where ir-measures by itself orders them the other way.
* Grades stay grades for nDCG; the other measures call a document relevant from grade 1 on, or from
  another one (`AP(rel=2)`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gazetteer.errors import OptionError
from gazetteer.ir.records import Qrels, Run
from gazetteer.ir.runs import ranked
from gazetteer.ir.whole_files import written_whole
from gazetteer.metrics.bootstrap import bootstrap_interval
from gazetteer.optional_packages import import_optional

DEFAULT_MEASURES = ("nDCG@10", "MRR@10", "MAP", "R@20", "R@100", "R@1000")
COLLECTION_MEASURES = DEFAULT_MEASURES[:-1]
"""Of a search for 100 documents per query."""
_JUDGED_DEPTH = 10
_OTHER_NAMES = {
    "mrr": "RR",
    "rr": "RR",
    "mrr_cut": "RR",
    "recip_rank": "RR",
    "map": "AP",
    "map_cut": "AP",
    "ap": "AP",
    "ndcg": "nDCG",
    "ndcg_cut": "nDCG",
    "recall": "R",
    "r": "R",
    "p": "P",
    "precision": "P",
    "success": "Success",
    "rprec": "Rprec",
}
"""Names of OpenMatch, pytrec_eval and papers, in lower case, and what ir-measures calls them."""
_SHOWN = {"RR": "MRR", "AP": "MAP"}
_NAME = re.compile(r"([A-Za-z_]+?)(\([^()]*\))?(?:[@._](\d+))?(\([^()]*\))?")


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure that is known.

    Attributes:
        name: as it is shown, such as "MRR@10".
        kind: of ir-measures, without a cutoff where that is a reciprocal rank.
        cutoff: of a reciprocal rank: documents after it do not count; None for all.
    """

    name: str
    kind: Any
    cutoff: int | None = None


def parse_measures(names: Sequence[str], *, flag: str, rel: int | None = None) -> list[Measure]:
    """Find measures by name: `nDCG@10`, `ndcg_cut.10`, `mrr.10`, `MRR@10`, `AP(rel=2)`, ...

    Args:
        names: of ir-measures, pytrec_eval or OpenMatch.
        flag: named in errors.
        rel: grade from which a document is relevant, for measures that do not say it themselves
            and take no grades; None = 1.

    Raises:
        OptionError: there is no such measure.
        GazetteerError: ir-measures is not installed.
    """
    measures = [_parse(name, flag, rel) for name in names]
    return list({measure.name: measure for measure in measures}.values())


def _parse(name: str, flag: str, rel: int | None) -> Measure:
    ir_measures = load_ir_measures()
    match = _NAME.fullmatch(name)
    unknown = OptionError(
        f"{flag} ({name}) must be a measure such as nDCG@10, MRR@10, MAP, R@100, P@5 or AP(rel=2)"
    )
    if match is None or (match[2] and match[4]) or match[3] == "0":
        raise unknown
    base, arguments, cutoff = match[1], match[2] or match[4] or "", match[3]
    base = _OTHER_NAMES.get(base.lower(), base)
    has_own_cut = base == "RR"
    try:
        cut = f"@{cutoff}" if cutoff and not has_own_cut else ""
        kind = ir_measures.parse_measure(f"{base}{arguments}{cut}")
        if rel is not None and "rel" in kind.SUPPORTED_PARAMS and "rel" not in kind.params:
            kind = kind(rel=rel)
        is_known = ir_measures.pytrec_eval.supports(kind)
    except (ValueError, NameError, KeyError, TypeError, AttributeError, AssertionError):
        raise unknown from None
    if not is_known:
        raise unknown
    shown = str(kind).replace(base, _SHOWN.get(base, base), 1)
    if not has_own_cut or not cutoff:
        return Measure(shown, kind)
    return Measure(f"{shown}@{cutoff}", kind, int(cutoff))


def load_ir_measures() -> Any:  # noqa: ANN401 - a module
    """The package ir-measures, imported on first use.

    Raises:
        OptionError: it is not installed.
    """
    return import_optional("ir_measures", "measures of retrieval need ir-measures")


@dataclass(frozen=True, slots=True)
class Counts:
    """What a mean is made of.

    Attributes:
        judged: queries with judgements: those that count.
        missing: of these, how many the run lacks; each counts 0.
        unjudged: queries of the run that nobody judged; left out.
        unjudged_documents: share of the first 10 documents of the judged queries that have no
            judgement, 0..1.
    """

    judged: int
    missing: int
    unjudged: int
    unjudged_documents: float

    def lines(self) -> list[str]:
        """The rules that hold for every number, and these counts, in words."""
        return [
            f"queries: {self.judged} judged, of which {self.missing} are missing from the run and "
            f"count 0; {self.unjudged} of the run are not judged and are left out",
            "ties: by document id, descending; scores in float32, as in trec_eval",
            f"documents without a judgement among the first {_JUDGED_DEPTH}: "
            f"{100 * self.unjudged_documents:.1f} %; they count as not relevant",
        ]


@dataclass(frozen=True, slots=True)
class Measured:
    """A run, measured.

    Attributes:
        query_ids: the judged queries, in the order of the judgements.
        values: name of a measure -> its value for each of these, float64.
        counts: what the means are made of.
    """

    query_ids: tuple[str, ...]
    values: dict[str, np.ndarray]
    counts: Counts

    @property
    def averages(self) -> dict[str, float]:
        """Mean of each measure over the judged queries."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of each mean."""
        return {name: bootstrap_interval(values) for name, values in self.values.items()}


def measure_run(qrels: Qrels, run: Run, measures: Sequence[Measure]) -> Measured:
    """Measure a run.

    Args:
        qrels: at least one query.
        run: any queries; their documents in any order.
        measures: see `parse_measures`.
    """
    # Ranks instead of scores: whoever sorts them finds our order, with no ties left.
    order = {
        query_id: [document_id for document_id, _ in ranked(scores)]
        for query_id, scores in run.items()
        if query_id in qrels and scores
    }
    query_ids = tuple(qrels)
    values = {}
    for cutoff in dict.fromkeys(measure.cutoff for measure in measures):
        of_this_cut = [measure for measure in measures if measure.cutoff == cutoff]
        values |= _values(qrels, order, of_this_cut, cutoff)
    wanted = {each.name: np.array([values[each.name][q] for q in query_ids]) for each in measures}
    return Measured(query_ids, wanted, counts_of(qrels, run, order))


def _values(
    qrels: Qrels,
    order: Mapping[str, Sequence[str]],
    measures: Sequence[Measure],
    cutoff: int | None,
) -> dict[str, dict[str, float]]:
    run = {
        query_id: {document_id: float(-rank) for rank, document_id in enumerate(documents[:cutoff])}
        for query_id, documents in order.items()
    }
    names = {measure.kind: measure.name for measure in measures}
    found: dict[str, dict[str, float]] = {
        name: dict.fromkeys(qrels, 0.0) for name in names.values()
    }
    for metric in load_ir_measures().pytrec_eval.iter_calc(list(names), qrels, run):
        found[names[metric.measure]][metric.query_id] = float(metric.value)
    return found


def counts_of(qrels: Qrels, run: Run, order: Mapping[str, Sequence[str]]) -> Counts:
    """What a mean over the judged queries is made of; `order` has what was found for them."""
    first = [
        document_id in qrels[query_id]
        for query_id, documents in order.items()
        for document_id in documents[:_JUDGED_DEPTH]
    ]
    return Counts(
        judged=len(qrels),
        missing=len(qrels) - len(order),
        unjudged=sum(query_id not in qrels for query_id in run),
        unjudged_documents=1 - sum(first) / len(first) if first else 0.0,
    )


def retrieval_metrics(
    qrels: Qrels, run: Run, names: Sequence[str] = DEFAULT_MEASURES
) -> dict[str, float]:
    """Measure a run: the mean of each measure, by its name. For evaluations during training."""
    return measure_run(qrels, run, parse_measures(names, flag="names")).averages


def write_per_query(path: Path, measured: Measured) -> None:
    """Write every measure of every judged query, tab-separated under a header.

    The file appears whole or not at all.
    """
    with written_whole(path) as file:
        file.write("\t".join(("query_id", *measured.values)) + "\n")
        for place, query_id in enumerate(measured.query_ids):
            numbers = (f"{values[place]:.6f}" for values in measured.values.values())
            file.write("\t".join((query_id, *numbers)) + "\n")
