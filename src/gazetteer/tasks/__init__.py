"""What a line of data means, and how an answer is judged: a module for each task."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gazetteer.task_names import TASK_NAMES

TASKS: dict[str, Any] = {name: import_module(f"gazetteer.tasks.{name}").Task for name in TASK_NAMES}
"""The class `Task` of each name in the registry, `task_names.py`."""

__all__ = ["TASKS"]
