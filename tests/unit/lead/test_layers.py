"""Which layers are paired: LEAD's lists, and draws that nothing but seed and step decides."""

import pytest

from gazetteer.lead.layers import LayerChooser, LayerPairs


def chooser(**settings) -> LayerChooser:
    values = {
        "selection": "random", "count": 5, "student_layers": 6, "teacher_layers": 12,
        "resample_steps": 10, "seed": 7,
    }  # fmt: skip
    return LayerChooser(**(values | settings))


def test_last_and_skip_are_the_lists_of_lead():
    student = (1, 2, 3, 4, 5)
    assert chooser(selection="last").at(0) == LayerPairs(student, (7, 8, 9, 10, 11))
    assert chooser(selection="skip").at(99) == LayerPairs(student, (0, 2, 4, 6, 8))
    whole = chooser(selection="skip", count=6).at(0)
    assert whole == LayerPairs((0, *student), (0, 2, 4, 6, 8, 10))


def test_random_layers_ascend_and_are_drawn_for_each_model_by_itself():
    drawn = [chooser().at(step) for step in range(0, 600, 10)]
    for pairs in drawn:
        for layers, limit in ((pairs.student, 6), (pairs.teacher, 12)):
            assert len(set(layers)) == 5
            assert list(layers) == sorted(layers)
            assert all(0 <= layer < limit for layer in layers)
    assert {layer for pairs in drawn for layer in pairs.teacher} == set(range(12))
    # The same student's layers meet several teacher's: neither draw decides the other.
    same = {pairs.teacher for pairs in drawn if pairs.student == drawn[0].student}
    assert len(same) > 1


def test_random_layers_stay_for_the_steps_asked_for():
    pairs = [chooser().at(step) for step in range(30)]
    for start in (0, 10, 20):
        assert len({(p.student, p.teacher) for p in pairs[start : start + 10]}) == 1
    assert pairs[0] != pairs[10]
    assert chooser(seed=8).at(0) != pairs[0]


@pytest.mark.parametrize("selection", ["random", "last", "skip"])
def test_no_pairs_and_all_layers_are_fine(selection):
    assert chooser(selection=selection, count=0).at(3) == LayerPairs((), ())
    every = chooser(selection=selection, count=2, student_layers=2, teacher_layers=2)
    assert every.at(0) == LayerPairs((0, 1), (0, 1))


@pytest.mark.parametrize("settings", [{"count": 7}, {"count": -1}, {"resample_steps": 0}])
def test_nonsense_is_refused(settings):
    with pytest.raises(ValueError, match=r"layers|resample_steps"):
        chooser(**settings)
