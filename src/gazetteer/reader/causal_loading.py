"""Decoder-only readers from hub, folder or GGUF file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from gazetteer.adapters import load_adapters
from gazetteer.data.tokens import SpecialTokens
from gazetteer.gguf_tokenizer import load_gguf_tokenizer
from gazetteer.optional_packages import import_optional
from gazetteer.reader.causal import CausalPrompt, CausalReader
from gazetteer.reader.words import ReaderWords

GGUF = ".gguf"
PASSAGE_FORMAT = "\ntitle: {title} context: {text}"
QUESTION_FORMAT = "\n{query}"
DROPOUTS = (
    "attention_dropout", "attn_pdrop", "embd_pdrop", "hidden_dropout", "resid_pdrop", "dropout",
)  # fmt: skip
"""Names of dropout rates in configs."""
_MARK = "\ue000"


def is_causal(kind: str) -> bool:
    """Whether models of this `model_type` are decoder-only."""
    others = (MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not any(kind in names for names in others)


def model_source(name_or_folder: str) -> tuple[str, dict[str, str]]:
    """Where transformers finds a model: a hub name or folder, and the GGUF file in it.

    Args:
        name_or_folder: a hub name; a folder of `save_pretrained`; a GGUF file, or a folder with
            one and no other model.

    Raises:
        ValueError: the folder holds several GGUF files.
        OptionError: the file needs a package that is not installed.
    """
    path = Path(name_or_folder)
    if path.suffix == GGUF and path.is_file():
        found = [path]
    elif path.is_dir() and not (path / "config.json").exists():
        found = sorted(path.glob(f"*{GGUF}"))
    else:
        found = []
    if not found:
        return name_or_folder, {}
    if len(found) > 1:
        raise ValueError(f"it holds {len(found)} GGUF files; name one of them")
    import_optional("gguf", "a GGUF file needs gguf", install="gazetteer[compress]")
    return str(found[0].parent), {"gguf_file": found[0].name}


def load_causal(
    source: str,
    file: dict[str, str],
    config: PreTrainedConfig,
    *,
    dropout: float,
    dtype: torch.dtype,
    words: ReaderWords,
) -> tuple[CausalReader, PreTrainedTokenizerBase]:
    """Load a decoder-only reader and its tokenizer.

    Args:
        source: hub name or folder.
        file: the GGUF file in it, if it is one; both of `model_source`.
        config: of the model.
        dropout: replaces every dropout rate that the config knows.
        dtype: of the weights; tables of rotary places stay in float32.
        words: of flags; what they do not say is as it was saved, or else the model's own way.

    Raises:
        OSError, ValueError: nothing usable there.
    """
    tokenizer = (
        load_gguf_tokenizer(source, file["gguf_file"], config)
        if file
        else AutoTokenizer.from_pretrained(source)
    )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError("its tokenizer is none of the library tokenizers (no tokenizer.json)")
    for name in DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout)
    model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=dtype, **file)
    _forget_quantisation(model)
    load_adapters(model, Path(source))
    words = words.or_else(ReaderWords.load(Path(source)))
    return CausalReader(model, prompt_of(tokenizer, model, words)), tokenizer


def prompt_of(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, words: ReaderWords
) -> CausalPrompt:
    """The words around passages and answer.

    Args:
        tokenizer: of the model. With a chat template, passages and question stand in the first
            message of the user, and the answer is the assistant's.
        model: knows the ids that end a text.
        words: a prefix takes the place of the chat template's head; its tail is left out then.

    Raises:
        ValueError: the tokenizer has no end token.
    """
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ValueError("its tokenizer has no end token, so no answer would end")
    head, tail = _chat(tokenizer) if words.prefix is None else (None, "")
    if head is None:
        ids = [*SpecialTokens.of(tokenizer).before, *_ids(tokenizer, words.prefix or "")]
        ids = ids or [end if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
    else:
        ids = _ids(tokenizer, head)
    ends = model.generation_config.eos_token_id if model.generation_config else None
    others = ends if isinstance(ends, list) else [ends]
    pad = tokenizer.pad_token_id
    question = QUESTION_FORMAT + tail.replace("{", "{{").replace("}", "}}")
    return CausalPrompt(
        prefix=tuple(int(one) for one in ids),
        end_ids=tuple(dict.fromkeys([end, *(one for one in others if one is not None)])),
        pad_id=pad if isinstance(pad, int) else end,
        passage_format=PASSAGE_FORMAT if words.passage_format is None else words.passage_format,
        question_format=words.question_format or question,
        words=words,
    )


def without_special_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that puts nothing around a text: passages stand in the midst of a sequence."""
    bare: Any = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = None
    return bare


def _chat(tokenizer: PreTrainedTokenizerBase) -> tuple[str | None, str]:
    """What a chat template puts before and after a user's message; None where there is none."""
    if not tokenizer.chat_template:
        return None, ""
    message = [{"role": "user", "content": _MARK}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    parts = str(text).split(_MARK)
    return (parts[0], parts[1]) if len(parts) == 2 and parts[0] else (None, "")


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []  # type: ignore[arg-type]


def _forget_quantisation(model: Any) -> None:  # noqa: ANN401 - attributes of transformers
    """Weights of a GGUF file are plain floats once read; transformers would refuse to save them."""
    config: PreTrainedConfig = model.config
    for owner, name in ((model, "hf_quantizer"), (config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
