"""BM25 by its formula, and as a run."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.dense import bm25
from gazetteer.errors import OptionError
from gazetteer.ir.runs import read_run
from gazetteer.mining.bm25 import Bm25, Bm25Settings
from tests.support.tiny_collections import make_collection

TEXTS = [("red", "river"), ("", "a river and a red river, rivers"), ("", "the lake"), ("", "")]


@pytest.fixture
def corpus(tmp_path: Path) -> PassageStore:
    rows = [{"id": f"d{n}", "title": t, "text": x} for n, (t, x) in enumerate(TEXTS)]
    return write_passages(rows, tmp_path / "corpus")


def test_scores_follow_the_formula(corpus: PassageStore) -> None:
    settings = Bm25Settings(k1=0.9, b=0.4, stemmer=None, stopwords=None)
    (hits,) = Bm25(corpus, settings, show_progress=False).search(["River RED unheard"], 10)
    lengths = [2, 7, 2, 0]
    mean = sum(lengths) / 4

    def score(frequencies: dict[str, int], length: int) -> float:
        return sum(
            math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
            * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * length / mean))
            for frequency in frequencies.values()
        )  # fmt: skip

    expected = {0: score({"river": 1, "red": 1}, 2), 1: score({"river": 2, "red": 1}, 7)}
    assert dict(hits) == pytest.approx(expected, rel=1e-5)
    assert [row for row, _ in hits] == sorted(expected, key=lambda row: -expected[row])


def test_nothing_is_found_where_there_are_no_words(tmp_path: Path) -> None:
    corpus = write_passages([{"id": "1", "title": "", "text": "?"}], tmp_path / "empty")
    index = Bm25(corpus, Bm25Settings(), show_progress=False)
    assert index.search(["red", ""], 3) == [[], []]
    assert index.search([], 3) == []


def test_stems_and_stopwords(corpus: PassageStore) -> None:
    def found(query: str, **settings: str | None) -> set[int]:
        index = Bm25(corpus, Bm25Settings(**settings), show_progress=False)  # type: ignore[arg-type]
        return {row for row, _ in index.search([query], 10)[0]}

    assert found("rivers") == {0, 1}
    assert found("rivers", stemmer=None) == {1}
    assert found("the") == set()
    assert found("the", stopwords=None) == {2}
    assert found("?!") == set()
    with pytest.raises(OptionError, match=r"--stemmer \(klingon\) must be one of arabic"):
        found("", stemmer="klingon")


def test_a_run_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_collection(tmp_path)
    words = ["--corpus", made.corpus, "--queries", made.queries, "--output", tmp_path / "n" / "run"]
    words += ["--doc_column_names", "id,title,text", "--retrieve_depth", 5, "--no_progress"]
    words += ["--data_cache_dir", tmp_path / "cache", "--stemmer", "none", "--stopwords", "none"]
    arguments = list(map(str, words))
    assert bm25.main(arguments) == 0
    run = read_run(tmp_path / "n" / "run", flag="")
    assert set(run) == set(made.positives)
    assert max(map(len, run.values())) == 5
    assert bm25.main([*arguments, "--b", "2"]) == 2
    assert "--b (2.0) from 0 to 1" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "bm25s", None)
    assert bm25.main(arguments) == 2
    assert "pip install gazetteer[dense]" in capsys.readouterr().err
