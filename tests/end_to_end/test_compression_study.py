"""The study of compression: its very commands, on a tiny model, and its scoreboard."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gazetteer.compress.records import OfflineRecord, write_records
from gazetteer.options import parse_options
from tests.support.runs import close_logs
from tests.support.tiny_causal import save_tiny_causal
from tests.support.tiny_data import passages, questions

STUDY = Path(__file__).resolve().parents[2] / "example_scripts" / "studies"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(STUDY))
    module = importlib.import_module("compression")
    monkeypatch.setattr(module, "prepare_data", prepare)
    yield module
    close_logs()
    sys.modules.pop("compression")


def prepare(study) -> None:
    """Made-up records where the study would put the Factbook's."""
    for split, seed in (("train", 1), ("test", 2)):
        texts = [row["text"] for row in passages(9, seed)]
        records = [
            OfflineRecord(
                query=asked["question"],
                documents=tuple(texts[number : number + 2]),
                answer=asked["answers"][0],
            )
            for number, asked in enumerate(questions(6, seed))
        ]
        write_records(study.records / f"{split}.json", records)


def test_every_row_is_trained_once_and_scored(
    study: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"--output_directory {tmp_path}/out --reader {save_tiny_causal(tmp_path / 'lm')} "
    words += "--rows memory:query mean:none --layers 1 --steps 2 3 --batch 2"
    assert study.main(shlex.split(words)) == 0
    table = (tmp_path / "out" / "scoreboard" / "scoreboard.md").read_text()
    assert all(f"| {row} |" in table for row in ("memory:query", "mean:none", "uncompressed"))
    seconds = tmp_path / "out" / "seconds"
    done = {path.name: path.stat().st_mtime_ns for path in seconds.iterdir()}
    assert set(done) == {"data", "lines", "whole", "memory-query", "mean-none"}
    capsys.readouterr()
    assert study.main(shlex.split(f"{words} --print")) == 0
    # Words may hold line breaks.
    commands = capsys.readouterr().out.strip().split("python train.py ")[1:]
    options = [parse_options(shlex.split(each), program="train") for each in commands]
    assert [each.experiment.name for each in options] == ["whole", "memory-query", "mean-none"]
    assert "{query}" not in options[2].compressor.compressor_format
    assert {path.name: path.stat().st_mtime_ns for path in seconds.iterdir()} == done


def test_rows_are_checked(study: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study.main(["--output_directory", "x", "--rows", "max:query"])
    assert "expected POOLING:query" in capsys.readouterr().err
