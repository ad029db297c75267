"""A task is one file and one line, as docs/adding_a_task.md says."""

from __future__ import annotations

import re
from pathlib import Path

from gazetteer.options import build_parser
from gazetteer.task_names import TASK_NAMES
from gazetteer.tasks import TASKS, base, section

ROOT = Path(__file__).resolve().parents[3]


def test_every_name_has_its_class_and_is_a_choice() -> None:
    assert tuple(TASKS) == TASK_NAMES
    assert all(issubclass(task, base.Task) for task in TASKS.values())
    for name in TASK_NAMES:
        assert build_parser("train").parse_args(["--task", name]).task == name


def test_flags_of_tasks_are_flags_and_arguments() -> None:
    known = vars(build_parser("train").parse_args([]))
    for task in TASKS.values():
        assert set(task.flags.values()) <= known.keys()
        task(**{argument: known[flag] for argument, flag in task.flags.items()})


def test_the_page_shows_the_task_as_it_is() -> None:
    page = (ROOT / "docs" / "adding_a_task.md").read_text()
    (shown,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    source = Path(str(section.__file__)).read_text()
    head, body = shown.split("\n", 1)
    assert head in source
    assert body.strip() in source
