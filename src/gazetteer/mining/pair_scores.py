"""Relevance of pairs for the filter that asks a cross-encoder, or a file of its scores."""

from __future__ import annotations

from collections.abc import Sequence

from gazetteer.errors import OptionError
from gazetteer.ir.records import Candidate, Run
from gazetteer.mining.filters import Asked, PairScores
from gazetteer.optional_packages import import_optional

PAIRS_PER_CALL = 64


def scores_of_run(run: Run) -> PairScores:
    """Scores that somebody computed before; a pair that is not there has none."""

    def score(asked: Asked, candidates: Sequence[Candidate]) -> list[float | None]:
        known = run.get(asked.query_id, {})
        return [known.get(candidate.id) for candidate in candidates]

    return score


def scores_of_cross_encoder(name: str) -> PairScores:
    """A cross-encoder of sentence-transformers, with one label: probabilities of relevance.

    Args:
        name: folder or hub name.

    Raises:
        OptionError: sentence-transformers is not installed, or there is no such model there.
    """
    library = import_optional(
        "sentence_transformers", "--cross_encoder needs sentence-transformers"
    )
    try:
        model = library.CrossEncoder(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--cross_encoder '{name}' cannot be loaded: {reason}") from None
    if model.num_labels != 1:
        raise OptionError(f"--cross_encoder '{name}' has {model.num_labels} labels, expected 1")

    def score(asked: Asked, candidates: Sequence[Candidate]) -> list[float | None]:
        pairs = [(asked.text, f"{c.title} {c.text or ''}".strip()) for c in candidates]
        scores = model.predict(pairs, batch_size=PAIRS_PER_CALL, show_progress_bar=False)
        return [float(one) for one in scores]

    return score
