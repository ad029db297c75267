"""An output folder is one training's: the same goes on, another puts the first aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from gazetteer.compress.one_training import make_room, settings_of
from gazetteer.compress.records import OfflineRecord
from gazetteer.compress.train_with_evaluation import build_parser
from gazetteer.errors import DataError


def begin(folder: Path, words: str = "", answer: str = "it") -> None:
    values = build_parser().parse_args(["--train_data", "t.json", *words.split()])
    record = OfflineRecord(query="who?", documents=("it",), answer=answer)
    make_room(folder, settings_of(values, [record]))
    (folder / "training").mkdir(exist_ok=True)
    (folder / "training" / "of.txt").write_text(words + answer)


def test_the_same_training_goes_on(tmp_path: Path) -> None:
    begin(tmp_path)
    for words in ("", "--num_epochs 3", "--max_steps 4 --learning_rate 5e-5", "--num_layers 8"):
        begin(tmp_path, words)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["settings.json", "training"]


def test_another_one_puts_it_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begin(tmp_path)
    begin(tmp_path, "--compressor_type n_layers")
    begin(tmp_path, "--compressor_type n_layers", answer="other")
    said = [record.getMessage() for record in caplog.records]
    assert "other --compressor_model, --compressor_type, --num_layers: it is in" in said[0]
    assert "other --train_data: it is in" in said[1]
    kept = [(tmp_path / f"earlier-{n}" / "training" / "of.txt").read_text() for n in (1, 2)]
    assert kept == ["it", "--compressor_type n_layersit"]
    assert (tmp_path / "training" / "of.txt").read_text() == "--compressor_type n_layersother"


def test_a_note_that_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(DataError, match=r"settings\.json: not valid JSON; remove it"):
        begin(tmp_path)
