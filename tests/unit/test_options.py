import dataclasses
import json
import typing

import pytest

from gazetteer.errors import OptionError
from gazetteer.flags import all_flags, flags_of, groups_of
from gazetteer.option_bounds import BOUNDS
from gazetteer.options import (
    DataOptions,
    IndexOptions,
    LaunchOptions,
    Options,
    build_parser,
    options_from_dict,
    options_log,
    options_to_dict,
    parse_options,
    read_options,
    save_options,
)

GROUPS = groups_of(Options)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with train.jsonl, dev.jsonl, test.jsonl and passages.jsonl, made the current one."""
    for name in ("train", "dev", "test", "passages"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


BASE = ["--task", "qa", "--train_data", "train.jsonl", "--passages", "passages.jsonl"]
BASE += ["--reader_model_type", "t5-small"]


def parse(*words, program="train"):
    return parse_options([*BASE, *words], program=program)


# ---- the page itself


def test_no_two_groups_share_a_field():
    names = [each.name for group in GROUPS.values() for each in flags_of(group)]
    assert len(names) == len(set(names)) == len(all_flags(Options))


def test_every_class_attribute_is_annotated():
    for group in [*GROUPS.values(), Options]:
        fields = {each.name for each in dataclasses.fields(group)}
        public = {
            name
            for name, value in vars(group).items()
            if not name.startswith("_") and not isinstance(value, property)
        }
        assert public == fields == set(typing.get_type_hints(group)), group


def test_every_field_of_options_but_the_notes_is_a_group():
    assert {each.name for each in dataclasses.fields(Options)} == {*GROUPS, "notes"}


def test_every_group_is_frozen_and_keyword_only():
    for group in GROUPS.values():
        made = group()
        name = flags_of(group)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, name, None)
        with pytest.raises(TypeError):
            group("positional")
        assert not hasattr(made, "__dict__")


def test_every_flag_has_one_short_line_of_help():
    for each in all_flags(Options).values():
        assert each.help and "\n" not in each.help and len(each.help) <= 100, each.name
        assert not each.help.endswith("."), each.name


def test_every_number_has_bounds_and_bounds_are_of_numbers():
    numbers = {each.name for each in all_flags(Options).values() if each.kind in (int, float)}
    assert set(BOUNDS) == numbers


def test_every_default_is_inside_its_bounds():
    for name, bounds in BOUNDS.items():
        default = all_flags(Options)[name].default
        assert default in (None, []) or default in bounds, name


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_help_shows_each_flag_on_one_line_with_its_default(program, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(["--help"], program=program)
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: {program}.py --task NAME --")
    assert all(len(line) <= 150 for line in lines)
    entries = {line.split()[0][2:]: line for line in lines if line.startswith("  --")}
    assert set(entries) == set(all_flags(Options))
    long_lists = {"task", "gold_score_mode", "reader_model_type"}
    for name, line in entries.items():
        default = all_flags(Options)[name].default_text
        assert line.endswith(f" [{default}]") or name in long_lists, line


# ---- the command line


def test_defaults_of_the_command_line_are_those_of_the_dataclasses():
    assert vars(build_parser("train").parse_args([])) == options_to_dict(Options())


def test_both_programs_have_the_same_flags():
    train, evaluate = (build_parser(program).parse_args([]) for program in ("train", "evaluate"))
    assert vars(train) == vars(evaluate)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--lr=4e-5"], "lr", 4e-5),
        (["--lr", "4e-5"], "lr", 4e-5),
        (["--refresh_index", "-1"], "refresh_index", "-1"),
        (["--refresh_index=-1"], "refresh_index", "-1"),
        (
            ["--refresh_index", "0-1000:500,1000-10000:2000"],
            "refresh_index",
            "0-1000:500,1000-10000:2000",
        ),
        (["--main_port", "-1"], "main_port", -1),
        (["--max_passages", "-1"], "max_passages", -1),
        (["--generation_length_penalty", "-1.5"], "generation_length_penalty", -1.5),
        (["--target_maxlength", "32", "--target_maxlength", "16"], "target_maxlength", 16),
        (["--encoder_format", ""], "encoder_format", ""),
        (["--encoder_format", "{query} text: {text}"], "encoder_format", "{query} text: {text}"),
        (["--encoder_format", "- {query}"], "encoder_format", "- {query}"),
        (["--decoder_format", "{{{target}}}"], "decoder_format", "{{{target}}}"),
        (["--eval_data", "dev.jsonl", "test.jsonl"], "eval_data", ["dev.jsonl", "test.jsonl"]),
        (["--eval_data", "dev.jsonl", "--shuffle"], "eval_data", ["dev.jsonl"]),
        (["--eval_data", "test.jsonl", "--eval_data", "dev.jsonl"], "eval_data", ["dev.jsonl"]),
        (["--shuffle", "--shuffle"], "shuffle", True),
    ],
)
def test_edge_cases_of_the_command_line(files, words, name, value):
    assert options_to_dict(parse(*words))[name] == value


@pytest.mark.parametrize("words", [["--total", "30"], ["--shuff"], ["--warmup", "5"]])
def test_abbreviated_flags_are_refused(files, words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    assert (
        capsys.readouterr().err == f"train.py: error: unrecognized arguments: {' '.join(words)}\n"
    )


@pytest.mark.parametrize(
    "words", [["--total_steps", "1e3"], ["--task", "QA"], ["--precision"], ["--shuffle=1"]]
)
def test_unreadable_command_lines_are_one_line_and_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(words, program="evaluate")
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"evaluate.py: error: argument {words[0].split('=')[0]}: ")
    assert error.count("\n") == 1


def test_an_unknown_reader_is_refused_with_the_list(capsys):
    with pytest.raises(SystemExit):
        parse_options(["--reader_model_type", "t6-base"], program="train")
    error = capsys.readouterr().err
    assert "invalid choice: 't6-base'" in error
    assert "google/t5-xxl-lm-adapt" in error


@pytest.mark.parametrize("name", ["google/flan-t5-base", "me/my-t5", "t5-3b", "./reader"])
def test_other_readers_than_the_listed_are_accepted(files, name):
    (files / "reader").mkdir()
    assert parse("--reader_model_type", name).reader.reader_model_type == name


def test_options_are_checked_and_resolved(files):
    with pytest.raises(OptionError, match=r"--dropout \(1.5\) must"):
        parse("--dropout", "1.5")
    options = parse("--gold_score_mode", "pdist")
    assert options.retriever.gold_score_mode == "ppmean"
    assert options.notes == ("the same by another name: gold_score_mode pdist -> ppmean",)


def test_the_words_of_the_process_are_read_by_default(files, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", *BASE, "--seed", "7"])
    assert parse_options(program="train").experiment.seed == 7


# ---- --config


def config(files, text, name="run.yaml"):
    (files / name).write_text(text)
    return ["--config", name]


def test_a_config_file_sets_flags(files):
    words = config(
        files,
        "lr: 4e-5\nclip: 2\nshuffle: true\nrefresh_index: -1\neval_data: [dev.jsonl, test.jsonl]\n",
    )
    options = parse(*words)
    assert (options.optimisation.lr, options.optimisation.clip) == (4e-5, 2.0)
    assert options.data.shuffle is True
    assert options.data.eval_data == ["dev.jsonl", "test.jsonl"]
    assert options.index.refresh_index == "-1"
    assert options.experiment.config == "run.yaml"


def test_a_config_file_may_be_json_and_hold_what_the_run_requires(files):
    values = {"task": "qa", "train_data": ["train.jsonl"], "closed_book": True}
    words = config(files, json.dumps(values | {"reader_model_type": "t5-base"}), "run.json")
    assert parse_options(words, program="train").reader.reader_model_type == "t5-base"


def test_the_command_line_wins_over_the_config_file(files):
    words = config(files, "lr: 4e-5\nseed: 3\neval_data: [dev.jsonl]\n")
    before = parse("--lr", "1", "--eval_data", "test.jsonl", *words)
    after = parse(*words, "--lr", "1", "--eval_data", "test.jsonl")
    for options in (before, after):
        assert options.optimisation.lr == 1.0
        assert options.experiment.seed == 3
        assert options.data.eval_data == ["test.jsonl"]


def test_a_flag_at_its_default_on_the_command_line_wins_too(files):
    assert parse(*config(files, "seed: 3\n"), "--seed", "0").experiment.seed == 0


def test_the_command_line_switches_off_what_the_config_file_switched_on(files):
    words = config(files, "shuffle: true\nclosed_book: true\n")
    options = parse(*words, "--no-shuffle")
    assert (options.data.shuffle, options.data.closed_book) == (False, True)


def test_the_last_config_file_counts(files):
    first = config(files, "seed: 1\nclip: 5\n", "first.yaml")
    second = config(files, "seed: 2\n", "second.yaml")
    options = parse(*first, *second)
    assert (options.experiment.seed, options.optimisation.clip) == (2, 1.0)


def test_values_of_a_config_file_obey_the_rules(files):
    with pytest.raises(OptionError, match=r"--dropout \(2.0\) must be at least 0 and below 1"):
        parse(*config(files, "dropout: 2\n"))
    config(files, "reader_model_type: t6-base\n")
    with pytest.raises(OptionError, match=r"--reader_model_type \(t6-base\) must"):
        parse_options([*BASE[:-2], "--config", "run.yaml"], program="train")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("learning_rate: 1\n", "run.yaml: learning_rate: unknown key"),
        ("total_step: 1\n", "run.yaml: total_step: unknown key, expected 'total_steps'?"),
        ("--seed: 1\n", "run.yaml: --seed: unknown key, expected 'seed'?"),
        ("seed: one\n", "run.yaml: seed: found 'one', expected a whole number"),
        ("task: no\n", "run.yaml: task: found False, expected one of base, mlm"),
        ("train_data: dev.jsonl\n", "run.yaml: train_data: found 'dev.jsonl', expected a list"),
        ("scheduler: step\n", "run.yaml: scheduler: found 'step', expected one of linear, cosine"),
        ("config: other.yaml\n", "run.yaml: config: unknown key"),
        ("seed: 1\nseed: 2\n", "run.yaml: line 2: key 'seed' is given twice"),
    ],
)
def test_mistakes_in_a_config_file_name_file_key_and_expectation(files, text, complaint):
    with pytest.raises(OptionError) as caught:
        parse(*config(files, text))
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["missing.yaml", ".", ""])
def test_a_missing_config_file_names_the_flag(files, path):
    with pytest.raises(OptionError) as caught:
        parse("--config", path)
    assert str(caught.value) == f"--config ({path}) must be an existing file"


# ---- saved options


def test_options_round_trip_through_json(files, tmp_path):
    options = parse("--eval_data", "dev.jsonl", "--lr", "4e-5", "--shuffle", "--n_context", "40")
    save_options(options, tmp_path / "options.json")
    assert read_options(tmp_path / "options.json") == options


def test_saved_options_are_flat_json_with_every_flag_but_config(tmp_path):
    save_options(Options(), tmp_path / "options.json")
    saved = json.loads((tmp_path / "options.json").read_text())
    assert set(saved) == set(all_flags(Options)) - {"config"}
    assert saved["lr"] == 1e-4 and saved["train_data"] == [] and saved["task"] is None


def test_saved_options_serve_as_a_config_file(files):
    options = parse("--lr", "4e-5", *config(files, "seed: 3\n"))
    save_options(options, "options.json")
    again = parse_options(["--config", "options.json"], program="train")
    changed = dataclasses.replace(options.experiment, config="options.json")
    assert again == dataclasses.replace(options, experiment=changed)


def test_missing_keys_of_saved_options_take_their_defaults(tmp_path):
    (tmp_path / "options.json").write_text('{"seed": 5}')
    options = read_options(tmp_path / "options.json")
    assert options == options_from_dict({"seed": 5})
    assert options.optimisation == Options().optimisation


def test_unknown_keys_of_saved_options_are_all_named(tmp_path):
    path = tmp_path / "options.json"
    path.write_text('{"seed": 5, "sharding": 1, "colour": "red"}')
    with pytest.raises(OptionError) as caught:
        read_options(path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: sharding: unknown key")
    assert lines[1].startswith(f"{path}: colour: unknown key")


def test_a_reader_folder_that_is_gone_does_not_hinder_reading(tmp_path):
    assert options_from_dict({"reader_model_type": "gone"}).reader.reader_model_type == "gone"


def test_notes_are_neither_saved_nor_compared():
    noted = dataclasses.replace(Options(), notes=("something",))
    assert noted == Options()
    assert "notes" not in options_to_dict(noted)


def test_the_log_is_sorted_and_shows_what_was_changed():
    lines = options_log(options_from_dict({"lr": 4e-5, "eval_data": ["dev.jsonl"]})).splitlines()
    assert lines == sorted(lines, key=lambda line: line.split(":")[0])
    assert len(lines) == len(all_flags(Options))
    assert "lr: 4e-05 (default: 0.0001)" in lines
    assert "eval_data: ['dev.jsonl'] (default: [])" in lines
    assert "clip: 1.0" in lines
    assert sum("(default:" in line for line in lines) == 2


def test_the_cache_folder_follows_flag_then_environment_then_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert DataOptions(cache_dir="here").cache_folder.name == "here"
    assert DataOptions().cache_folder == tmp_path / "gazetteer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataOptions().cache_folder == tmp_path / ".cache" / "gazetteer"


def test_groups_can_be_given_one_by_one():
    options = Options(launch=LaunchOptions(main_port=5), index=IndexOptions(refresh_index="10"))
    assert options_to_dict(options)["main_port"] == 5
    assert options.index.refresh_index == "10"
