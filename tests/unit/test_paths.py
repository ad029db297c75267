from gazetteer.paths import path_kind


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
