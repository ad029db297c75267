"""The registry of tasks: a name on the command line, a class with `Task`'s methods."""

from gazetteer.tasks import base, fever, multiple_choice, qa

TASKS = {
    "base": base.Task,
    "fever": fever.Task,
    "multiple_choice": multiple_choice.Task,
    "qa": qa.Task,
}

__all__ = ["TASKS"]
