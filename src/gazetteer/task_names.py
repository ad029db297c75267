"""The registry of tasks: names on the command line, each a module of `gazetteer.tasks`.

The module's class `Task` says what the name means. Names alone are here, so that flags are parsed
without importing what they set to work; `docs/adding_a_task.md` adds one.
"""

TASK_NAMES = (
    "base",
    "mlm",
    "lm",
    "multiple_choice",
    "kilt",
    "section",
    "fever",
    "qa",
)
DENSE = "dense"
"""The retriever by itself, of `gazetteer.dense`: nothing is read, so it is no `Task`."""
CHOICES = (*TASK_NAMES, DENSE)
"""Values of `--task`."""
