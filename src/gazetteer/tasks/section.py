"""Write a section of an article, given the article's title and the section's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

from gazetteer.data.jsonl import Field
from gazetteer.tasks.passage_text import PassageTask


class Task(PassageTask):
    """Both titles, "{title}, {section}", in; the text out. Passages without a section are left out.

    Source:
        "Title to section generation" in section 2.3 of Atlas, arXiv:2208.03299.
    """

    fields: ClassVar[tuple[Field, ...]] = (
        Field("text", "text", required=True),
        Field("title", "text", required=True),
        Field("section", "text", required=False),
    )
    left_out_reason: ClassVar[str] = (
        "without a section, too short (--min_words_per_lm_instance), or empty"
    )

    def keeps(self, line: Mapping[str, Any]) -> bool:
        """Whether there is a section, and its text is long enough."""
        return bool((line.get("section") or "").strip()) and super().keeps(line)

    def parts(self, line: Mapping[str, Any], generator: random.Random) -> tuple[str, str]:
        """Both titles; the text."""
        return f"{line['title']}, {line['section']}", line["text"]
