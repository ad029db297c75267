"""Retrievers as folders of sentence-transformers and of OpenMatch."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.errors import CheckpointError
from gazetteer.export.model_card import Role, model_card
from gazetteer.export.trained import Trained, open_trained
from gazetteer.files import replace_json, replace_text
from gazetteer.index.conversion import appearing_folder
from gazetteer.retriever import DualEncoder, EmbeddingBatch, save_retriever
from gazetteer.retriever.encoder import FIRST_DECODER_TOKEN, TextEncoder
from gazetteer.retriever.openmatch import write_openmatch
from gazetteer.retriever.sources import write_note
from gazetteer.task_names import DENSE

logger = logging.getLogger(__name__)

CARD = "README.md"
LENGTHS = "sentence_bert_config.json"
MAX_TOKENS = 512
"""As in training, where inputs are cut there at the latest."""
LARGEST_DIFFERENCE = 1e-5
"""Of a vector's numbers, relative to its length."""
SAMPLES = ("what is the capital of peru", "Lima", "The river Nile rises in the lakes of Africa.")


def export_sentence_transformers(source: str, target: Path) -> None:
    """Write each tower as sentence-transformers reads it, and compare the vectors.

    Args:
        source: see `open_trained`.
        target: must not exist; tied towers are one folder, untied ones `query/` and `passage/`.

    Raises:
        CheckpointError: it cannot be loaded, or makes vectors as sentence-transformers cannot.
        IndexFileError: there is a target already.
    """
    trained = open_trained(source)
    if trained.retriever.query_tower.pooling == FIRST_DECODER_TOKEN:
        raise CheckpointError(
            f"{source}: its vectors are states of the first token of T5's decoder, which no module "
            "of sentence-transformers makes; train with --encoder_only, or export --to openmatch"
        )
    retriever = trained.retriever
    towers: dict[Role, TextEncoder] = {"both": retriever.query_tower}
    if not retriever.is_tied:
        towers = {"query": retriever.query_tower, "passage": retriever.passage_tower}
    with appearing_folder(target) as partial:
        for role, tower in towers.items():
            folder = partial if role == "both" else partial / role
            save_retriever(DualEncoder(tower, tower, EmbeddingBatch()), trained.tokenizer, folder)
            _cut_as_in_training(trained, role, folder)
            title = target.name if role == "both" else f"{target.name}: {role} tower"
            replace_text(folder / CARD, model_card(trained, tower, role, title))
            _compare(tower, trained.tokenizer, folder)
        # Both together are a retriever here as well.
        write_note(retriever.query_tower, partial)
    logger.info("written: %s", target)


def export_openmatch(source: str, target: Path) -> None:
    """Write a retriever as OpenMatch does.

    Raises:
        CheckpointError: it cannot be loaded, or OpenMatch has no such pooling.
        IndexFileError: there is a target already.
    """
    trained = open_trained(source)
    with appearing_folder(target) as partial:
        write_openmatch(trained.retriever, trained.tokenizer, partial)
    logger.info("written: %s", target)


def _cut_as_in_training(trained: Trained, role: Role, folder: Path) -> None:
    """Note how many tokens the tower saw of a text."""
    options = trained.options
    if options is None:
        return
    limit = min(options.reader.text_maxlength, MAX_TOKENS)
    if options.task.task == DENSE and role == "query":
        limit = options.dense.q_max_len
    document = json.loads((folder / LENGTHS).read_text(encoding="utf-8"))
    replace_json(folder / LENGTHS, document | {"max_seq_length": limit})


def _compare(tower: TextEncoder, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Refuse what sentence-transformers, where it is installed, makes other vectors with."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        logger.info("vectors were not compared: sentence-transformers is not installed")
        return
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    found = torch.from_numpy(np.asarray(theirs.encode(list(SAMPLES), show_progress_bar=False)))
    ids = [np.array(ids, np.int32) for ids in tokenizer(list(SAMPLES))["input_ids"]]
    ours = DualEncoder(tower, tower, EmbeddingBatch()).embed_for_index(ids)
    difference = float(((found - ours).norm(dim=1) / ours.norm(dim=1)).max())
    if not difference < LARGEST_DIFFERENCE:
        raise CheckpointError(
            f"sentence-transformers makes other vectors of it: they differ by {difference:.1e} of "
            f"their length, allowed are {LARGEST_DIFFERENCE:.0e}; nothing was written"
        )
    logger.info("vectors of sentence-transformers differ by %.1e of their length", difference)
