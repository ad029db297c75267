"""Where the parts of a retriever lie, and what is noted there about them.

Here: names of the hub, folders of transformers and of sentence-transformers, and our own, which are
one encoder (tied towers) or hold `query/` and `passage/` (untied). OpenMatch's are in openmatch.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gazetteer.errors import CheckpointError
from gazetteer.files import replace_json
from gazetteer.retriever.encoder import POOLINGS, Pooling, TextEncoder
from gazetteer.retriever.head import load_head
from gazetteer.retriever.sentence_files import read_sentence_way

QUERY_FOLDER, PASSAGE_FOLDER = "query", "passage"
EMBEDDING = "embedding.json"
"""How vectors are made of token states; transformers has no place for it in its own config."""
HEAD = "head"


@dataclass(frozen=True, slots=True)
class Noted:
    """How a retriever that was saved makes vectors, by the files beside it.

    Attributes:
        pooling: see `encoder.pool`.
        normalize: whether they are of length 1.
    """

    pooling: Pooling
    normalize: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The parts of a retriever.

    Attributes:
        towers: name or folder of the one encoder, or folders of the query's and the passage's.
        tokenizer: name or folder.
        noted: how it was trained here; flags must not contradict it. None where nothing is noted.
        suggested: how sentence-transformers uses it; flags that ask for something else win.
        heads: one for each tower, or none.
    """

    towers: tuple[str, ...]
    tokenizer: str
    noted: Noted | None = None
    suggested: Noted | None = None
    heads: tuple[nn.Linear, ...] = ()


def own_source(name_or_folder: str) -> Source:
    """What lies under a name of the hub, in a folder of transformers, or in one of ours.

    Raises:
        CheckpointError: what is noted there, or a head, is damaged.
    """
    folder = Path(name_or_folder)
    names: tuple[str, ...] = (name_or_folder,)
    if (folder / QUERY_FOLDER).is_dir():
        names = (str(folder / QUERY_FOLDER), str(folder / PASSAGE_FOLDER))
    path = folder / EMBEDDING
    if not path.is_file():
        way = read_sentence_way(folder)
        return Source(
            towers=names, tokenizer=names[0], suggested=None if way is None else Noted(*way)
        )
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        pooling, normalize = saved["pooling"], saved["normalize"]
        has_head = HEAD in saved
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    if pooling not in POOLINGS or not isinstance(normalize, bool):
        raise CheckpointError(f"{path}: unknown way to embed ({saved})")
    heads = tuple(load_head(Path(name)) for name in names) if has_head else ()
    return Source(towers=names, tokenizer=names[0], noted=Noted(pooling, normalize), heads=heads)


def write_note(tower: TextEncoder, folder: Path) -> None:
    """Note how towers like this one embed; a head is named, so that it is missed if it is lost."""
    document: dict[str, object] = {"pooling": tower.pooling, "normalize": tower.normalize}
    if tower.head is not None:
        document[HEAD] = [tower.head.in_features, tower.head.out_features]
    replace_json(folder / EMBEDDING, document)
