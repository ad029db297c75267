"""The first steps of MS MARCO give what join, sort and awk give."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from prepare_msmarco import main

PARA = '10\tten "quoted\n9\tnine\u2028 line\n100\thundred\n2\tNA\n'
TITLES = "9\tTitle of nine\n2\tNULL\n77\tof nothing\n100\t\n"
TRIPLES = "5 1 7\n5 1 8\n5 2 7\n6\t1\t9\n4 3 3\n"


def run(folder: Path, *more: object, para: str = PARA, titles: str = TITLES) -> int:
    (folder / "para.txt").write_text(para)
    (folder / "para.title.txt").write_text(titles)
    words = ["--para", folder / "para.txt", "--para_title", folder / "para.title.txt"]
    words += ["--output_dir", folder / "out", "--no_progress", *more]
    return main(list(map(str, words)))


def test_titles_are_joined_and_ids_sorted_as_numbers(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    expected = '2\tNULL\tNA\n9\tTitle of nine\tnine\u2028 line\n10\t\tten "quoted\n100\t\thundred\n'
    assert (tmp_path / "out" / "corpus.tsv").read_text() == expected


@pytest.mark.skipif(shutil.which("join") is None, reason="needs coreutils")
def test_the_same_as_the_shell(tmp_path: Path) -> None:
    assert run(tmp_path) == 0
    shell = (
        "export LC_ALL=C; join -t \"$(echo -en '\\t')\" -e '' -a 1 -o 1.1 2.2 1.2 "
        "<(sort -k1,1 para.txt) <(sort -k1,1 para.title.txt) | sort -k1,1 -n"
    )
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    assert done == (tmp_path / "out" / "corpus.tsv").read_bytes()


def test_negatives_of_each_query_once(tmp_path: Path) -> None:
    triples = tmp_path / "triples.tsv"
    triples.write_bytes(TRIPLES.replace("\n", "\r\n").encode())
    assert main(["--triples", str(triples), "--output_dir", str(tmp_path)]) == 0
    assert (tmp_path / "train.negatives.tsv").read_text() == "5\t7,8\n6\t9\n4\t3\n"


@pytest.mark.parametrize(
    ("para", "titles", "expected"),
    [
        ("1\ta\n1\tb\n", TITLES, "para.txt:2: found id 1 for the second time (--para)"),
        ("1\ta\nb\n", TITLES, "para.txt:2: found 1 columns, expected id, text (--para)"),
        (PARA, "x\ta\n", "para.title.txt:1: found an id that is no whole number (--para_title)"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], para: str, titles: str, expected: str
) -> None:
    assert run(tmp_path, para=para, titles=titles) == 2
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_something_must_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output_dir", str(tmp_path)]) == 2
    assert main(["--output_dir", str(tmp_path), "--para", "p"]) == 2
    assert "are needed together" in capsys.readouterr().err
