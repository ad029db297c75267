"""Late-interaction models and cross-encoders from a name or folder, and back into a folder.

Folders of sentence-transformers are opened by its classes. Where it has none for what LEAD does,
plain transformers of the folder are put into one of them, in LEAD's way. Dual encoders are opened
by `retriever/loading.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from gazetteer.errors import CheckpointError, OptionError
from gazetteer.lead.cross_encoder import CrossLayers
from gazetteer.lead.dual import DualLayers
from gazetteer.lead.heads import head_of, pair_format
from gazetteer.lead.late_interaction import LateInteraction, Marking
from gazetteer.pretrained import unused_layers

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, MultiVectorEncoder

TeacherKind = Literal["de", "colbert", "cross"]
"""Values of `--teacher_kind`: dual encoder, late interaction, cross-encoder."""
LayeredModel = DualLayers | LateInteraction | CrossLayers
LIBRARY_CONFIG = "config_sentence_transformers.json"
QUERY_MARK, PASSAGE_MARK = "[unused1]", "[unused2]"
"""Stand for the first token. Source: LEAD."""
LATE_INTERACTION_KINDS = {"MultiVectorEncoder", "ColBERT", "HF_ColBERT", "ForRetrieval"}
CROSS_ENCODER_KINDS = {"CrossEncoder", "ForSequenceClassification"}


def open_late_interaction(
    name: str, *, query_length: int, dropout: float, attention: str
) -> tuple[LateInteraction, PreTrainedTokenizerBase]:
    """A ColBERT of sentence-transformers (or PyLate, or Stanford's); or any BERT, as LEAD's.

    Args:
        name: hub name or folder.
        query_length: LEAD's queries are filled up with masks to this length; a model that notes a
            length of its own keeps it.
        dropout: replaces the model's own dropout everywhere.
        attention: implementation inside transformers.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    with _explained(name, "a late-interaction model"):
        if _saved_kind(name) not in LATE_INTERACTION_KINDS:
            encoder, marking = _plain_late_interaction(name, query_length, attention)
        else:
            encoder = _library().MultiVectorEncoder(
                name, device="cpu", model_kwargs={"attn_implementation": attention}
            )
            marking = _marking_of(encoder)
        _prepare(encoder, dropout)
        return LateInteraction(encoder, marking), encoder.tokenizer


def open_cross_encoder(
    name: str, *, dropout: float, attention: str, max_padded_tokens: int
) -> tuple[CrossLayers, PreTrainedTokenizerBase]:
    """A cross-encoder of sentence-transformers; or any encoder, with a new linear layer on top.

    Args:
        name: hub name or folder.
        dropout: replaces the model's own dropout everywhere.
        attention: implementation inside transformers.
        max_padded_tokens: of one call, padding included.

    Raises:
        CheckpointError: it cannot be loaded, or gives more than one score.
    """
    with _explained(name, "a cross-encoder"):
        if _saved_kind(name) not in CROSS_ENCODER_KINDS:
            encoder = _plain_cross_encoder(name, attention)
        else:
            encoder = _library().CrossEncoder(
                name, device="cpu", model_kwargs={"attn_implementation": attention}
            )
        if encoder.num_labels != 1:
            raise CheckpointError(f"{name}: gives {encoder.num_labels} scores per pair, expected 1")
        _prepare(encoder, dropout)
        model = CrossLayers(
            encoder,
            head_of(encoder),
            pair_format(encoder.tokenizer),
            max_padded_tokens=max_padded_tokens,
        )
        return model, encoder.tokenizer


def ranker_on_meta(name: str) -> PreTrainedModel:
    """The transformer of a late-interaction model or a cross-encoder, without weights: to count.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    with _explained(name, "a model that ranks"), torch.device("meta"):
        config = AutoConfig.from_pretrained(name)
        kind: Any = MODEL_MAPPING[type(config)]
        return kind(config)


def save_layered(
    model: LateInteraction | CrossLayers, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write a model that was opened here so that it is opened again, by the same function."""
    if isinstance(model, LateInteraction) and model.marking.replaces_first:
        model.transformer.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    else:
        model.encoder.save_pretrained(str(folder), create_model_card=False)


def _prepare(encoder: Any, dropout: float) -> None:  # noqa: ANN401 - a model of the library
    """Set every dropout, and leave out BERT's pooler where its output goes nowhere."""
    transformer = encoder[0].model
    if encoder[0].transformer_task == "feature-extraction" and hasattr(transformer, "pooler"):
        transformer.pooler = None
    for part in encoder.modules():
        if isinstance(part, nn.Dropout):
            part.p = dropout


def _plain_late_interaction(
    name: str, query_length: int, attention: str
) -> tuple[MultiVectorEncoder, Marking]:
    """LEAD's: no projection, marks in place of the first token, masks that nothing attends to."""
    library = _library()
    modules = [
        _transformer(name, attention),
        library.multi_vector_encoder.modules.MultiVectorMask(),
        library.base.modules.Normalize(module_input_name="token_embeddings"),
    ]
    encoder = library.MultiVectorEncoder(modules=modules, device="cpu")
    tokenizer = encoder.tokenizer
    ids = [tokenizer.convert_tokens_to_ids(mark) for mark in (QUERY_MARK, PASSAGE_MARK)]
    if tokenizer.mask_token_id is None or {None, tokenizer.unk_token_id} & set(ids):
        raise CheckpointError(
            f"{name}: late interaction needs a tokenizer with a mask token, {QUERY_MARK} and "
            f"{PASSAGE_MARK}, as BERT's; or a folder that MultiVectorEncoder saved"
        )
    return encoder, Marking(
        query=(ids[0],),
        document=(ids[1],),
        replaces_first=True,
        query_length=query_length,
        filler=tokenizer.mask_token_id,
        attends=False,
    )


def _marking_of(encoder: MultiVectorEncoder) -> Marking:
    """How the library itself would mark texts."""
    tokenizer, expansion = encoder.tokenizer, cast(Any, encoder[0]).query_expansion or {}
    token = expansion.get("token")
    filler = tokenizer.convert_tokens_to_ids(token) if token else tokenizer.mask_token_id
    prefixes = [
        tuple(tokenizer(encoder.prompts.get(side) or "", add_special_tokens=False).input_ids)
        for side in ("query", "document")
    ]
    return Marking(
        query=prefixes[0],
        document=prefixes[1],
        replaces_first=False,
        query_length=expansion.get("length"),
        filler=tokenizer.eos_token_id if filler is None else filler,
        attends=bool(expansion.get("attend")),
    )


def _plain_cross_encoder(name: str, attention: str) -> CrossEncoder:
    """LEAD's: one linear layer on the state of the first token."""
    library = _library()
    transformer = _transformer(name, attention)
    width = transformer.get_embedding_dimension()
    modules = [
        transformer,
        library.sentence_transformer.modules.Pooling(width, "cls"),
        library.base.modules.Dense(
            width, 1, activation_function=nn.Identity(), module_output_name="scores"
        ),
    ]
    return library.CrossEncoder(modules=modules, device="cpu")


def _transformer(name: str, attention: str) -> Any:  # noqa: ANN401 - the library's Transformer
    kind: Any = MODEL_MAPPING[type(AutoConfig.from_pretrained(name))]
    return _library().base.modules.Transformer(
        name, model_kwargs={"attn_implementation": attention} | unused_layers(kind)
    )


def _saved_kind(name: str) -> str | None:
    """What a name or folder says it is: the library's class, or the end of its architecture."""
    find = _library().util.load_file_path
    noted = find(name, LIBRARY_CONFIG)
    if noted is not None:
        kind = json.loads(Path(noted).read_text(encoding="utf-8")).get("model_type")
        if kind is not None:
            return kind
    config = find(name, "config.json")
    architectures = json.loads(Path(config).read_text(encoding="utf-8")) if config else {}
    for architecture in architectures.get("architectures") or ():
        for kind in (*LATE_INTERACTION_KINDS, *CROSS_ENCODER_KINDS):
            if architecture.endswith(kind):
                return kind
    return None


@contextmanager
def _explained(name: str, wanted: str) -> Iterator[None]:
    """Turn what the libraries raise on loading into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"'{name}' cannot be loaded as {wanted}: {reason}") from error


def _library() -> Any:  # noqa: ANN401 - a module
    """Import sentence-transformers, which only teachers need.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import sentence_transformers
        import sentence_transformers.base.modules
        import sentence_transformers.multi_vector_encoder.modules
        import sentence_transformers.sentence_transformer.modules
        import sentence_transformers.util
    except ImportError:
        raise OptionError(
            "--teacher needs the package sentence-transformers, which is not installed:"
            " pip install 'gazetteer[dense]'"
        ) from None
    return sentence_transformers
