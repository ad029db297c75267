"""Finished parts of an output: whole or absent, one process at a time, one setting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gazetteer.compress.merging import merge, shard_file
from gazetteer.compress.records import OfflineRecord, read_records, write_records
from gazetteer.compress.work_folder import WorkFolder
from gazetteer.errors import DataError, OptionError


def test_parts_are_found_again_and_torn_ones_are_none(tmp_path: Path) -> None:
    with WorkFolder.opened(tmp_path / "w", {"--a": (0, 1), "--b": None}) as work:
        assert work.objects("x") is None and work.arrays("x") is None
        work.write_objects("x", [{"query": "\u00e9\u2028"}])
        work.write_arrays("x", {"rows": np.arange(3)})
    (tmp_path / "w" / "torn.json").write_text("[{")
    (tmp_path / "w" / "torn.safetensors").write_bytes(b"\1")
    with WorkFolder.opened(tmp_path / "w", {"--b": None, "--a": [0, 1]}) as work:
        assert work.objects("x") == [{"query": "\u00e9\u2028"}]
        found = work.arrays("x")
        assert found is not None and found["rows"].tolist() == [0, 1, 2]
        assert work.objects("torn") is None and work.arrays("torn") is None
        with (
            pytest.raises(DataError, match="another process writes here"),
            WorkFolder.opened(tmp_path / "w", {"--a": [0, 1], "--b": None}),
        ):
            pass
        work.remove()
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"--a": 2, "--b": "x"}, "--a is now 2, but .* was begun with 1: go on with that, or rem"),
        ({"--a": 1}, "--b is now null, but .* was begun with"),
        ({"--a": 1, "--b": "x", "--c": []}, r"--c is now \[\], but"),
    ],
)
def test_another_setting_is_refused_by_name(
    tmp_path: Path, now: dict[str, object], message: str
) -> None:
    with WorkFolder.opened(tmp_path / "w", {"--a": 1, "--b": "x"}):
        pass
    with pytest.raises(OptionError, match=message), WorkFolder.opened(tmp_path / "w", now):
        pass


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"), WorkFolder.opened(tmp_path / "file", {}):
        pass


def record(query: str) -> OfflineRecord:
    return OfflineRecord(query=query, documents=("d",), answer="a")


def test_shards_are_joined_by_number_and_none_may_be_missing(tmp_path: Path) -> None:
    files = [shard_file(tmp_path / "data.json", part, 12) for part in range(12)]
    assert files[3].name == "data.shard-03-of-12.json"
    for number, path in enumerate(files):
        write_records(path, [record(f"q{number}")])
    merge(files[::-1], tmp_path / "all.json")
    merged = read_records(tmp_path / "all.json", flag="--merge")
    assert [each.query for each in merged] == [f"q{n}" for n in range(12)]
    with pytest.raises(OptionError, match="shard 5 of 12 is missing"):
        merge(files[:5] + files[6:], tmp_path / "other.json")
    with pytest.raises(OptionError, match="a shard is named twice"):
        merge([*files, files[0]], tmp_path / "other.json")
    with pytest.raises(OptionError, match="must be none of --merge"):
        merge(files, files[0])
    # As the seed's own loop names them: in the order given.
    for name in ("train_data_b.json", "train_data_a.json"):
        write_records(tmp_path / name, [record(name)])
    merge([tmp_path / "train_data_b.json", tmp_path / "train_data_a.json"], tmp_path / "x.json")
    assert [r.query[11] for r in read_records(tmp_path / "x.json", flag="--x")] == ["b", "a"]
    assert not (tmp_path / "other.json").exists()
