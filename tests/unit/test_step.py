"""The whole step against the same step written out by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.targets import TargetTokenizer
from gazetteer.lead.layers import LayerChooser, LayerPairs
from gazetteer.lead.reader_lesson import ReaderLayers
from gazetteer.reader import FusionReader
from gazetteer.reader.passage_scores import layer_attention_scores, passage_attention_scores
from gazetteer.records import Batch, Example, Hits
from gazetteer.stats import Stopwatch
from gazetteer.step import (
    GivenPassages,
    ReaderInputs,
    Retrieval,
    RetrieverLesson,
    TrainingStep,
    correlation,
)
from tests.support.tiny_models import reader_tokenizer, tiny_t5
from tests.unit.selection.test_selection import World

QUERIES = (
    "question: what is the capital of peru? answer: <extra_id_0>",
    "who was the king of egypt",
)
TARGETS = ("<extra_id_0> lima", "<extra_id_0> the old king")
TEMPLATE = "{query} title: {title} context: {text}"


def lesson(mode: str, **changes) -> RetrieverLesson:
    settings = {"passages": 4, "retriever_temperature": 0.1, "reader_temperature": 0.2}
    return RetrieverLesson(mode=mode, **{**settings, **changes})


class Parts:
    """A training step over a small world."""

    def __init__(self, folder: Path, dropout: float = 0.0) -> None:
        self.world = World(folder)
        self.reader = FusionReader(tiny_t5(dropout=dropout), max_padded_tokens=256)
        from gazetteer.data.templates import PassageTemplate
        from gazetteer.data.tokens import PassageTokens

        self.reader_tokens = PassageTokens(
            self.world.corpus,
            reader_tokenizer(),
            PassageTemplate.parse(TEMPLATE),
            max_tokens=60,
            cache_dir=folder / "cache",
        )
        from tests.support.tiny_models import retriever_tokenizer

        self.batch = Batch(
            examples=tuple(
                Example(example_id=i, query=q, target=t)
                for i, (q, t) in enumerate(zip(QUERIES, TARGETS, strict=True))
            ),
            query_tokens=QueryTokenizer(retriever_tokenizer(), max_tokens=40).encode(QUERIES),
            targets=TargetTokenizer(reader_tokenizer(), decoder_start_id=0).encode(
                QUERIES, TARGETS
            ),
        )

    def step(self, teaching: RetrieverLesson | None, n_context: int = 2) -> TrainingStep:
        return TrainingStep(
            source=Retrieval(self.world.retriever, self.world.selector()),
            inputs=ReaderInputs(self.reader_tokens),
            retriever_tokens=self.world.tokens,
            retriever=self.world.retriever,
            reader=self.reader,
            n_context=n_context,
            lesson=teaching,
        )

    def hits(self, count: int) -> Hits:
        """What is found for the batch."""
        source = Retrieval(self.world.retriever, self.world.selector())
        return source.hits(self.batch, count, Stopwatch())


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def hits_by_hand(parts: Parts, count: int) -> list[list[int]]:
    world = parts.world
    queries = world.retriever.embed_for_search(parts.batch.query_tokens)
    return (queries @ world.vectors.T).topk(count).indices.tolist()


def nll_by_hand(parts: Parts, query: int, rows: list[int]) -> torch.Tensor:
    """Per-token loss of one target, its passages tokenised as whole texts."""
    tokenizer = reader_tokenizer()
    texts = [
        TEMPLATE.format(query=QUERIES[query], **record)
        for record in parts.world.corpus.records(rows)
    ]
    ids = [np.array([*i[:59], 1] if len(i) > 60 else i) for i in tokenizer(texts)["input_ids"]]
    labels = parts.batch.targets.labels[query]
    inputs = parts.batch.targets.decoder_input_ids[query : query + 1]
    logits = parts.reader.decode(parts.reader.encode([ids]).fused(), inputs)[0]
    return cross_entropy(logits, labels, ignore_index=-100, reduction="none")


def test_reader_loss_is_the_token_mean_over_the_first_passages(parts: Parts) -> None:
    loss, stats = parts.step(None)(parts.batch, False)
    rows = hits_by_hand(parts, 2)
    losses = torch.stack([nll_by_hand(parts, query, rows[query]) for query in range(2)])
    expected = losses.sum() / parts.batch.targets.mask.sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stats["loss/reader_loss"], expected, rtol=1e-5, atol=1e-5)


def test_searching_is_a_part_of_retrieving(parts: Parts) -> None:
    _, stats = parts.step(None)(parts.batch, False)
    assert 0 < stats["runtime/search"] < stats["runtime/retrieve"]


def test_perplexity_distillation_by_hand(parts: Parts) -> None:
    loss, stats = parts.step(lesson("ppmean"))(parts.batch, True)
    rows = hits_by_hand(parts, 4)
    counts = parts.batch.targets.mask.sum(dim=1)
    gold = torch.stack(
        [
            torch.stack([-nll_by_hand(parts, q, [row]).sum() / counts[q] for row in rows[q]])
            for q in range(2)
        ]
    )
    queries = parts.world.retriever.embed_for_search(parts.batch.query_tokens)
    scores = torch.stack([parts.world.vectors[rows[q]] @ queries[q] for q in range(2)]) / 32**0.5
    target = (gold / 0.2).softmax(dim=-1)
    expected = kl_div((scores / 0.1).log_softmax(dim=-1), target, reduction="sum") / 8
    torch.testing.assert_close(
        stats["loss/retriever_loss"], expected.detach(), rtol=1e-4, atol=1e-5
    )
    total = stats["loss/reader_loss"] + stats["loss/retriever_loss"]
    torch.testing.assert_close(loss.detach(), total)
    loss.backward()
    assert all(p.grad is not None for p in parts.world.retriever.parameters() if p.requires_grad)


@pytest.mark.parametrize("mode", ["ppmean", "evalnormsum", "loop", "emdr", "emdr2"])
@pytest.mark.parametrize("n_context", [1, 4, 6])
def test_without_dropout_sharing_encodings_changes_nothing(
    parts: Parts, mode: str, n_context: int
) -> None:
    apart = parts.step(lesson(mode), n_context)(parts.batch, True)[1]
    shared = parts.step(lesson(mode, reuse_encodings=True), n_context)(parts.batch, True)[1]
    for name in ("loss/reader_loss", "loss/retriever_loss"):
        torch.testing.assert_close(apart[name], shared[name], rtol=1e-4, atol=1e-5)


def test_shared_encodings_encode_each_passage_once(parts: Parts) -> None:
    encoded: list[int] = []
    original = parts.reader.encode
    parts.reader.encode = lambda inputs: (  # type: ignore[method-assign]
        encoded.append(sum(map(len, inputs))) or original(inputs)
    )
    parts.step(lesson("ppmean", reuse_encodings=True), 2)(parts.batch, True)
    assert encoded == [4, 4]
    encoded.clear()
    parts.step(lesson("loop", reuse_encodings=True), 4)(parts.batch, True)
    # Nothing is left to encode, which is said to workers that have something.
    assert encoded == [8, 0]


def test_the_signal_is_computed_without_dropout(tmp_path: Path) -> None:
    parts = Parts(tmp_path, dropout=0.5)
    parts.reader.train()
    step = parts.step(lesson("ppmean"))
    losses = {step(parts.batch, True)[1]["loss/retriever_loss"].item() for _ in range(3)}
    assert len(losses) == 1
    assert parts.reader.training


def test_a_frozen_retriever_takes_no_part(parts: Parts) -> None:
    loss, stats = parts.step(lesson("ppmean"))(parts.batch, False)
    loss.backward()
    assert "loss/retriever_loss" not in stats
    assert all(p.grad is None for p in parts.world.retriever.parameters())


def test_attention_statistics_are_logged_on_request(parts: Parts) -> None:
    stats = parts.step(lesson("evalnormsum", log_attention=True))(parts.batch, True)[1]
    names = [name for name in stats if name.startswith("corr/")]
    assert len(names) == 18
    assert float(stats["corr/normssum"]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("mode", ["ppmean", "emdr"])
def test_layers_of_the_reader_teach_layers_of_the_retriever(parts: Parts, mode: str) -> None:
    chooser = LayerChooser(
        selection="random", count=1, student_layers=2, teacher_layers=2, resample_steps=1, seed=0
    )
    step_number = next(n for n in range(99) if chooser.at(n) == LayerPairs((0,), (1,)))
    layers = ReaderLayers(chooser=chooser, layer_temperature=10.0, steps_done=lambda: step_number)
    loss, stats = parts.step(lesson(mode, layers=layers))(parts.batch, True)
    without, plain = parts.step(lesson(mode))(parts.batch, True)
    assert stats["loss/retriever_loss"].item() == pytest.approx(
        plain["loss/retriever_loss"].item(), rel=1e-4
    )
    assert (loss - without).item() == pytest.approx(stats["loss/layer_loss"].item(), rel=1e-3)

    # By hand: mean-pooled states of the retriever's first layer against the reader's second.
    rows = hits_by_hand(parts, 4)
    model = parts.world.retriever.query_tower.model
    found, attention = [], []
    inputs = ReaderInputs(parts.reader_tokens).of(parts.batch.queries, parts.hits(4))
    states = parts.reader.encode(inputs)
    by_layer = layer_attention_scores(parts.reader, states, parts.batch.targets)
    for query in range(2):
        texts = [parts.batch.query_tokens[query], *parts.world.tokens.passage_inputs(rows[query])]
        pooled = [
            model(
                input_ids=torch.from_numpy(ids)[None].long(), output_hidden_states=True
            ).hidden_states[1][0].mean(0)
            for ids in texts
        ]  # fmt: skip
        found.append(torch.stack([pooled[0] @ p for p in pooled[1:]]) / 32**0.5 / 0.1)
        attention.append(by_layer[1, query] / 0.2)
    divergence = kl_div(
        torch.stack(found).log_softmax(1), torch.stack(attention).softmax(1), reduction="batchmean"
    )
    # One pair of layers has the whole weight.
    assert stats["loss/layer_loss"].item() == pytest.approx(divergence.item(), rel=1e-4)
    loss.backward()
    assert model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0


def test_layers_of_the_decoder_average_to_its_attention(parts: Parts) -> None:
    inputs = ReaderInputs(parts.reader_tokens).of(parts.batch.queries, parts.hits(3))
    states = parts.reader.encode(inputs)
    by_layer = layer_attention_scores(parts.reader, states, parts.batch.targets)
    assert by_layer.shape == (2, 2, 3)
    whole = passage_attention_scores(parts.reader, states, parts.batch.targets)
    assert torch.allclose(by_layer.mean(0), whole, rtol=1e-5)


def test_given_passages_are_cut_and_missing_ones_marked() -> None:
    examples = (
        Example(example_id=0, query="q", passage_rows=(4, 5, 6)),
        Example(example_id=1, query="q", passage_rows=(7,)),
    )
    batch = Batch(examples=examples, query_tokens=(), targets=None)
    assert GivenPassages().hits(batch, 2, Stopwatch()).rows.tolist() == [[4, 5], [7, -1]]


def test_closed_book_reads_the_query_alone(parts: Parts) -> None:
    tokenizer = QueryTokenizer(reader_tokenizer(), max_tokens=60)
    inputs = ReaderInputs(None, tokenizer).of(
        QUERIES, GivenPassages().hits(parts.batch, 1, Stopwatch())
    )
    assert [[ids.tolist() for ids in one] for one in inputs] == [
        [reader_tokenizer()(query)["input_ids"]] for query in QUERIES
    ]


def test_correlation_is_pearsons() -> None:
    first, second = torch.randn(2, 3, 4)
    expected = np.corrcoef(first.flatten(), second.flatten())[0, 1]
    assert correlation(first, second).item() == pytest.approx(expected, abs=1e-6)
    assert correlation(first, torch.ones(3, 4)).item() == 0
