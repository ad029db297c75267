"""Rules of teachers: what must come together, what excludes what, what has no effect."""

import pytest

from gazetteer.lead_options import LeadOptions, lead_remarks, lead_rules
from gazetteer.options import Options, options_from_dict


def options_of(**flags) -> Options:
    return options_from_dict({"task": "dense", **flags})


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"train_teacher": True}, "--train_teacher must come with --teacher"),
        ({"teacher": "m", "task": "qa"}, "--teacher (m) must come with --task dense"),
        ({"retriever_kind": "cross", "task": "qa"}, "--retriever_kind (cross) must come with"),
        ({"teacher": "m", "retriever_kind": "colbert"}, "--retriever_kind (colbert) must be de"),
        ({"teacher": "m", "grad_cache": True}, "--grad_cache must not come with --teacher"),
        ({"teacher": "m", "dense_loss": "kl"}, "--dense_loss kl must not come with --teacher"),
        (
            {"retriever_kind": "colbert", "matryoshka_dims": [8]},
            "--matryoshka_dims must not come with --retriever_kind",
        ),
        (
            {"teacher": "m", "teacher_kind": "cross", "train_n_passages": 1},
            "--train_n_passages (1) must be at least 2 with a cross-encoder",
        ),
        ({"reader_layer_num": 2}, "--reader_layer_num (2) must come with --train_retriever"),
    ],
)
def test_each_rule_speaks_alone(flags: dict, expected: str) -> None:
    (problem,) = lead_rules(options_of(**flags), "train")
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"teacher": "m", "teacher_kind": "cross", "train_teacher": True},
        {"retriever_kind": "colbert", "train_n_passages": 1},
        {"task": "qa", "reader_layer_num": 2, "train_retriever": True},
    ],
)
def test_sound_flags_pass(flags: dict) -> None:
    assert list(lead_rules(options_of(**flags), "train")) == []


def test_flags_without_effect_are_named() -> None:
    (remark,) = lead_remarks(options_of(layer_temperature=3.0))
    assert remark == "layer_temperature 3.0: no effect without --teacher or --reader_layer_num"
    assert list(lead_remarks(options_of(layer_temperature=3.0, teacher="m"))) == []
    assert LeadOptions().distill_layer_num == 5
