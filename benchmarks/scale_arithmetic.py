"""What a training step needs of arithmetic, memory and network, by formulas. Pure functions.

Rates are multiply-add pairs counted as two operations. Bytes of a collective are what one worker
hands to it; `sent` is what then leaves the worker, in the algorithms that gloo and NCCL use for
large messages: rings for gathering and reducing, one message to each other worker for exchanging.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One worker, and what is between workers.

    Attributes:
        name: of the profile.
        train: operations per second of a training step, as achieved.
        embed: operations per second of embedding without gradient, as achieved.
        scan: seconds of an exact search per number of an index row, for any queries.
        score: seconds per number of an index row and query.
        bandwidth: bytes per second that leave one worker.
        latency: seconds per message.
        memory: bytes.
        source: where the numbers are from.
    """

    name: str
    train: float
    embed: float
    scan: float
    score: float
    bandwidth: float
    latency: float
    memory: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """Weights of one stack of layers, embeddings left out.

    Attributes:
        layers: of it.
        width: of a state.
        inner: of the feed-forward part.
        heads_width: heads x their size.
        inner_matrices: of the feed-forward part: 2, or 3 with a gate.
        has_cross_attention: it is a decoder.
    """

    layers: int
    width: int
    inner: int
    heads_width: int
    inner_matrices: int = 2
    has_cross_attention: bool = False

    @property
    def cross_keys(self) -> int:
        """Weights that every state of the context is multiplied by."""
        return 2 * self.layers * self.width * self.heads_width if self.has_cross_attention else 0

    @property
    def weights(self) -> int:
        """All of them."""
        attention = 4 * self.width * self.heads_width * (1 + self.has_cross_attention)
        return self.layers * (attention + self.inner_matrices * self.width * self.inner)

    def forward(self, tokens: float, length: float) -> float:
        """Operations for so many tokens in texts of a length; keys of the context left out."""
        projected = 2 * (self.weights - self.cross_keys) * tokens
        return projected + 4 * self.layers * self.heads_width * tokens * length


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One worker's part of a step, and the corpus.

    Attributes:
        name: for the table.
        encoder: of the reader.
        decoder: of the reader.
        vocabulary: of the reader.
        retriever: one tower.
        retriever_table: weights of its embeddings of tokens and places.
        dim: of an embedding.
        queries: per worker and step.
        passages: per query, read and learned from.
        hits: asked for per query.
        reader_tokens: of a passage with its query.
        passage_tokens: of a passage for the retriever.
        target_tokens: of an answer.
        weight_bytes: of one weight and its gradient.
        checkpointing: encoder states are computed twice.
    """

    name: str
    encoder: Transformer
    decoder: Transformer
    vocabulary: int
    retriever: Transformer
    retriever_table: int
    dim: int
    queries: int
    passages: int
    hits: int
    reader_tokens: float
    passage_tokens: float
    target_tokens: float
    weight_bytes: int = 2
    checkpointing: bool = False

    @property
    def reader_weights(self) -> int:
        """All of the reader's, one table of tokens counted."""
        table = self.vocabulary * self.encoder.width
        return self.encoder.weights + self.decoder.weights + table

    @property
    def retriever_weights(self) -> int:
        """Of one tower."""
        return self.retriever.weights + self.retriever_table


def step_operations(load: Workload) -> float:
    """Of one worker: reader forward and backward, scoring every passage (pdist), retriever."""
    tokens = load.queries * load.passages * load.reader_tokens
    context = load.passages * load.reader_tokens
    answers = load.queries * load.target_tokens
    scored = answers * load.passages
    decoder, head = load.decoder, 2 * load.vocabulary * load.encoder.width
    passes = 4 if load.checkpointing else 3
    encode = load.encoder.forward(tokens, load.reader_tokens)
    decode = decoder.forward(answers, context) + 2 * decoder.cross_keys * tokens + head * answers
    score = decoder.forward(scored, load.reader_tokens) + 2 * decoder.cross_keys * tokens
    embedded = load.queries * load.passages * load.passage_tokens
    embed = load.retriever.forward(embedded, load.passage_tokens)
    return (passes + 1) * encode + 3 * decode + score + head * scored + 3 * embed


def payloads(load: Workload, workers: int, rows: int, gradients: int) -> dict[str, int]:
    """Bytes that one worker hands to each collective of a step.

    Args:
        load: of one worker.
        workers: in all.
        rows: of the index.
        gradients: bytes of all of them.
    """
    if workers == 1:
        return {}
    return {
        "number of queries": 8,
        "queries": 4 * load.queries * load.dim,
        "hits": 12 * workers * load.queries * min(load.hits, rows),
        "target tokens": 4,
        "gradients": gradients,
    }


def sent(name: str, payload: int, workers: int) -> float:
    """Bytes that leave a worker for a collective."""
    if name in ("number of queries", "queries"):
        return payload * (workers - 1)
    if name == "hits":
        return payload * (workers - 1) / workers
    return 2 * payload * (workers - 1) / workers


def collective_seconds(hardware: Hardware, load: Workload, workers: int, rows: int) -> float:
    """Time of a step's collectives, if nothing hides behind anything else."""
    gradients = load.weight_bytes * (load.reader_weights + load.retriever_weights)
    total = 0.0
    for name, payload in payloads(load, workers, rows, gradients).items():
        # Trees and halving for what is reduced; every other worker is one message away else.
        is_reduced = name in ("target tokens", "gradients")
        messages = 2 * math.log2(workers) if is_reduced else workers - 1
        seconds = sent(name, payload, workers) / hardware.bandwidth
        total += seconds + messages * hardware.latency
    return total


def search_seconds(hardware: Hardware, load: Workload, workers: int, rows: int) -> float:
    """Time of an exact search: every worker scores everyone's queries with its own rows."""
    numbers = rows / workers * load.dim
    return numbers * (hardware.scan + hardware.score * workers * load.queries)


def refresh_seconds(hardware: Hardware, load: Workload, workers: int, rows: int) -> float:
    """Time to embed all passages once, by all workers."""
    each = load.retriever.forward(load.passage_tokens, load.passage_tokens)
    return rows / workers * each / hardware.embed


def index_bytes(load: Workload, workers: int, rows: int, numbers: float) -> float:
    """Of one worker, with so many bytes for a number of a vector."""
    return math.ceil(rows / workers) * load.dim * numbers


def state_bytes(load: Workload, workers: int, *, optimiser: bool, all_of_it: bool) -> float:
    """Weights, gradients, master copies and moments of one worker, sharded or not."""
    weights = load.reader_weights + load.retriever_weights
    masters = 4 if load.weight_bytes < 4 else 0
    held = 2 * load.weight_bytes * weights / (workers if all_of_it else 1)
    return held + (8 + masters) * weights / (workers if optimiser or all_of_it else 1)
