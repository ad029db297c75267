"""The six-facts gate: does the query reach the compressor, and can the whole learn at all?

Twelve facts in two passages; each passage of six facts becomes one vector; one question about one
fact. A vector made without the question would have to carry all six facts, and at this size and
budget cannot; one made with it needs to carry one. All rows run through the shipped `Compressor`,
on tiny models with random weights.

    python -m benchmarks.six_facts [--seeds 0 1 2 3 4] [--rows NAME ...]

Prints a table, writes JSON, and ends with exit code 1 where a row is not what it has to be.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from benchmarks.measure import RESULTS
from gazetteer.compressor import Compressor, CompressorSettings
from gazetteer.compressor.backbones import first_layers, new_mapping
from gazetteer.compressor.settings import CompressorKind, Pooling
from gazetteer.reader import FusedStates
from gazetteer.records import TokenIds

KEYS, VALUES, PASSAGES, FACTS, WIDTH = 16, 16, 2, 6, 32
FACT_IDS = KEYS * VALUES
"""Ids of facts: key * VALUES + value; behind them an id for each question."""
BATCH, STEPS, PEAK_RATE, WARM_UP = 64, 1200, 3e-3, 50
TEST_EXAMPLES, TEST_SEED = 2000, 99
SEEDS = (0, 1, 2, 3, 4)


class FactEmbedding(nn.Module):
    """A fact is one vector, of its key and its value: no position binds the two."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values, self.questions = (
            nn.Embedding(count, WIDTH) for count in (KEYS, VALUES, KEYS)
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors of facts and questions."""
        fact = ids.clamp_max(FACT_IDS - 1)
        facts = self.keys(fact // VALUES) + self.values(fact % VALUES)
        questions = self.questions((ids - FACT_IDS).clamp_min(0))
        return torch.where((ids < FACT_IDS).unsqueeze(-1), facts, questions)


class OverFacts(nn.Module):
    """A model that reads facts: what a compressor asks of its backbone, with other embeddings."""

    def __init__(self, model: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.model = model
        self.embedding = FactEmbedding()
        self.config = SimpleNamespace(hidden_size=width)

    def get_input_embeddings(self) -> FactEmbedding:
        """Of facts and questions."""
        return self.embedding

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Any:  # noqa: ANN401
        """States of the model."""
        return self.model(inputs_embeds=inputs_embeds, attention_mask=attention_mask)


class PlainEncoder(nn.Module):
    """Two pre-norm transformer layers, without positions and without a last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(2)
        )

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        """As transformers calls and answers."""
        states, padding = inputs_embeds, attention_mask == 0
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=padding)
        return SimpleNamespace(last_hidden_state=states)


def first_layers_of_t5() -> nn.Module:
    """Two of the four layers of a T5's encoder."""
    config = T5Config(
        vocab_size=32, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=4, num_heads=4, dropout_rate=0.0
    )
    return first_layers(T5ForConditionalGeneration(config), 2)


def first_layers_of_decoder() -> nn.Module:
    """Two of the four layers of a causal language model with rotary positions."""
    config = LlamaConfig(
        vocab_size=32, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=64, initializer_range=0.15,
    )  # fmt: skip
    return first_layers(LlamaForCausalLM(config), 2)


