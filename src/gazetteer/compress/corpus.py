"""The corpus of a data set as a passage store: KILT's pages in chunks, passages as they are.

KILT's knowledge source has one page per line, {"wikipedia_id", "wikipedia_title", "text": [..]}.
All of its paragraphs are used, cut every hundred words (or tokens), and each piece carries the
title. Any other file is one of passages.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.passage_rows import IDS_OF_OTHERS, SourceFormat, with_id
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.errors import CheckpointError, DataError, IndexFileError
from gazetteer.ir.fields import Object, as_text, id_of, mismatch, optional_text, text_of
from gazetteer.ir.lines import read_objects
from gazetteer.progress import progress

logger = logging.getLogger(__name__)

FLAG = "--corpus_path"
BUILT_IN = 100
"""Topics of the built-in corpus, at least."""
VERSION = 1
"""Of how pages are cut; part of the name under which they are kept."""
_MARKS = re.compile(r"(?:BULLET::::-?\s*|Section::::)")
Cut = Callable[[str], list[str]]
Passage = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
    """How long pages are cut.

    Attributes:
        words: of a piece, where `tokenizer` is None.
        tokens: of a piece, by `tokenizer`, title not counted.
        tokenizer: hub name or folder; None cuts by words.
    """

    words: int = 100
    tokens: int = 128
    tokenizer: str | None = None


def open_corpus(
    path: Path,
    cache_dir: Path,
    *,
    max_documents: int | None = None,
    chunking: Chunking = Chunking(),
    show_progress: bool = False,
) -> PassageStore:
    """The passages of a corpus, prepared on first use and kept in the cache.

    Args:
        path: KILT's knowledge source; a JSON list of passages; or passages as `--passages` of
            train.py takes them.
        cache_dir: of prepared corpora.
        max_documents: read so many lines and no more; None = all.
        chunking: of KILT's pages.
        show_progress: draw bars.

    Raises:
        DataError: a malformed line, an unreadable file, or no passages at all.
        CheckpointError: no tokenizer under that name.
    """
    kind = _kind(path)
    if kind == "passages":
        return cached_passage_store(
            [path],
            cache_dir,
            max_passages=-1 if max_documents is None else max_documents,
            show_progress=show_progress,
            form=SourceFormat(FLAG, id_names=IDS_OF_OTHERS),
        )
    folder = cache_dir / "compress-corpora" / _key(path, kind, max_documents, chunking)
    try:
        store = PassageStore(folder)
    except IndexFileError:
        objects = read_objects(path, _page if kind == "kilt" else _listed, flag=FLAG)
        with progress(max_documents, "reading", "document", enabled=show_progress) as bar:
            read = _counted(islice(objects, max_documents), bar.update)
            is_kilt = kind == "kilt"
            store = write_passages(_pieces(read, cutter(chunking)) if is_kilt else read, folder)
    if store.count == 0:
        raise DataError(f"{path}: found no passages ({FLAG})")
    return store


def built_in_corpus(cache_dir: Path, topics: int) -> PassageStore:
    """A small made-up corpus that answers `synthetic_queries`, to try a pipeline with.

    Args:
        cache_dir: of prepared corpora.
        topics: about so many, and at least `BUILT_IN`.
    """
    count = max(topics, BUILT_IN)
    folder = cache_dir / "compress-corpora" / f"built-in-{VERSION}-{count}"
    try:
        return PassageStore(folder)
    except IndexFileError:
        return write_passages(map(_topic, range(count)), folder)


def _topic(number: int) -> Passage:
    colours = ("red", "green", "blue", "white", "black", "yellow", "brown")
    towns = ("Aldbury", "Brackwell", "Corvale", "Dunmore", "Eastry", "Fenwick", "Garland", "Holt")
    text = (
        f"Example topic {number} is a {colours[number % 7]} stone that was found in "
        f"{towns[number % 8]} in {1700 + number * 37 % 300}. It is made up, as all of this is, "
        f"so that a pipeline can be tried without a corpus."
    )
    return {"id": f"topic-{number}", "title": f"Example topic {number}", "text": text}


def _kind(path: Path) -> str:
    """kilt, list or passages: by what the first object is."""
    if path.name.lower().endswith((".tsv", ".tsv.gz", ".parquet", ".txt")):
        return "passages"
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            start = file.read(1 << 20).lstrip(b"\xef\xbb\xbf \t\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error} ({FLAG})") from None
    if b'"wikipedia_title"' in start.partition(b"\n")[0]:
        return "kilt"
    return "list" if start.startswith(b"[") else "passages"


def _key(path: Path, kind: str, max_documents: int | None, chunking: Chunking) -> str:
    status = path.stat()
    facts = [VERSION, kind, max_documents, str(path.resolve()), status.st_size, status.st_mtime_ns]
    if kind == "kilt":
        facts += [chunking.words, chunking.tokens, chunking.tokenizer]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _counted(objects: Iterable[Passage], update: Callable[[int], object]) -> Iterator[Passage]:
    for each in objects:
        update(1)
        yield each


def _listed(value: Object) -> Passage:
    passage = with_id(value, IDS_OF_OTHERS)
    text_of(passage, "text")
    return passage | {"id": id_of(passage, "id"), "title": optional_text(passage, "title") or ""}


def _page(value: Object) -> Passage:
    paragraphs = value.get("text")
    if not isinstance(paragraphs, list):
        raise mismatch("text", paragraphs, "a list of paragraphs")
    texts = [as_text(each, "text") for each in paragraphs]
    title = optional_text(value, "wikipedia_title") or ""
    return {"id": id_of(value, "wikipedia_id"), "title": title, "text": page_text(title, texts)}


def page_text(title: str, paragraphs: Iterable[str]) -> str:
    """All paragraphs as one text, without KILT's marks of lists and sections.

    A first paragraph that only repeats the title is left out: each piece carries the title anyway.
    """
    texts = [" ".join(_MARKS.sub("", each).split()) for each in paragraphs]
    if texts and texts[0] == " ".join(title.split()):
        texts = texts[1:]
    return " ".join(filter(None, texts))


def _pieces(pages: Iterable[Passage], cut: Cut) -> Iterator[Passage]:
    for page in pages:
        for number, text in enumerate(cut(page["text"])):
            yield {"id": f"{page['id']}-{number}", "title": page["title"], "text": text}


def cutter(chunking: Chunking) -> Cut:
    """What cuts a long text into pieces, none of them empty.

    Raises:
        CheckpointError: no tokenizer under that name.
    """
    if chunking.tokenizer is None:
        return lambda text: cut_words(text, chunking.words)
    tokenizer = _tokenizer(chunking.tokenizer)
    return lambda text: cut_tokens(text, chunking.tokens, tokenizer)


def cut_words(text: str, words: int) -> list[str]:
    """Pieces of so many words, the last one shorter."""
    found = text.split()
    return [" ".join(found[first : first + words]) for first in range(0, len(found), words)]


def cut_tokens(text: str, tokens: int, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Pieces of about so many tokens, between words: letters are kept as they are."""
    words = text.split()
    if not words:
        return []
    # With the space before it, as it stands in the text.
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    pieces: list[list[str]] = [[]]
    used = 0
    for word, ids in zip(words, encoded, strict=True):  # type: ignore[arg-type]
        if pieces[-1] and used + len(ids) > tokens:
            pieces.append([])
            used = 0
        pieces[-1].append(word)
        used += len(ids)
    return [" ".join(piece) for piece in pieces]


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"tokenizer '{name}' cannot be loaded: {reason} (--passage_tokenizer)"
        ) from None
