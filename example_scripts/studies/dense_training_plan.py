"""What the study of dense training runs: commands, in parts that need each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dense_training_data import VALIDATION
from study_parts import Command, flags

START = "start"
IN_BATCH, RANDOM, BM25, MINED, LOOP, LEAD = "batch", "random", "bm25", "mined", "loop", "lead"
MINED_LEAD = "mined-lead"
UNIT = "unit-"
"""Before the name of a way to train: with embeddings of length 1, and a temperature to match."""
METHODS = (
    IN_BATCH, BM25, LOOP, MINED, LEAD, MINED_LEAD, RANDOM, UNIT + IN_BATCH, UNIT + BM25,
    UNIT + MINED,
)  # fmt: skip
TEACHER = "teacher"
ALONE = {LEAD: BM25, MINED_LEAD: MINED}
"""The student alone, with which LEAD is compared: the same in everything but the teacher."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Sizes that depend on the collection.

    Attributes:
        name: of its folder.
        parts: that its queries are cut into.
        held_out: which of them are held out, one after the other.
        steps: of each training.
        max_tokens: of a query and of a passage.
    """

    name: str
    parts: int
    held_out: tuple[str, ...]
    steps: int
    max_tokens: int


COLLECTIONS = (
    Collection("nq", parts=3, held_out=("0",), steps=90, max_tokens=48),
    Collection("cranfield", parts=2, held_out=("0", "1"), steps=30, max_tokens=64),
    Collection("cisi", parts=2, held_out=("0", "1"), steps=30, max_tokens=64),
)


@dataclass(frozen=True, slots=True)
class Part:
    """What is done at one go, and not again once it is done.

    Attributes:
        name: of its experiment.
        commands: in order.
        needs: names of parts that must be done before.
    """

    name: str
    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """Where things are, and what is run.

    Attributes:
        folder: of everything that is written.
        student: to start from.
        teacher: to start from, larger.
        collections: to train on, each by itself.
        methods: of `METHODS`.
        seeds: of order, draws and dropout.
        validation: hold out a part of the training queries, to choose settings by.
        steps: of each training; 0 for each collection's own.
        batch: queries of a step.
        passages: of a query, where it has negatives: a positive and others.
        lr: learning rate.
        more: words for train.py, after the study's own.
    """

    folder: Path
    student: Path
    teacher: Path
    collections: tuple[Collection, ...] = COLLECTIONS
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (1, 2, 3)
    validation: bool = False
    steps: int = 0
    batch: int = 16
    passages: int = 2
    lr: float = 5e-4
    more: tuple[str, ...] = field(default=())

    def held_out(self, collection: Collection) -> list[str]:
        """Names of the parts that are held out."""
        return [f"{part}{VALIDATION if self.validation else ''}" for part in collection.held_out]

    def data(self, collection: Collection) -> Path:
        """Where a collection lies."""
        return self.folder / "data" / collection.name

    def parts(self) -> Iterator[Part]:
        """Everything there is to do, one seed after the other."""
        for collection in self.collections:
            yield self.words_alone(collection)
            for held in self.held_out(collection):
                yield self.lines(collection, held)
            for name, model in ((START, self.student), (TEACHER, self.teacher)):
                part = f"{collection.name}-{name}"
                yield Part(part, (self._search(collection, part, model),))
        for seed in self.seeds:
            for collection in self.collections:
                for held in self.held_out(collection):
                    for method in self.methods:
                        yield self.training(collection, held, method, seed)

    def words_alone(self, collection: Collection) -> Part:
        """BM25, from which negatives come, and which stands beside the others in the table."""
        data = self.data(collection)
        words = flags(
            corpus=data / "corpus.jsonl", queries=data / "queries.jsonl",
            output=self.run_file(f"{collection.name}-{BM25}"), **self._quietly("data_cache_dir"),
        )  # fmt: skip
        return Part(f"{collection.name}-{BM25}", (Command("-m gazetteer.dense.bm25", (*words,)),))

    def lines(self, collection: Collection, held: str) -> Part:
        """Training lines of the queries that are not held out."""
        random = Command(
            "preprocessing/build_train.py",
            (
                *flags(negative_file=self.data(collection) / held / "random.tsv"),
                *self._lines(collection, held, RANDOM),
            ),
        )
        words = self._hard_lines(collection, held, BM25, f"{collection.name}-{BM25}")
        return Part(f"{collection.name}-{held}-lines", (random, words))

    def training(self, collection: Collection, held: str, method: str, seed: int) -> Part:
        """One training, and a search for all queries with what it made."""
        data, name = self.data(collection), f"{collection.name}-{held}-{method}-{seed}"
        commands, needs = [], [f"{collection.name}-{held}-lines"]
        unit, method = UNIT if method.startswith(UNIT) else "", method.removeprefix(UNIT)
        lines = RANDOM if method == RANDOM else BM25
        if ALONE.get(method, method) == MINED:
            lines = f"{unit}{MINED}-{seed}"
            source = f"{collection.name}-{held}-{unit}{IN_BATCH}-{seed}"
            commands.append(self._hard_lines(collection, held, lines, source))
            needs.append(source)
        suffix = "" if method == RANDOM else ".hn"
        words = flags(
            task="dense", name=name, **self._common(), passages=data / "corpus.jsonl",
            train_data=data / held / lines / f"train{suffix}.jsonl", shuffle=True, seed=seed,
            retriever_model_path=self.student, lr_retriever=self.lr,
            train_n_passages=1 if method == IN_BATCH else self.passages,
            per_gpu_batch_size=self.batch, q_max_len=collection.max_tokens,
            p_max_len=collection.max_tokens, total_steps=self.steps or collection.steps,
            warmup_ratio=0.1, scheduler="linear", weight_decay=0, epsilon=1e-8, dropout=0.1,
            log_freq=10, eval_freq=10**6, save_freq=10**6,
        )  # fmt: skip
        if unit:
            words += flags(retriever_normalize=True, dense_temperature=0.05)
        if method == LOOP:
            words += self._mining(self.steps or collection.steps)
        if method in ALONE:
            words += flags(
                teacher=self.teacher, teacher_kind="de", distill_layer_num=2,
                layer_selection="last", layer_score_reweight=True, layer_temperature=1,
            )  # fmt: skip
        commands.append(Command("train.py", (*words, *self.more)))
        trained = self.folder / "experiments" / name / "checkpoint" / "latest" / "retriever"
        commands.append(self._search(collection, name, trained))
        return Part(name, tuple(commands), tuple(needs))

    def run_file(self, name: str) -> Path:
        """What was found, for the queries of either side."""
        if name.endswith(f"-{BM25}"):
            return self.folder / "experiments" / f"found-{name}" / "queries.trec"
        return self.folder / "experiments" / f"found-{name}" / "queries-step-0.trec"

    def _mining(self, steps: int) -> list[str]:
        """Negatives out of the index of the start, and anew after half of the steps."""
        return flags(
            mine_negatives=20, mine_depth=30, mine_new_texts=True,
            refresh_index=max(steps // 2, 1),
        )  # fmt: skip

    def _hard_lines(self, collection: Collection, held: str, name: str, source: str) -> Command:
        """Lines with negatives out of a run: 20 of the best 30 that nobody judged relevant."""
        words = [
            *flags(hn_file=self.run_file(source), depth=30, filter_duplicates=True),
            *self._lines(collection, held, name),
        ]
        return Command("preprocessing/build_hn.py", tuple(words))

    def _lines(self, collection: Collection, held: str, name: str) -> list[str]:
        data = self.data(collection)
        return flags(
            tokenizer_name=self.student, qrels=data / held / "train.tsv",
            queries=data / "queries.jsonl", collection=data / "corpus.jsonl",
            save_to=data / held / name, form="reference", merge=True, n_sample=20, processes=1,
            **self._quietly("cache_dir"),
        )  # fmt: skip

    def _search(self, collection: Collection, name: str, model: Path) -> Command:
        data = self.data(collection)
        words = flags(
            name=f"found-{name}", **self._common(), eval_data=data / "queries.jsonl",
            qrels=data / "all.tsv", passages=data / "corpus.jsonl", retrieve_only=True,
            n_context=100, text_maxlength=collection.max_tokens, per_gpu_batch_size=64,
            retriever_model_path=model,
        )  # fmt: skip
        return Command("evaluate.py", tuple(words))

    def _common(self) -> dict[str, object]:
        return {"checkpoint_dir": self.folder / "experiments", **self._quietly("cache_dir")}

    def _quietly(self, cache: str) -> dict[str, object]:
        return {cache: self.folder / "cache", "no_progress": True}
