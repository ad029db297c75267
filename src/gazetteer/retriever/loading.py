"""Retrievers from disk or hub, and back.

A folder is either one encoder (tied towers) or holds `query/` and `passage/` (untied).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from gazetteer.errors import CheckpointError, OptionError
from gazetteer.files import replace_json
from gazetteer.retriever.dual_encoder import DualEncoder
from gazetteer.retriever.encoder import EmbeddingBatch, Pooling, TextEncoder
from gazetteer.retriever.sentence_files import describe_for_sentence_transformers

QUERY_FOLDER, PASSAGE_FOLDER = "query", "passage"
EMBEDDING = "embedding.json"
"""How vectors are made of token states; transformers has no place for it in its own config."""
DEFAULT_POOLING: Pooling = "mean"
Attention = Literal["eager", "sdpa"]
Fill = Callable[[nn.Module], None]
"""Sets every weight of a model."""


def load_retriever(
    name_or_folder: str,
    *,
    pooling: Pooling,
    normalize: bool,
    dropout: float,
    dtype: torch.dtype,
    batch: EmbeddingBatch,
    attention: Attention = "eager",
    fills: Sequence[Fill] | None = None,
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    """Load a retriever and its tokenizer.

    Args:
        name_or_folder: hub name, a folder written by `save_pretrained`, or one by `save_retriever`.
        pooling: how token states become one embedding; what `save_retriever` noted comes first.
        normalize: scale embeddings to length 1; likewise.
        dropout: replaces the model's own dropout everywhere.
        dtype: weights are cast to it.
        batch: limits of one encoder call.
        attention: implementation inside transformers. On a CPU "eager" is up to a third faster:
            "sdpa" multiplies many small blocks, each at the price of a large one.
        fills: give towers made of the config alone their weights: one for tied towers, or query's
            and passage's; None reads those that lie under the name.

    Raises:
        CheckpointError: nothing usable under that name; the message says what was missing.
        OptionError: a flag asks for something else than the retriever was saved with.
    """
    pooling, normalize = _as_saved(Path(name_or_folder), pooling, normalize)

    def tower(source: str, fill: Fill | None) -> TextEncoder:
        model = _encoder(source, dropout, attention, fill)
        return TextEncoder(model.to(dtype), pooling=pooling, normalize=normalize)

    folder = Path(name_or_folder)
    is_untied = (folder / QUERY_FOLDER).is_dir()
    query_source = str(folder / QUERY_FOLDER) if is_untied else name_or_folder
    try:
        encoder_config(query_source)
        tokenizer = AutoTokenizer.from_pretrained(query_source)
        passage_source = str(folder / PASSAGE_FOLDER) if is_untied else name_or_folder
        query_fill, passage_fill = (fills[0], fills[-1]) if fills else (None, None)
        query_tower = tower(query_source, query_fill)
        is_tied = len(fills) == 1 if fills else not is_untied
        passage_tower = query_tower if is_tied else tower(passage_source, passage_fill)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"retriever '{name_or_folder}' cannot be loaded: {reason}") from error
    return DualEncoder(query_tower, passage_tower, batch), tokenizer


def encoder_config(source: str) -> Any:  # noqa: ANN401 - each type of model has its own class
    """The config under a name.

    Raises:
        OSError, ValueError: nothing there, or no encoder.
    """
    config = AutoConfig.from_pretrained(source)
    # Encoders are what masked tokens are guessed with; T5 and BART have a decoder besides.
    if (
        getattr(config, "is_encoder_decoder", False)
        or type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    ):
        raise ValueError(
            f"it is a {config.model_type}, expected an encoder such as BERT "
            "(--retriever_model_path)"
        )
    return config


def _encoder(source: str, dropout: float, attention: Attention, fill: Fill | None) -> Any:  # noqa: ANN401
    """The model in float32, without the layer that some have above the token states."""
    config = encoder_config(source)
    # Each type of model has names of its own for its dropouts; some read them in every forward.
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, dropout)
    kind: Any = MODEL_MAPPING[type(config)]
    takes_layer = "add_pooling_layer" in inspect.signature(kind).parameters
    unused = {"add_pooling_layer": False} if takes_layer else {}
    if fill is not None:
        model = kind._from_config(config, attn_implementation=attention, **unused).eval()
        fill(model)
    else:
        model = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, attn_implementation=attention, **unused
        )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    return model


def _as_saved(folder: Path, pooling: Pooling, normalize: bool) -> tuple[Pooling, bool]:
    """What the folder notes, unless a flag that is not at its default says otherwise."""
    path = folder / EMBEDDING
    if not path.is_file():
        return pooling, normalize
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        saved_pooling, saved_normalize = saved["pooling"], saved["normalize"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    if saved_pooling not in get_args(Pooling) or not isinstance(saved_normalize, bool):
        raise CheckpointError(f"{path}: unknown way to embed ({saved})")
    if pooling not in (DEFAULT_POOLING, saved_pooling):
        raise OptionError(
            f"--retriever_pooling is {pooling}, but {folder} was trained with {saved_pooling}"
        )
    if normalize and not saved_normalize:
        raise OptionError(f"--retriever_normalize is given, but {folder} was trained without")
    return saved_pooling, saved_normalize


def save_retriever(
    retriever: DualEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write both towers (one folder when tied), configs and tokenizer, and how they embed."""
    tower = retriever.query_tower
    folder.mkdir(parents=True, exist_ok=True)
    replace_json(folder / EMBEDDING, {"pooling": tower.pooling, "normalize": tower.normalize})
    if retriever.is_tied:
        _save_tower(retriever.query_tower, tokenizer, folder)
        return
    _save_tower(retriever.query_tower, tokenizer, folder / QUERY_FOLDER)
    _save_tower(retriever.passage_tower, tokenizer, folder / PASSAGE_FOLDER)


def _save_tower(tower: TextEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tower.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    describe_for_sentence_transformers(tower, folder)
