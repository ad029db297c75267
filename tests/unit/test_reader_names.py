import pytest

from gazetteer.reader_names import READER_CHOICES, full_reader_name, is_reader_name


@pytest.mark.parametrize(
    "name",
    [
        "t5-small",
        "t5-11b",
        "t5-v1_1-base",
        "google/t5-v1_1-small",
        "t5-xl-lm-adapt",
        "google/t5-small-lm-adapt",
        "flan-t5-large",
        "google/flan-t5-xxl",
        "mt5-base",
        "google/mt5-xl",
        "someone/my-own.T5_reader",
    ],
)
def test_t5_names_and_hub_names_are_accepted(name):
    assert is_reader_name(name)
    assert name in READER_CHOICES


@pytest.mark.parametrize(
    "name",
    ["", "t6-base", "t5", "t5-xl", "T5-small", "flan-t5-3b", "t5-base-lm-adapted", "a/b/c", "/x/y"],
)
def test_nonsense_is_refused(name):
    assert not is_reader_name(name)
    assert name not in READER_CHOICES


def test_an_existing_folder_is_accepted_under_any_name(tmp_path, monkeypatch):
    (tmp_path / "reader").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "reader" in READER_CHOICES
    assert str(tmp_path / "reader") in READER_CHOICES


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("flan-t5-base", "google/flan-t5-base"),
        ("t5-v1_1-xl", "google/t5-v1_1-xl"),
        ("t5-base-lm-adapt", "google/t5-base-lm-adapt"),
        ("mt5-small", "google/mt5-small"),
        ("t5-base", "t5-base"),
        ("google/flan-t5-base", "google/flan-t5-base"),
        ("someone/reader", "someone/reader"),
    ],
)
def test_the_owner_is_added_where_a_t5_name_lacks_it(given, full):
    assert full_reader_name(given) == full


def test_a_folder_named_like_a_model_stays_a_folder(tmp_path, monkeypatch):
    (tmp_path / "flan-t5-base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert full_reader_name("flan-t5-base") == "flan-t5-base"
