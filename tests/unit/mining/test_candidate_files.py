"""Candidates of one query at a time, out of files in whatever order."""

from __future__ import annotations

from pathlib import Path

import pytest

from gazetteer.errors import DataError
from gazetteer.mining.candidate_files import CandidateKind, read_candidates
from gazetteer.mining.grouped_lines import GroupedLines


def read(path: Path, content: str, kind: CandidateKind) -> dict[str, list[tuple[object, ...]]]:
    path.write_bytes(content.encode())
    lines = GroupedLines(path, "--flag")
    return {
        query_id: [
            (c.id, c.score, c.rank, c.source)
            for c in read_candidates(path, lines.stretches(group), kind)
        ]
        for group, query_id in enumerate(lines.query_ids)
    }


def test_lines_of_a_query_need_not_be_together(tmp_path: Path) -> None:
    content = (
        "\ufeff2 Q0 a 1 9.5 tag\r\n1 Q0 b 1 3 tag\n\n2 Q0 c 2 10 tag\n"
        "1\tQ0\tan id\t2\t3\ttag\n2 Q0 d 3 9.5 tag"
    )
    assert read(tmp_path / "run", content, "run") == {
        "2": [("c", 10.0, 1, "tag"), ("a", 9.5, 2, "tag"), ("d", 9.5, 3, "tag")],
        "1": [("b", 3.0, 1, "tag"), ("an id", 3.0, 2, "tag")],
    }


def test_three_columns_are_scores_or_ranks(tmp_path: Path) -> None:
    content = "1 a 0.5\n1 b 0.75\n2 a 1\n2 b 2\n2 c 3\n3 a 2\n3 b 1\n"
    assert read(tmp_path / "r", content, "run") == {
        "1": [("b", 0.75, 1, "r"), ("a", 0.5, 2, "r")],
        "2": [("a", None, 1, "r"), ("b", None, 2, "r"), ("c", None, 3, "r")],
        "3": [("a", 2.0, 1, "r"), ("b", 1.0, 2, "r")],
    }


def test_lists_of_negatives(tmp_path: Path) -> None:
    content = "1\t5,06, 7,\r\n2\t\n1\t8\n"
    assert read(tmp_path / "n", content, "negatives") == {
        "1": [(name, None, None, "n") for name in ("5", "06", "7", "8")],
        "2": [],
    }


@pytest.mark.parametrize(
    ("content", "kind", "expected"),
    [
        ("1 Q0 a 1 9 t\n1 Q0 b 2 x t\n", "run", ':2: found the string "x" as the score'),
        ("1 Q0 a 1 nan t\n", "run", ':1: found the string "nan" as the score'),
        ("1 a\n", "run", ":1: found 2 columns, expected 6"),
        ("1 5,6\n", "negatives", ":1: found 1 columns, expected 2"),
        ("1\t5\t6\n", "negatives", ":1: found 3 columns, expected 2"),
    ],
)
def test_bad_lines_are_named(
    tmp_path: Path, content: str, kind: CandidateKind, expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        read(tmp_path / "f", content, kind)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match=r"f:1: found gzip.*\(--flag\)"):
        GroupedLines(path, "--flag")
    with pytest.raises(DataError, match=r"gone: No such file.*\(--flag\)"):
        GroupedLines(tmp_path / "gone", "--flag")
    path.write_bytes(b"\xff 1\n")
    with pytest.raises(DataError, match="found a query id of other bytes"):
        _ = GroupedLines(path, "--flag").query_ids
