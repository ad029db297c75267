"""Everything the demo's reader is trained from: tokenizer, first weights, and a curriculum.

No pre-trained T5 comes with a package, so the demo's reader learns to read from the Factbook text
of the training countries alone: first to copy the value behind a label, then to find it in longer
text, then among passages that do not hold it, asked in natural words. Values are often swapped
between countries, so that remembering does not pay and reading does.

The commands that train on these files are in `example_scripts/factbook/train_reader.sh`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parent))
from factbook_fields import FIELDS
from prepare_factbook import (
    Country,
    Line,
    label_of,
    leaf_lines,
    package_trees,
    pack,
    read_countries,
    split_of,
    value_at,
)

SENTINELS = [f"<extra_id_{number}>" for number in range(100)]
LONGEST_ANSWER_WORDS = 6


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a country's text whose value is short enough to ask for.

    Attributes:
        section: where it stands.
        line: label and whole value.
        answer: the value without its notes.
        phrasings: natural questions about it, with `{country}` in them; often none.
    """

    section: str
    line: Line
    answer: str
    phrasings: tuple[str, ...] = ()


def short_answer(value: str) -> str:
    """A value up to its first note; "" if it is still long, or not one thing."""
    answer = re.split(r" \(|;| note:", value)[0].strip(" .,:")
    return answer if 0 < len(answer.split()) <= LONGEST_ANSWER_WORDS else ""


def facts_of(country: Country) -> list[Fact]:
    """Every fact of a country that can be asked for, natural phrasings attached where we have any."""
    natural = {}
    for field in FIELDS:
        answers = field.answers(value_at(country.tree, field.path))
        if answers:
            natural[field.path[0], label_of(field)] = (answers[0], field.phrasings)
    facts = []
    for section, node in country.tree.items():
        for line in leaf_lines(node):
            answer, phrasings = natural.get((section, line.label), (short_answer(line.value), ()))
            if answer and answer in line.value:
                facts.append(Fact(section, line, answer, phrasings))
    return facts


@dataclass(frozen=True, slots=True)
class World:
    """The training countries, and all their facts by label for swapping.

    Attributes:
        countries: names and trees.
        facts: of each country, in the same order.
        windows: of each country, the text of each section in passages.
        by_label: facts of all countries with the same section and label.
    """

    countries: list[Country]
    facts: list[list[Fact]]
    windows: list[dict[str, list[list[Line]]]]
    by_label: dict[tuple[str, str], list[Fact]]

    @classmethod
    def of(cls, countries: Sequence[Country], max_words: int) -> World:
        """Collect the facts of some countries, and their passages of at most `max_words` words."""
        kept = [(country, facts_of(country)) for country in countries]
        kept = [(country, facts) for country, facts in kept if len(facts) >= 20]
        by_label: dict[tuple[str, str], list[Fact]] = {}
        for _, facts in kept:
            for fact in facts:
                by_label.setdefault((fact.section, fact.line.label), []).append(fact)
        windows = [
            {name: pack(leaf_lines(node), max_words) for name, node in country.tree.items()}
            for country, _ in kept
        ]
        return cls([c for c, _ in kept], [f for _, f in kept], windows, by_label)

    def with_another_value(self, fact: Fact, generator: random.Random) -> Fact:
        """The same label with the value of some other country."""
        other = generator.choice(self.by_label[fact.section, fact.line.label])
        return replace(other, phrasings=fact.phrasings)


def write_record(question: str, answer: str, passages: Sequence[dict[str, str]]) -> str:
    """One line for `--task qa --use_file_passages`."""
    record = {"question": question, "answers": [answer], "passages": list(passages)}
    return json.dumps(record, ensure_ascii=False) + "\n"


def passage(title: str, section: str, lines: Sequence[Line]) -> dict[str, str]:
    """A passage in the form of passages.jsonl."""
    return {"title": title, "section": section, "text": passage_text(lines)}


def passage_text(lines: Sequence[Line]) -> str:
    """Lines as `prepare_factbook` writes them."""
    return "\n".join(map(str, lines))


def asked(fact: Fact, country: str, generator: random.Random, *, natural: float) -> str:
    """A question about a fact: in natural words with this probability, else by its label."""
    if fact.phrasings and generator.random() < natural:
        return generator.choice(fact.phrasings).format(country=country)
    return f"what is the {fact.line.label.lower()} of {country}?"


def copying(world: World, generator: random.Random, lines: int) -> str:
    """A few made-up lines of any labels with any values; one or two of them asked for."""
    index = generator.randrange(len(world.countries))
    chosen = generator.sample(world.facts[index], lines)
    everything = world.facts[generator.randrange(len(world.facts))]
    shown = []
    for fact in chosen:
        source = generator.choice(everything) if generator.random() < 0.5 else fact
        shown.append((fact.line.label, source.answer))
    wanted = generator.sample(shown, generator.choice((1, 1, 2)))
    country = world.countries[index].name
    question = f"what is the {'; '.join(label.lower() for label, _ in wanted)} of {country}?"
    text = [Line(label, answer) for label, answer in shown]
    answer = "; ".join(answer for _, answer in wanted)
    return write_record(question, answer, [passage(country, chosen[0].section, text)])


def reading(world: World, generator: random.Random, distractors: int) -> str:
    """A window of a country's own text, values often swapped, among passages without the answer."""
    index = generator.randrange(len(world.countries))
    name = world.countries[index].name
    natural = [f for f in world.facts[index] if f.phrasings]
    fact = generator.choice(natural if natural and generator.random() < 0.6 else world.facts[index])
    window = list(window_around(world, index, fact))
    if generator.random() < 0.5:
        other = world.with_another_value(fact, generator)
        window = [other.line if line == fact.line else line for line in window]
        fact = other if other.line in window else fact
    shown = [passage(name, fact.section, window)]
    shown += [distractor(world, index, fact, generator) for _ in range(distractors)]
    generator.shuffle(shown)
    return write_record(asked(fact, name, generator, natural=0.8), fact.answer, shown)