def another_encoder() -> nn.Module:
    """A ModernBERT, with rotary positions."""
    config = ModernBertConfig(
        vocab_size=32, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, cls_token_id=1, sep_token_id=2, initializer_range=0.1,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return ModernBertModel(config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One compressor, and what its accuracy has to be.

    Attributes:
        kind: of the compressor; an encoder has a mapping behind it.
        backbone: makes its model.
        pooling: of its states.
        asks: the question stands before the facts.
        vectors: of each passage.
        least, most: bounds of its accuracy.
    """

    kind: CompressorKind
    backbone: Callable[[], nn.Module]
    pooling: Pooling
    asks: bool
    vectors: int = 1
    least: float = 0.0
    most: float = 1.0


def rows() -> dict[str, Row]:
    """Every kind of compressor, with its question and without."""
    made: dict[str, Row] = {
        "full": Row(
            kind="pool",
            backbone=PlainEncoder,
            pooling="first",
            asks=False,
            vectors=FACTS,
            least=0.99,
        )
    }
    kinds: dict[str, tuple[CompressorKind, Callable[[], nn.Module], tuple[Pooling, ...]]] = {
        "plain": ("pool", PlainEncoder, ("memory", "mean", "first")),
        "t5": ("n_layers", first_layers_of_t5, ("memory", "mean", "first")),
        # The first state of a decoder has seen nothing but itself.
        "decoder": ("n_layers", first_layers_of_decoder, ("memory", "mean")),
        "modernbert": ("encoder", another_encoder, ("memory", "mean", "first")),
    }
    for name, (kind, backbone, poolings) in kinds.items():
        for pooling in poolings:
            for asks in (True, False):
                made[f"{name}-{pooling}-{'asks' if asks else 'blind'}"] = Row(
                    kind=kind,
                    backbone=backbone,
                    pooling=pooling,
                    asks=asks,
                    least=0.95 if asks else 0.0,
                    most=1.0 if asks else 0.40,
                )
    return made


class Answering(nn.Module):
    """A compressor, and a reader of one decoder layer over its vectors."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        settings = CompressorSettings(
            kind=row.kind, pooling=row.pooling, vectors=row.vectors, rate=None, format="{text}",
            max_tokens=64,
        )  # fmt: skip
        self.compressor = Compressor(
            OverFacts(row.backbone()),
            settings,
            mapping=new_mapping(WIDTH, WIDTH) if row.kind == "encoder" else nn.Identity(),
            is_shared=False,
            learned_scale=0.1,
            max_padded_tokens=10**6,
        )
        self.questions = nn.Embedding(KEYS, WIDTH)
        self.decoder = nn.TransformerDecoderLayer(
            WIDTH, 4, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(WIDTH, VALUES)

    def forward(self, inputs: list[list[TokenIds]], questions: np.ndarray) -> Tensor:
        """Logits of the value asked for."""
        context: FusedStates = self.compressor.compress(inputs).passages.fused()
        asked = self.questions(torch.from_numpy(questions)).unsqueeze(1)
        states = self.decoder(asked, context.states, memory_key_padding_mask=~context.mask)
        return self.head(states[:, 0])


@dataclass(frozen=True, slots=True)
class Examples:
    """Facts, a question about one of them, and its answer.

    Attributes:
        facts: ids, int32 (example, passage, fact).
        questions: the key asked for.
        answers: its value.
    """

    facts: np.ndarray
    questions: np.ndarray
    answers: np.ndarray

    @classmethod
    def draw(cls, count: int, generator: np.random.Generator) -> Examples:
        """Twelve keys of sixteen, each with any value."""
        keys = generator.permuted(np.tile(np.arange(KEYS), (count, 1)), axis=1)
        keys = keys[:, : PASSAGES * FACTS]
        values = generator.integers(0, VALUES, keys.shape)
        asked, rows = generator.integers(0, PASSAGES * FACTS, count), np.arange(count)
        facts = (keys * VALUES + values).reshape(count, PASSAGES, FACTS).astype(np.int32)
        return cls(facts, keys[rows, asked], values[rows, asked])

    def inputs(self, *, asks: bool, shift: int = 0) -> list[list[TokenIds]]:
        """What the compressor reads; `shift` gives it the question of another example."""
        if not asks:
            return [list(passages) for passages in self.facts]
        questions = np.roll(self.questions, shift) + FACT_IDS
        return [
            [np.concatenate([[question], facts]).astype(np.int32) for facts in passages]
            for question, passages in zip(questions, self.facts, strict=True)
        ]


def train(row: Row, seed: int, steps: int = STEPS) -> Answering:
    """Fresh examples at every step; the seed is that of data and weights."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    model = Answering(row)
    adam = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.0)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
        examples = Examples.draw(BATCH, generator)
        logits = model(examples.inputs(asks=row.asks), examples.questions)
        adam.zero_grad()
        cross_entropy(logits, torch.from_numpy(examples.answers)).backward()
        adam.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Answering, row: Row, *, shift: int = 0) -> float:
    """Share of right answers to 2,000 questions; with `shift` the compressor hears another's."""
    examples = Examples.draw(TEST_EXAMPLES, np.random.default_rng(TEST_SEED))
    logits = model(examples.inputs(asks=row.asks, shift=shift), examples.questions)
    return float((logits.argmax(dim=1).numpy() == examples.answers).mean())


@dataclass(frozen=True, slots=True)
class Result:
    """Of one row, by seed; the control is that of the wrong question."""

    accuracies: list[float]
    controls: list[float]
    seconds: float

    def passes(self, row: Row) -> bool:
        """Whether every seed is within bounds, and the wrong question does not help."""
        fits = all(row.least <= value <= row.most for value in self.accuracies)
        return fits and all(value <= 0.40 for value in self.controls)


def measure(row: Row, seeds: Sequence[int]) -> Result:
    """Train and test with each seed."""
    accuracies, controls, start = [], [], time.process_time()
    for seed in seeds:
        model = train(row, seed)
        accuracies.append(accuracy(model, row))
        if row.asks:
            controls.append(accuracy(model, row, shift=1))
    return Result(accuracies, controls, (time.process_time() - start) / max(1, len(seeds)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    known = rows()
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--rows", nargs="+", choices=known, default=list(known), metavar="NAME")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    failed, document = [], {}
    print(f"{'compressor':20} {'bound':>8}  accuracy by seed; of the wrong question; seconds a run")
    for name in options.rows:
        row, result = known[name], measure(known[name], options.seeds)
        bound = f">= {row.least:.2f}" if row.least else f"<= {row.most:.2f}"
        shown = [" ".join(f"{value:.3f}" for value in values) or "-"
                 for values in (result.accuracies, result.controls)]  # fmt: skip
        verdict = "" if result.passes(row) else "  FAILS"
        numbers = f"{shown[0]}; {shown[1]}; {result.seconds:.1f}"
        print(f"{name:20} {bound:>8}  {numbers}{verdict}", flush=True)
        document[name] = {"accuracies": result.accuracies, "controls": result.controls}
        failed += [name] if verdict else []
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "six_facts.json").write_text(json.dumps(document, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
