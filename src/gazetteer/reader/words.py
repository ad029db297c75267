"""What flags said of the words around a decoder-only reader's passages, kept with its weights.

A reader learns with certain words; from a checkpoint it is asked with the same ones, unless flags
say otherwise.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from gazetteer.errors import CheckpointError
from gazetteer.files import replace_json

WORDS_FILE = "words.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderWords:
    """Words as flags gave them; None = the model's own way.

    Attributes:
        prefix: `--reader_prefix`.
        passage_format: `--encoder_format`.
        question_format: `--decoder_prompt_format`.
    """

    prefix: str | None = None
    passage_format: str | None = None
    question_format: str | None = None

    def or_else(self, others: ReaderWords) -> ReaderWords:
        """These, and of `others` what these do not say."""
        mine = {name: value for name, value in asdict(self).items() if value is not None}
        return ReaderWords(**(asdict(others) | mine))

    def save(self, folder: Path) -> None:
        """Write `words.json`."""
        replace_json(folder / WORDS_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> ReaderWords:
        """Read what `save` wrote; nothing said where the file is not there.

        Raises:
            CheckpointError: it is not what it should be.
        """
        path = folder / WORDS_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found = {each.name: values[each.name] for each in fields(cls)}
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: no words of a reader ({error})") from None
        for name, value in found.items():
            if value is not None and not isinstance(value, str):
                raise CheckpointError(f"{path}: '{name}' is {value!r}, expected a text or null")
        return cls(**found)


OWN_WORDS = ReaderWords()
"""The model's own way throughout."""
