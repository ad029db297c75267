import os

from gazetteer.paths import can_be_written, path_kind


def test_files_folders_and_nothing_are_told_apart(tmp_path):
    (tmp_path / "file").write_text("x")
    assert path_kind(str(tmp_path)) == "folder"
    assert path_kind(str(tmp_path / "file")) == "file"
    assert path_kind(str(tmp_path / "missing")) == "nothing"
    assert path_kind(str(tmp_path / "file" / "below")) == "nothing"


def test_impossible_paths_are_nothing_rather_than_errors():
    assert path_kind("") == "nothing"
    assert path_kind("x" * 5000) == "nothing"
    assert path_kind("a\0b") == "nothing"


def test_a_folder_can_be_written_where_its_nearest_parent_can(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    assert can_be_written(str(tmp_path))
    assert can_be_written(str(tmp_path / "new" / "below"))
    assert not can_be_written(str(tmp_path / "file" / "below"))
    assert not can_be_written("a\0b")
    monkeypatch.chdir(tmp_path)
    assert can_be_written("new")
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: bool(asked.append((path, mode))))
    assert not can_be_written("new/below")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]
