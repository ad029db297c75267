"""How vectors are made of token states: what flags ask for, and what was noted on saving."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from torch import nn

from gazetteer.errors import CheckpointError, OptionError
from gazetteer.retriever.encoder import FIRST_DECODER_TOKEN, Pooling
from gazetteer.retriever.head import NewHead
from gazetteer.retriever.sources import Noted, Source

logger = logging.getLogger(__name__)

PoolingName = Literal["mean", "cls", "sqrt", "first", "no"]
"""What can be asked for. OpenMatch's "first" is "cls"; its "no" takes a single state as it is."""
DEFAULT_POOLING: PoolingName = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What flags say; what was noted on saving comes first, and must not be contradicted.

    Attributes:
        pooling: of an encoder's states.
        normalize: scale embeddings to length 1.
        encoder_only: leave T5's decoder out; otherwise its first token is the embedding.
        new_head: a linear head, if there is none yet.
        takes_suggestions: a folder of sentence-transformers is used as there, where nothing else
            is asked for; False: as flags say to the letter.
    """

    pooling: PoolingName
    normalize: bool
    encoder_only: bool
    new_head: NewHead | None
    takes_suggestions: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What holds for the towers of one retriever.

    Attributes:
        pooling: of states.
        normalize: scale embeddings to length 1.
        heads: one for each tower, or one for both to begin with, or none.
    """

    pooling: Pooling
    normalize: bool
    heads: tuple[nn.Linear, ...]


def settle(asked: Asked, source: Source, name: str, *, is_t5: bool, width: int) -> Way:
    """Decide how the towers of a source make vectors.

    Args:
        asked: flags.
        source: where they lie.
        name: of the retriever, for errors.
        is_t5: whether they are encoders with a decoder to them.
        width: of their states.

    Raises:
        OptionError: a flag contradicts what was noted, or cannot be done with such a model.
        CheckpointError: a head is for states of another width.
    """
    pooling = _pooling(asked, source, name, is_t5)
    normalize = _normalize(asked, source, name)
    _tell(asked, source, name, pooling, normalize)
    return Way(
        pooling=pooling,
        normalize=normalize,
        heads=_heads(asked, source, name, width),
    )


def _pooling(asked: Asked, source: Source, name: str, is_t5: bool) -> Pooling:
    noted = source.noted.pooling if source.noted else None
    suggested = _suggested(asked, source)
    is_encoder = asked.encoder_only or noted is not None or suggested is not None
    if noted == FIRST_DECODER_TOKEN or (is_t5 and not is_encoder):
        if asked.encoder_only:
            raise OptionError(
                f"--encoder_only is given, but {name} was trained with its decoder's first token"
            )
        # There is one state to pool, so that all poolings are the same.
        return FIRST_DECODER_TOKEN
    if asked.pooling == "no":
        raise OptionError(
            "--retriever_pooling no takes a single state as it is, such as that of a T5 without "
            f"--encoder_only; {name} has one for each token"
        )
    pooling: Pooling = "cls" if asked.pooling == "first" else asked.pooling
    if noted is None:
        return suggested.pooling if suggested and pooling == DEFAULT_POOLING else pooling
    if pooling not in (DEFAULT_POOLING, noted):
        raise OptionError(f"--retriever_pooling is {pooling}, but {name} was trained with {noted}")
    return noted


def _normalize(asked: Asked, source: Source, name: str) -> bool:
    if source.noted is None:
        suggested = _suggested(asked, source)
        return asked.normalize or (suggested is not None and suggested.normalize)
    if asked.normalize and not source.noted.normalize:
        raise OptionError(f"--retriever_normalize is given, but {name} was trained without")
    return source.noted.normalize


def _suggested(asked: Asked, source: Source) -> Noted | None:
    return source.suggested if asked.takes_suggestions else None


def _tell(asked: Asked, source: Source, name: str, pooling: Pooling, normalize: bool) -> None:
    """Say what was taken over from sentence-transformers, or that flags say something else."""
    suggested = _suggested(asked, source)
    if suggested is None:
        return
    said, used = (
        f"pooling {each.pooling}, {'' if each.normalize else 'not '}normalised"
        for each in (suggested, Noted(pooling, normalize))
    )
    if said == used:
        logger.info("%s: %s, as its modules.json says", name, used)
    else:
        logger.warning("%s: %s, as flags say; its modules.json says: %s", name, used, said)


def _heads(asked: Asked, source: Source, name: str, width: int) -> tuple[nn.Linear, ...]:
    new, heads = asked.new_head, source.heads
    for head in heads:
        if head.in_features != width:
            raise CheckpointError(
                f"{name}: its linear head is for states of {head.in_features} numbers, the model "
                f"gives {width}"
            )
        if new is not None:
            new.require_fit(head, name)
    if new is None or heads:
        return heads
    head = new.make(width)
    logger.warning("a new linear head of %d x %d, not trained yet", width, head.out_features)
    return (head,)
