"""Which readers `--reader_model_type` accepts: names and folders, by spelling alone.

Loading them is `gazetteer.reader`'s work.
"""

from __future__ import annotations

import re

from gazetteer.flags import OpenChoices
from gazetteer.paths import path_kind

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_ORIGINAL_T5 = re.compile(r"t5-(small|base|large|3b|11b)")
_GOOGLE_T5 = re.compile(
    r"(t5-v1_1|flan-t5|mt5)-(small|base|large|xl|xxl)|t5-(small|base|large|xl|xxl)-lm-adapt"
)


def is_reader_name(value: str) -> bool:
    """Accept a T5 family name, any `org/name` of the hub, an existing folder or GGUF file."""
    return bool(
        _ORIGINAL_T5.fullmatch(value)
        or _GOOGLE_T5.fullmatch(value)
        or _HUB_NAME.fullmatch(value)
        or path_kind(value) == "folder"
        or (value.endswith(".gguf") and path_kind(value) == "file")
    )


def full_reader_name(value: str) -> str:
    """Add the owner where a T5 name lacks it: `flan-t5-base` -> `google/flan-t5-base`."""
    if _GOOGLE_T5.fullmatch(value) and path_kind(value) != "folder":
        return f"google/{value}"
    return value


READER_CHOICES = OpenChoices(
    (
        "t5-small",
        "t5-base",
        "t5-large",
        "t5-3b",
        "t5-11b",
        "google/t5-v1_1-base",
        "google/t5-v1_1-large",
        "google/t5-v1_1-xl",
        "google/t5-v1_1-xxl",
        "google/t5-base-lm-adapt",
        "google/t5-large-lm-adapt",
        "google/t5-xl-lm-adapt",
        "google/t5-xxl-lm-adapt",
    ),
    accepts=is_reader_name,
)
"""The 13 readers of Atlas, shown in the help; every other T5 and every folder is welcome too."""
