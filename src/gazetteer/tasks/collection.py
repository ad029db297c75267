"""Queries of a test collection: searched as they are, never read. No name in the registry."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from gazetteer.data.jsonl import Field
from gazetteer.records import Example
from gazetteer.tasks import base


class Task(base.Task):
    """A query in; what is found is judged by document id, elsewhere."""

    fields: ClassVar[tuple[Field, ...]] = (
        Field("_id", "text", required=True),
        Field("text", "text", required=True),
    )
    metrics: ClassVar[tuple[str, ...]] = ()

    def example(
        self, line: Mapping[str, Any], example_id: int, generator: random.Random
    ) -> Example:
        """The query itself, without a prompt."""
        return Example(example_id=example_id, query=line["text"], line_id=line["_id"])
