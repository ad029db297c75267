# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.
import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from gazetteer.errors import OptionError
from gazetteer.flags import (
    FlagParser,
    OpenChoices,
    add_flags,
    all_flags,
    checked_values,
    compose,
    flag,
    flags_of,
    flat_values,
    group_title,
    groups_of,
    with_values,
)

FRUIT = OpenChoices(("apple", "pear"), accepts=lambda value: value.startswith("the "))


@dataclass(frozen=True, kw_only=True, slots=True)
class KitchenOptions:
    """Kitchen: what is cooked.

    More is said here, and not shown.
    """

    hot: bool = flag(False, "heat it")
    minutes: int = flag(10, "how long")
    share: float = flag(0.5, "how much, in %")
    names: list[str] = flag([], "of the dishes", metavar="DISH")
    times: list[int] | None = flag(None, "of the dishes")
    size: Literal["small", "big"] = flag("small", "of the pot")
    fruit: str | None = flag(None, "of the season", choices=FRUIT)


@dataclass(frozen=True, kw_only=True, slots=True)
class TableOptions:
    """Table: where it is eaten."""

    seats: int | None = flag(None, "around it")


@dataclass(frozen=True, kw_only=True, slots=True)
class MealOptions:
    """All of it."""

    kitchen: KitchenOptions = field(default_factory=KitchenOptions)
    table: TableOptions = field(default_factory=TableOptions)
    notes: tuple[str, ...] = ()


FLAGS = all_flags(MealOptions)


@pytest.fixture
def parser():
    made = FlagParser(prog="cook.py", usage="cook.py [--flag VALUE]", description="Cook.")
    for group in groups_of(MealOptions).values():
        add_flags(made, group)
    return made


def test_annotations_say_what_a_flag_takes():
    found = {each.name: (each.kind, each.is_list, each.is_optional) for each in FLAGS.values()}
    assert found == {
        "hot": (bool, False, False),
        "minutes": (int, False, False),
        "share": (float, False, False),
        "names": (str, True, False),
        "times": (int, True, True),
        "size": (str, False, False),
        "fruit": (str, False, True),
        "seats": (int, False, True),
    }
    assert FLAGS["size"].choices == ("small", "big")
    assert FLAGS["fruit"].choices is FRUIT


def test_fields_of_a_type_no_flag_can_have_are_our_own_mistake():
    @dataclass(frozen=True)
    class BadOptions:
        """Bad."""

        pair: dict = flag(None, "impossible")

    with pytest.raises(TypeError, match="pair"):
        flags_of(BadOptions)


def test_groups_are_the_fields_that_are_dataclasses():
    assert groups_of(MealOptions) == {"kitchen": KitchenOptions, "table": TableOptions}
    assert group_title(KitchenOptions) == "Kitchen: what is cooked"


def test_list_defaults_are_not_shared():
    KitchenOptions().names.append("soup")
    assert KitchenOptions().names == []


def test_every_kind_of_flag_parses(parser):
    words = "--hot --minutes -3 --share=4e-1 --names a b --times 1 2 --size big --fruit pear"
    assert vars(parser.parse_args(words.split())) == {
        "hot": True,
        "minutes": -3,
        "share": 0.4,
        "names": ["a", "b"],
        "times": [1, 2],
        "size": "big",
        "fruit": "pear",
        "seats": None,
    }


def test_a_switch_has_a_hidden_opposite_and_the_last_of_them_counts(parser):
    assert parser.parse_args(["--hot", "--no-hot"]).hot is False
    assert parser.parse_args(["--no-hot", "--hot"]).hot is True
    assert parser.parse_args(["--no-hot"]).hot is False
    assert "--no-" not in parser.format_help()
    parser.set_defaults(hot=True)
    assert parser.parse_args([]).hot is True
    assert parser.parse_args(["--no-hot"]).hot is False


def test_defaults_parse_to_the_dataclass_defaults(parser):
    assert compose(MealOptions, vars(parser.parse_args([]))) == MealOptions()


