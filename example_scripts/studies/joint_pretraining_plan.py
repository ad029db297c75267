"""What the study of joint pre-training runs: commands, in parts that need each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from study_parts import Command, flags

CLOSED = ("none", "closed")
FIXED = (*CLOSED, "fixed")
UNTOUCHED = ("mlm-untouched", "found-untouched")
SIGNALS = ("pdist", "adist", "loop", "emdr2")
BEFORE, METHODS = ("untouched", "none", "fixed"), ("closed", "fixed")
ROWS = (
    *(("untouched", method) for method in (*METHODS, *SIGNALS)),
    ("none", "closed"), ("none", "pdist"), ("fixed", "fixed"), ("pdist", "pdist"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """What is done at one go, and not again once it is done.

    Attributes:
        name: of its experiment.
        commands: in order.
        needs: names of parts that must be done before.
        shots: training questions to draw first; 0 for none.
        is_kept: whether something starts from its checkpoint later.
    """

    name: str
    commands: tuple[Command, ...]
    needs: tuple[str, ...] = ()
    shots: int = 0
    seed: int = 0
    is_kept: bool = True


@dataclass(frozen=True, slots=True)
class Study:
    """Where things are, and how large they are.

    Attributes:
        folder: of everything that is written.
        reader: to start from.
        retriever: to start from.
        questions: to answer at the end.
        rows: how to pre-train ("none": with the book closed), and how to fine-tune.
        seeds: of masks, few-shot samples, and order.
        shots: questions to train on -> epochs.
        steps: of pre-training.
        batch: examples of a step.
        lr_mlm: of the reader, in pre-training.
        lr_retriever_mlm: of the query tower, in pre-training.
        lr: of the reader, in fine-tuning.
        lr_retriever: of the query tower, in fine-tuning.
    """

    folder: Path
    reader: Path
    retriever: Path
    questions: Path
    rows: tuple[tuple[str, str], ...] = ROWS
    seeds: tuple[int, ...] = (1, 2, 3)
    shots: tuple[tuple[int, int], ...] = ((64, 4), (512, 1))
    steps: int = 150
    batch: int = 8
    lr_mlm: float = 1e-3
    lr_retriever_mlm: float = 1e-5
    lr: float = 5e-4
    lr_retriever: float = 1e-4

    @property
    def leads(self) -> Path:
        """Where Wikipedia's passages are."""
        return self.folder / "data" / "leads"

    @property
    def factbook(self) -> Path:
        """Where the Factbook's passages and questions are."""
        return self.folder / "data" / "factbook"

    def parts(self) -> Iterator[Part]:
        """Everything there is to do, in an order that soon fills the tables with few seeds."""
        yield from self.untouched()
        for shots, epochs in self.shots:
            for seed in self.seeds:
                if (shots, epochs) == self.shots[0]:
                    for before in dict.fromkeys(before for before, _ in self.rows):
                        if before != "untouched":
                            yield self.pretraining(before, seed)
                for before, method in self.rows:
                    yield self.finetuning(before, method, shots, epochs, seed)

    def untouched(self) -> tuple[Part, Part]:
        """The models as they come; both indexes serve to the end, as no passage tower learns."""
        read = self._evaluate(
            "mlm-untouched", [*self._mlm(), *self._start()], n_context=1,
            per_gpu_batch_size=self.batch, write_results=True, dont_write_passages=True,
            passages=self.leads / "passages.jsonl", save_index_path=self._index("leads"),
        )  # fmt: skip
        found = self._evaluate(
            "found-untouched", self._qa(), n_context=20, per_gpu_batch_size=32, retrieve_only=True,
            retriever_model_path=self.retriever, passages=self.factbook / "passages.jsonl",
            save_index_path=self._index("factbook"),
        )  # fmt: skip
        return Part("mlm-untouched", (read,)), Part("found-untouched", (found,))

    def pretraining(self, method: str, seed: int) -> Part:
        """Masked language modelling on the leads."""
        name = f"mlm-{method}-{seed}"
        words = [*self._mlm(), *self._start(), *self._method(method, "leads")]
        words += flags(lr=self.lr_mlm, total_steps=self.steps, warmup_steps=min(20, self.steps - 1))
        commands = [self._train(name, words, self.leads / "passages.jsonl", seed, self.steps)]
        if method not in FIXED:
            commands.append(self._search(name))
        return Part(name, tuple(commands), UNTOUCHED, seed=seed)

    def finetuning(self, before: str, method: str, shots: int, epochs: int, seed: int) -> Part:
        """Few-shot questions about countries."""
        name, start = f"qa-{before}-{method}-{shots}-{seed}", self._start()
        if before != "untouched":
            start += flags(model_path=self._checkpoint(f"mlm-{before}-{seed}"))
        words = [*self._qa(), *start, *self._method(method, "factbook")]
        steps = max(shots * epochs // self.batch, 1)
        words += flags(lr=self.lr, total_steps=steps, warmup_steps=min(4, steps - 1))
        commands = [self._train(name, words, self.sample(shots, seed), seed, steps)]
        if method not in FIXED:
            commands.append(self._search(name))
        needs = UNTOUCHED if before == "untouched" else (f"mlm-{before}-{seed}",)
        return Part(name, tuple(commands), needs, shots, seed, is_kept=False)

    def sample(self, shots: int, seed: int) -> Path:
        """Where a few-shot set lies."""
        return self.factbook / f"train-{shots}-{seed}.jsonl"

    def _index(self, corpus: str) -> Path:
        return self.folder / f"{corpus}-index"

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "experiments" / name / "checkpoint" / "latest"

    def _start(self) -> list[str]:
        return flags(reader_model_type=self.reader, retriever_model_path=self.retriever)

    def _mlm(self) -> list[str]:
        return flags(task="mlm", target_maxlength=64, eval_data=self.leads / "valid.jsonl")

    def _qa(self) -> list[str]:
        return flags(task="qa", target_maxlength=40, eval_data=self.questions)

    def _method(self, method: str, corpus: str) -> list[str]:
        """How passages come to the reader, and who learns from that."""
        if method in CLOSED:
            return flags(closed_book=True)
        words = flags(load_index_path=self._index(corpus), n_context=1)
        if method in FIXED:
            return words
        return words + flags(
            train_retriever=True, query_side_retriever_training=True, gold_score_mode=method,
            retriever_n_context=4,
            lr_retriever=self.lr_retriever_mlm if corpus == "leads" else self.lr_retriever,
        )  # fmt: skip

    def _common(self, name: str) -> list[str]:
        return flags(
            name=name, checkpoint_dir=self.folder / "experiments", no_progress=True,
            cache_dir=self.folder / "cache", precision="bf16", text_maxlength=256,
            generation_max_length=48, retriever_normalize=True,
        )  # fmt: skip

    def _train(self, name: str, words: Sequence[str], data: Path, seed: int, steps: int) -> Command:
        more = flags(
            train_data=data, shuffle=True, seed=seed, dropout=0, weight_decay=0.01, beta2=0.99,
            scheduler="linear", per_gpu_batch_size=self.batch, log_freq=10, eval_freq=steps,
            save_freq=steps,
            write_results=True, dont_write_passages=True,
        )  # fmt: skip
        return Command("train.py", (*self._common(name), *words, *more))

    def _evaluate(self, name: str, words: Sequence[str], **values: object) -> Command:
        return Command("evaluate.py", (*self._common(name), *words, *flags(**values)))

    def _search(self, name: str) -> Command:
        return self._evaluate(
            f"found-{name}", self._qa(), retrieve_only=True, n_context=20, per_gpu_batch_size=32,
            model_path=self._checkpoint(name), load_index_path=self._index("factbook"),
        )  # fmt: skip
