"""What the teacher is asked: instruction, passages, question, in that order, and never cut short.

Where the window is too small, passages are left out from the end, and of a single one its tail;
instruction and question always stay. The student gets exactly the passages that were left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

INSTRUCTION = (
    "You are a helpful assistant. Your task is to extract relevant information from provided "
    "documents and to answer questions as briefly as possible."
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as a teacher gets it.

    Attributes:
        text: all of it.
        ids: its tokens.
        documents: the passages in it, to the letter.
    """

    text: str
    ids: list[int]
    documents: tuple[str, ...]


class PromptMaker:
    """Fits questions into a teacher's window.

    Args:
        tokenizer: the teacher's; one with a chat template is asked as a user would ask it.
        max_tokens: of a prompt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._tokenizer = tokenizer
        self._has_chat = bool(getattr(tokenizer, "chat_template", None))

    def fit(self, query: str, documents: Sequence[str]) -> Prompt | None:
        """The prompt with as many of the passages as fit, best first.

        Returns:
            None where not even a word of the first one fits.
        """
        kept = list(documents)
        while kept:
            prompt = self._prompt(query, kept)
            if len(prompt.ids) <= self.max_tokens:
                return prompt
            if len(kept) == 1:
                return self._with_cut(query, kept[0])
            kept.pop()
        return None

    def _with_cut(self, query: str, document: str) -> Prompt | None:
        """The prompt with the longest beginning of one passage that fits, in whole words."""
        words = document.split()
        fits, fails, best = 0, len(words), None
        while fails - fits > 1:
            middle = (fits + fails) // 2
            prompt = self._prompt(query, [" ".join(words[:middle])])
            if len(prompt.ids) <= self.max_tokens:
                fits, best = middle, prompt
            else:
                fails = middle
        return best

    def _prompt(self, query: str, documents: Sequence[str]) -> Prompt:
        background = "\n\n".join(documents)
        text = f"{INSTRUCTION}\n\nBackground:\n{background}\n\nQuestion: {query}"
        if self._has_chat:
            chat = [{"role": "user", "content": text}]
            # Templates that know of thinking aloud are told not to; others ignore it.
            shown = self._tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            text = str(shown)
        else:
            text = f"{text}\nAnswer:"
        # A chat template has written the special tokens already.
        encoded = self._tokenizer(text, add_special_tokens=not self._has_chat, verbose=False)
        ids = encoded["input_ids"]
        return Prompt(text, list(ids), tuple(documents))  # type: ignore[arg-type]
