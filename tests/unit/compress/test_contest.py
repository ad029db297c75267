from __future__ import annotations

from pathlib import Path

import pytest

from gazetteer.compress.contest import best_by_words, contestant, read_names, slug
from gazetteer.compress.records import OfflineRecord
from gazetteer.compress.scoreboard_table import markdown
from gazetteer.errors import OptionError
from gazetteer.options import parse_options, save_options


def record(query: str, *documents: str) -> OfflineRecord:
    return OfflineRecord(
        query=query,
        documents=documents,
        answer="x",
        document_ids=tuple(map(str, range(len(documents)))),
    )


def test_documents_go_by_the_words_of_the_question() -> None:
    records = [
        record("the capital of norway", "sea of japan", "norway and its capital", "a river"),
        record("zzz", "first", "second"),
    ]
    ordered = best_by_words(records)
    assert ordered[0].documents[0] == "norway and its capital"
    assert sorted(ordered[0].documents) == sorted(records[0].documents)
    assert ordered[1].documents == ("first", "second"), "no word is known: as they came"
    assert ordered[0].document_ids == (), "those were of the other order"


def test_names_of_rows() -> None:
    found = read_names(["16x=runs/a", "runs/b"], "--compressed")
    assert found == {"16x": Path("runs/a"), "b": Path("runs/b")}
    with pytest.raises(OptionError, match=r"--compressed \(runs/b\): another row is called 'b'"):
        read_names(["b=x", "runs/b"], "--compressed")
    with pytest.raises(OptionError, match="uncompressed"):
        read_names(["uncompressed=x"], "--compressed")
    assert slug("BM25's first passage") == "bm25-s-first-passage"


def test_a_checkpoint_answers_as_it_was_trained_but_for_what_is_asked(tmp_path: Path) -> None:
    lines = tmp_path / "eval.jsonl"
    lines.write_text("{}\n")
    checkpoint = tmp_path / "step-3"
    checkpoint.mkdir()
    words = ["--task", "qa", "--reader_model_type", "t5-small", "--text_maxlength", "77"]
    words += ["--use_file_passages", "--eval_data", str(lines)]
    save_options(parse_options(words, program="evaluate"), checkpoint / "options.json")
    (checkpoint / "manifest.json").write_text("{}")
    made = contestant("16 x", checkpoint, tmp_path / "rows", {"eval_data": [str(lines)]})
    assert made.options.reader.text_maxlength == 77
    assert made.options.experiment.model_path == str(checkpoint)
    assert made.options.experiment.folder == tmp_path / "rows" / "16-x"
    with pytest.raises(OptionError, match="no checkpoint of gazetteer"):
        contestant("x", tmp_path, tmp_path / "rows", {})


def test_the_table_names_its_baseline_and_leaves_open_what_is_nothing() -> None:
    part = {"mean": 0.0, "interval": (0.0, 0.0)}
    names = ("exact_match", "token_f1", "rouge_l", "answer_match", "answer_length")
    row = {
        "name": "uncompressed",
        "measures": dict.fromkeys(names, 0.0),
        "intervals": dict.fromkeys(names, (0.0, 0.0)),
        "differences": dict.fromkeys(names, part),
        "f1_kept": {"ratio": None, "interval": None},
        "costs": {
            "encode_flops": 0.0, "prefill_flops": 2e9, "decode_flops": 1e9, "total_flops": 3e9,
            "kv_bytes": 2500.0, "vectors": 30.0, "rate": None,
        },
        "times_less": {"reader_flops": 1.0, "kv_bytes": 1.0},
        "time": {"1": {"median_ms_per_query": 5.0, "speedup": 1.0, "interval": (0.9, 1.1)}},
    }  # fmt: skip
    board = {
        "baseline": "uncompressed", "questions": 4, "device": "cpu", "rows": [row],
        "timing": {"batch_size": 1, "queries": 2, "warm_up": 0, "new_tokens": 8},
    }  # fmt: skip
    text = markdown(board)
    assert 'The baseline is "uncompressed"' in text
    assert "| uncompressed | 30 |  | 0 | 2 | 1 | 3 | 1.00x | 2.5 | 1.00x | 5 | 1.00x" in text
    assert "nan" not in text.lower()