def test_abbreviations_are_refused(parser, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--minute", "3"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "cook.py: error: unrecognized arguments: --minute 3\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--minutes", "soon"], "argument --minutes: invalid int value: 'soon'"),
        (["--size", "huge"], "argument --size: invalid choice: 'huge'"),
        (["--fruit", "plum"], "argument --fruit: invalid choice: 'plum'"),
        (["--names"], "argument --names: expected at least one argument"),
        (["stray"], "unrecognized arguments: stray"),
        (["--minutes", "1\n2"], "argument --minutes: invalid int value"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(parser, capsys, words, reason):
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cook.py: error: {reason}")
    assert error.count("\n") == 1


def test_open_choices_show_a_list_and_accept_more(parser, capsys):
    assert parser.parse_args(["--fruit", "the fig"]).fruit == "the fig"
    assert tuple(FRUIT) == ("apple", "pear")
    assert 3 not in FRUIT
    with pytest.raises(SystemExit):
        parser.parse_args(["--fruit", "plum"])
    assert "'apple', 'pear'" in capsys.readouterr().err


def test_help_is_grouped_and_one_line_per_flag(parser):
    help_lines = parser.format_help().splitlines()
    assert help_lines[0] == "usage: cook.py [--flag VALUE]"
    assert "Kitchen: what is cooked:" in help_lines
    entries = {line.split()[0]: line for line in help_lines if line.startswith("  --")}
    assert entries["--hot"].split(maxsplit=1)[1] == "heat it [off]"
    assert entries["--share"].split(maxsplit=1)[1].split(maxsplit=1) == [
        "FLOAT",
        "how much, in % [0.5]",
    ]
    assert entries["--size"].endswith("of the pot {small, big} [small]")
    assert "--names DISH [DISH ...]" in entries["--names"]
    assert entries["--names"].endswith("[none]")
    assert entries["--seats"].endswith("around it [none]")


def test_flat_values_and_compose_are_inverse():
    meal = MealOptions(
        kitchen=KitchenOptions(minutes=3, names=["soup"]), table=TableOptions(seats=2)
    )
    values = flat_values(meal)
    assert (values["minutes"], values["names"], values["seats"]) == (3, ["soup"], 2)
    assert compose(MealOptions, values) == meal


def test_with_values_changes_a_copy():
    meal = MealOptions()
    assert with_values(meal, {"seats": 4}).table.seats == 4
    assert meal.table.seats is None


def test_groups_stay_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MealOptions().kitchen.minutes = 3  # type: ignore[misc]


def test_values_of_a_file_are_taken_over():
    found = {
        "share": 1,
        "fruit": "anything",
        "names": ["a"],
        "times": None,
        "hot": True,
        "size": "big",
    }
    values = checked_values(FLAGS, found, "run.yaml")
    assert values == found
    assert type(values["share"]) is float


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("minutes", "10", "found '10', expected a whole number"),
        ("minutes", 1.0, "found 1.0, expected a whole number"),
        ("minutes", True, "found True, expected a whole number"),
        ("minutes", None, "found None, expected a whole number"),
        ("share", "half", "found 'half', expected a number"),
        ("share", False, "found False, expected a number"),
        ("share", 10**400, f"found {10**400}, expected a number"),
        ("hot", 1, "found 1, expected true or false"),
        ("hot", "yes please", "found 'yes please', expected true or false"),
        ("names", "soup", "found 'soup', expected a list of text"),
        ("names", ["soup", None], "found ['soup', None], expected a list of text"),
        ("times", [1.5], "found [1.5], expected a list of a whole number, or null"),
        ("size", "huge", "found 'huge', expected one of small, big"),
        ("fruit", ["fig"], "found ['fig'], expected text, or null"),
        ("seats", {}, "found {}, expected a whole number, or null"),
        ("seat", 4, "unknown key, expected 'seats'?"),
        ("zzzzz", 4, "unknown key, expected the name of a flag (see --help)"),
        (7, 4, "unknown key, expected the name of a flag (see --help)"),
    ],
)
def test_wrong_values_of_a_file_are_refused(key, value, complaint):
    with pytest.raises(OptionError) as caught:
        checked_values(FLAGS, {key: value}, "run.yaml")
    assert str(caught.value) == f"run.yaml: {key}: {complaint}"


def test_whole_numbers_are_text_where_text_is_expected():
    assert checked_values(FLAGS, {"fruit": -1}, "run.yaml") == {"fruit": "-1"}


def test_all_wrong_values_are_reported_at_once():
    with pytest.raises(OptionError) as caught:
        checked_values(FLAGS, {"minutes": "x", "seats": 1, "chairs": 2, "hot": 3}, "run.yaml")
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert keys == ["minutes", "chairs", "hot"]
