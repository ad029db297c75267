"""The retriever as OpenMatch's flags describe it."""

from __future__ import annotations

import argparse
import logging

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.build_retriever import PADDED_TOKENS
from gazetteer.dense.commands import SeedParser, positive
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder, EmbeddingBatch, load_retriever
from gazetteer.retriever.loading import find_source
from gazetteer.retriever.ways import DEFAULT_POOLING, PoolingName

logger = logging.getLogger(__name__)

POOLINGS = ("first", "mean", "no", "cls", "sqrt")
IDLE = {
    "config_name": "the config lies beside the weights",
    "tokenizer_name": "the tokenizer lies beside the weights",
    "cache_dir": "set HF_HOME to move the cache of models",
    "feature": "the last hidden state is pooled",
    "add_linear_head": "the folder says whether there is a head",
    "projection_in_dim": "the folder says whether there is a head",
    "projection_out_dim": "the folder says whether there is a head",
    "untie_encoder": "the folder says whether its towers are two",
    "dtype": "see --fp16",
}


def add_model_flags(parser: SeedParser) -> None:
    """`--model_name_or_path` and what belongs to it."""
    parser.add_argument("--model_name_or_path", required=True, help="folder or hub name")
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="where the folder does not say how it was trained; none = first, as in OpenMatch",
    )
    parser.add_switch("--normalize", "likewise: scale embeddings to length 1")
    parser.add_switch("--encoder_only", "likewise: of a T5, pool the states of its encoder")
    parser.add_switch("--fp16", "embed in half precision (bfloat16), on a GPU")
    parser.add_switch("--bf16", "the same")
    parser.add_argument(
        "--per_device_eval_batch_size", type=positive, default=8, help="texts of one call"
    )
    parser.add_idle(IDLE)


def load_towers(
    values: argparse.Namespace, ranks: Ranks
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    """The retriever of the flags, on this worker's device.

    Raises:
        GazetteerError: it cannot be loaded, or the flags contradict what it was saved with.
    """
    is_gpu = ranks.device.type == "cuda"
    is_half = values.fp16 or values.bf16
    if is_half and not is_gpu:
        logger.info("--fp16 has no effect: this is no GPU")
    pooling, normalize = way_of(values.model_name_or_path, values.pooling, values.normalize)
    retriever, tokenizer = load_retriever(
        values.model_name_or_path,
        pooling=pooling,
        normalize=normalize,
        encoder_only=values.encoder_only,
        dropout=0.0,
        dtype=torch.bfloat16 if is_half and is_gpu else torch.float32,
        batch=EmbeddingBatch(
            max_texts=values.per_device_eval_batch_size,
            max_padded_tokens=PADDED_TOKENS[ranks.device.type],
        ),
        attention="sdpa" if is_gpu else "eager",
    )
    return retriever.to(ranks.device).eval().requires_grad_(False), tokenizer


def way_of(name: str, pooling: PoolingName | None, normalize: bool) -> tuple[PoolingName, bool]:
    """Pooling and normalisation: as given; else as the folder says, else OpenMatch's own.

    Args:
        name: of the retriever: folder or hub name.
        pooling: what was asked for; None for nothing.
        normalize: likewise; False for nothing.
    """
    source = find_source(name)
    is_said = source.noted is not None or source.suggested is not None
    return pooling or (DEFAULT_POOLING if is_said else "first"), normalize
