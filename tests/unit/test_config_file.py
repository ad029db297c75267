import pytest

from gazetteer.config_file import read_config
from gazetteer.errors import OptionError


@pytest.fixture
def write(tmp_path):
    def write_file(text, name="run.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_file


def refusal(path):
    with pytest.raises(OptionError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(str(path)), message
    assert "\n" not in message
    return message.removeprefix(str(path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4e-5", 4e-5),
        ("4.0e-5", 4e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1", -1),
        ("010", "010"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("0-1000:500,1000-10000:2000", "0-1000:500,1000-10000:2000"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("off", False),
        ("~", None),
        ("'4e-5'", "4e-5"),
        ("[a.jsonl, b.jsonl]", ["a.jsonl", "b.jsonl"]),
        ("'{query} {text}'", "{query} {text}"),
    ],
)
def test_yaml_values_mean_what_people_write(write, text, value):
    found = read_config(write(f"key: {text}\n"))["key"]
    assert found == value
    assert type(found) is type(value)


def test_json_is_read_by_its_ending(write):
    path = write('{"lr": 4e-5, "train_data": ["a"], "shuffle": true, "task": null}', "run.json")
    assert read_config(path) == {"lr": 4e-5, "train_data": ["a"], "shuffle": True, "task": None}


@pytest.mark.parametrize("name", ["run.yaml", "run.json"])
def test_an_empty_file_changes_nothing(write, name):
    assert read_config(write("\n", name)) == {}


def test_a_key_given_twice_is_refused_with_its_line(write):
    assert refusal(write("lr: 1\nseed: 2\nlr: 3\n")).startswith(
        ": line 3: key 'lr' is given twice, expected once"
    )
    assert refusal(write('{"lr": 1, "lr": 2}', "run.json")) == (
        ": key 'lr' is given twice, expected once"
    )


def test_malformed_files_are_refused_with_their_line(write):
    assert refusal(write("lr: 1\nseed: [1\n")).startswith(": line 3:")
    assert refusal(write('{"lr": 1,\n"seed" 2}', "run.json")).startswith(": line 2:")


def test_anything_but_a_mapping_is_refused(write):
    assert refusal(write("- lr\n")) == ": found list, expected a mapping from flag name to value"
    assert "found str" in refusal(write("lr=4e-5\n"))
    assert "found int" in refusal(write("3", "run.json"))


def test_unreadable_files_are_refused(write, tmp_path):
    assert "cannot be read" in refusal(tmp_path / "missing.yaml")
    assert "cannot be read" in refusal(tmp_path)
    assert "byte 4 is not UTF-8" in refusal(write(b"lr: \xff"))


def test_tags_that_would_build_objects_are_refused(write, tmp_path):
    target = tmp_path / "touched"
    text = f"lr: !!python/object/apply:os.mkdir ['{target}']"
    assert "could not determine a constructor" in refusal(write(text))
    assert not target.exists()


@pytest.mark.parametrize(("name", "text"), [("run.yaml", "seed: 3\n"), ("run.json", '{"seed": 3}')])
def test_a_byte_order_mark_is_no_part_of_the_text(write, name, text):
    assert read_config(write(b"\xef\xbb\xbf" + text.encode(), name)) == {"seed": 3}
