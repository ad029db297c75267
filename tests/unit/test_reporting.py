import json

import pytest

from gazetteer.errors import GazetteerError
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.reporting import drop_metrics_after, start_experiment
from tests.support.ranks import run_on_ranks


@pytest.mark.parametrize("torn", [b'{"kind": "train", "st', b'{"a": "\xe2\x82', b"[]", b"7"])
def test_a_torn_line_of_metrics_does_not_stop_a_resume(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    whole = [json.dumps({"kind": "train", "step": step}) for step in (1, 2, 3)]
    path.write_bytes("\n".join(whole).encode() + b"\n" + torn)
    drop_metrics_after(tmp_path, 2)
    assert path.read_text().splitlines() == whole[:2]
    assert list(tmp_path.iterdir()) == [path]


def test_without_metrics_there_is_nothing_to_drop(tmp_path):
    drop_metrics_after(tmp_path, 2)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    folder = tmp_path / "file" / "run"
    with pytest.raises(GazetteerError) as caught:
        start_experiment(folder, Options(), Ranks())
    assert str(caught.value) == (
        f"{folder}: cannot be written: Not a directory (--checkpoint_dir, --name)"
    )
    assert caught.value.exit_code == 2


def _start(ranks, folder):
    try:
        start_experiment(folder, Options(), ranks)
    except GazetteerError as error:
        return str(error), error.is_shared
    return None


def test_all_ranks_learn_that_the_folder_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    first, second = run_on_ranks(_start, 2, tmp_path / "file" / "run")
    assert first == second
    assert first is not None and first[1]
