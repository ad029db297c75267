"""The tokenizer of a GGUF file."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase


def load_gguf_tokenizer(
    folder: str, file: str, config: PreTrainedConfig
) -> PreTrainedTokenizerBase:
    """A tokenizer whose end token is the one that the file names.

    transformers 5.17 takes the token that begins a text for the one that ends it.

    Args:
        folder: with the file.
        file: its name.
        config: of the model in it.

    Raises:
        OSError, ValueError: nothing usable there.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    return tokenizer
