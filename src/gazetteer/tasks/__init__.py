"""The registry of tasks: a name on the command line, a class with `Task`'s methods."""

from gazetteer.tasks import base, qa

TASKS = {
    "base": base.Task,
    "qa": qa.Task,
}

__all__ = ["TASKS"]