def window_around(world: World, index: int, fact: Fact) -> list[Line]:
    """The passage of a country that shows a fact."""
    groups = world.windows[index][fact.section]
    whole = (g for g in groups if fact.line in g)
    begun = (g for g in groups if any(_begins(line, fact) for line in g))
    return next(whole, None) or next(begun, None) or [fact.line]


def _begins(line: Line, fact: Fact) -> bool:
    """Whether a line is the piece of a long value that holds the answer."""
    return line.label == fact.line.label and fact.answer in line.value


def distractor(world: World, index: int, fact: Fact, generator: random.Random) -> dict[str, str]:
    """The same country's other text, or the same fact of another country."""
    label = fact.line.label
    if generator.random() < 0.5:
        section = generator.choice([s for s, groups in world.windows[index].items() if groups])
        groups = world.windows[index][section]
        fit = [g for g in groups if all(line.label != label for line in g)]
    else:
        index = generator.randrange(len(world.countries))
        groups = world.windows[index].get(fact.section) or next(
            groups for groups in world.windows[index].values() if groups
        )
        section = fact.section
        fit = [g for g in groups if any(line.label == label for line in g)]
    return passage(world.countries[index].name, section, generator.choice(fit or groups))


STAGES: dict[str, tuple[int, Callable[[World, random.Random], str]]] = {
    "stage1": (40_000, lambda world, generator: copying(world, generator, 2)),
    "stage2": (40_000, lambda world, generator: copying(world, generator, generator.randint(3, 8))),
    "stage3": (60_000, lambda world, generator: reading(world, generator, 0)),
    "stage4": (30_000, lambda world, generator: reading(world, generator, 2)),
}
"""Lines of each stage and how one is made: copy, find, read, read among others."""


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A Unigram vocabulary of this text; digits stand alone, so that numbers copy piece by piece."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Replace(Regex(r"\n"), " | "),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(SENTINELS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=SENTINELS,
        model_max_length=512,
    )


def first_weights(vocabulary: int, seed: int) -> T5ForConditionalGeneration:
    """A small T5 whose attention begins as a copier's.

    Query and key projections start out similar, and so do value and output projections, so that a
    token attends to its like and passes it on; a few heads begin by looking at the tokens before
    and after. A random start finds the same, several times later.

    Source:
        "Mimetic Initialization of Self-Attention Layers", arXiv:2305.09828.
    """
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=vocabulary,
        d_model=256,
        d_kv=32,
        d_ff=768,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=8,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for block in model.decoder.block:
            _mimic_copying(block.get_submodule("layer.1.EncDecAttention"), config)
        encoder = model.encoder.block[0].get_submodule("layer.0.SelfAttention")
        decoder = model.decoder.block[0].get_submodule("layer.0.SelfAttention")
        for head, offset in enumerate((-1, -1, -2, 1, -3, 2)):
            _look_at(encoder, head, offset, bidirectional=True)
        for head, offset in enumerate((-1, -2, -3)):
            _look_at(decoder, head, offset, bidirectional=False)
    return model


def _mimic_copying(attention: torch.nn.Module, config: T5Config) -> None:
    query, key, value, output = (
        attention.get_submodule(name).weight for name in ("q", "k", "v", "o")
    )
    for head in range(config.num_heads):
        rows = slice(head * config.d_kv, (head + 1) * config.d_kv)
        match, _ = torch.linalg.qr(torch.randn(config.d_model, config.d_kv))
        carry, _ = torch.linalg.qr(torch.randn(config.d_model, config.d_kv))
        query[rows] = 0.3 * query[rows] + 0.7 * match.T
        key[rows] = 0.3 * key[rows] + 0.7 * match.T
        value[rows] = 0.6 * value[rows] + 0.4 * carry.T
        output[:, rows] = 0.6 * output[:, rows] + 0.4 * carry


def _look_at(attention: torch.nn.Module, head: int, offset: int, *, bidirectional: bool) -> None:
    bucket = attention._relative_position_bucket(  # pyright: ignore
        torch.tensor(offset),
        bidirectional=bidirectional,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    attention.get_submodule("relative_attention_bias").weight[bucket, head] += 4.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=4000, help="pieces in the vocabulary")
    parser.add_argument("--max_words", type=int, default=60, help="longest passage")
    parser.add_argument("--split", choices=("train", "dev"), default="train", help="countries")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    countries = read_countries(package_trees())
    chosen = [c for c in countries if split_of(c.code, options.seed) == options.split]
    world = World.of(chosen, options.max_words)
    generator = random.Random(options.seed)
    options.output_directory.mkdir(parents=True, exist_ok=True)
    for name, (count, make) in STAGES.items():
        path = options.output_directory / f"{name}.jsonl"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(make(world, generator) for _ in range(count))
        print(f"{path}: {count} lines")
    texts = (str(fact.line) for facts in world.facts for fact in facts)
    names = (
        asked(f, c.name, generator, natural=1.0)
        for c, facts in zip(world.countries, world.facts, strict=True)
        for f in facts
    )
    tokenizer = train_tokenizer(
        (text for part in (texts, names) for text in part), options.vocabulary
    )
    reader = options.output_directory / "reader"
    tokenizer.save_pretrained(reader)
    first_weights(len(tokenizer), options.seed).save_pretrained(reader)
    print(f"{reader}: {len(tokenizer)} pieces, {len(world.countries)} countries")
    return 0


if __name__ == "__main__":
    sys.exit(main())
