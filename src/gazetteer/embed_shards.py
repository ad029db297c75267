"""Embed a corpus by jobs that know nothing of each other.   python -m gazetteer.embed_shards --help

Files of passages in, one saved index for each of them out; then `--merge` makes one index of all.
A part depends on its own file and the encoder alone, so it is the same, to the byte, however many
tasks there are and in whatever order they run. It appears in one move; one that is there already
and intact is left as it is; what a killed task embedded is found again by the next.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.build_retriever import load_encoders
from gazetteer.build_search import build_passage_tokens, retriever_max_tokens, retriever_template
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.passages import PassageStore
from gazetteer.data.tokens import PassageTokens
from gazetteer.errors import IndexFileError, OptionError
from gazetteer.files import sync
from gazetteer.flags import all_flags
from gazetteer.index import ShardedIndex, identity_mismatches
from gazetteer.index.conversion import Layout, merge
from gazetteer.index.making import FlatMaker
from gazetteer.index.manifest import MANIFEST, IndexIdentity
from gazetteer.index.verification import require_sound
from gazetteer.indexing import IndexFiles, IndexKeeper, RefreshPlan
from gazetteer.indexing.identity import identity_of
from gazetteer.one_line_errors import exit_code
from gazetteer.option_rules import number_problems, retriever_format_problems
from gazetteer.options import Options, options_from_dict
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder

logger = logging.getLogger(__name__)

PARTS, UNFINISHED, INDEX = "parts", "unfinished", "index"
"""Folders of `--output`."""
MERGED_FILES = 128
SHARED_FLAGS = (
    "retriever_model_path",
    "retriever_format",
    "retriever_pooling",
    "retriever_normalize",
    "text_maxlength",
    "precision",
    "per_gpu_embedder_batch_size",
    "cache_dir",
    "on_bad_line",
)
"""As train.py has them: an index is loaded by a run that says the same."""


@dataclass(frozen=True, slots=True)
class Task:
    """Which files are this job's.

    Attributes:
        number: of the job, from 0.
        count: of jobs.
    """

    number: int
    count: int

    @classmethod
    def of(cls, number: int | None, count: int | None, environment: Mapping[str, str]) -> Task:
        """As flags say, else as Slurm says of a task of an array, else the only one.

        Raises:
            OptionError: there is no such task.
        """
        if number is None and count is None and "SLURM_ARRAY_TASK_ID" in environment:
            said = {
                name: int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
                for name, default in (("ID", "0"), ("MIN", "0"), ("STEP", "1"), ("COUNT", "1"))
            }
            number, count = (said["ID"] - said["MIN"]) // said["STEP"], said["COUNT"]
        if (number is None) != (count is None):
            raise OptionError("--shard and --n_shards must come together")
        task = cls(number or 0, 1 if count is None else count)
        if not 0 <= task.number < task.count:
            raise OptionError(f"--shard ({task.number}) must be in 0..{task.count - 1}")
        return task

    def parts(self, files: int) -> range:
        """Numbers of the files that are this task's: every `count`-th."""
        return range(self.number, files, self.count)


@dataclass(frozen=True, slots=True)
class Embedder:
    """What turns a file of passages into a saved index.

    Attributes:
        options: the flags.
        retriever: its passage tower embeds.
        tokenizer: the retriever's.
        ranks: this process, alone.
        show_progress: draw bars.
    """

    options: Options
    retriever: DualEncoder
    tokenizer: PreTrainedTokenizerBase
    ranks: Ranks
    show_progress: bool

    def embed(self, source: Path, part: Path, unfinished: Path) -> None:
        """Make one part, unless it is there.

        Args:
            source: file of passages.
            part: folder of the index of these, which appears in one move.
            unfinished: where a killed task leaves what it embedded; this part's alone.

        Raises:
            GazetteerError: the source is not what it should be, or the part is there and was made
                from something else.
        """
        corpus = cached_passage_store(
            [source],
            self.options.data.cache_folder,
            on_bad_line=self.options.data.on_bad_line,
            show_progress=self.show_progress,
        )
        template = retriever_template(self.options)
        for passage in corpus.records(range(1)):
            for name in template.lacking(passage):
                raise OptionError(
                    f"--retriever_format ({template.format}) names the field '{name}', which the "
                    f"first passage of {source} does not have"
                )
        tokens = build_passage_tokens(
            self.options,
            self.ranks,
            corpus,
            self.tokenizer,
            template,
            retriever_max_tokens(self.options),
        )
        identity = identity_of(self.retriever.passage_tower, corpus, tokens)
        if part.exists():
            _require_same(part, identity)
            logger.info("%s: is there already", part)
            return
        # A late task of a job that was put back into the queue may be at the same part.
        partial = part.with_name(f".{part.name}.{secrets.token_hex(4)}")
        keeper = self._keeper(
            corpus, tokens, IndexFiles(save_folder=partial, files=1, refresh_folder=unfinished)
        )
        try:
            with torch.no_grad():
                keeper.fill()
            sync(partial)
            try:
                partial.rename(part)
            except OSError:
                _require_same(part, identity)
            sync(part.parent)
            keeper.forget_unfinished()
            for left in part.parent.glob(f".{part.name}.*"):
                shutil.rmtree(left, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        logger.info("%s: %d passages of %s", part, corpus.count, source)

    def _keeper(
        self, corpus: PassageStore, tokens: PassageTokens, files: IndexFiles
    ) -> IndexKeeper:
        """What fills one index; the vectors of one file are in memory."""
        dim = self.retriever.embedding_dim
        maker = FlatMaker(
            "fp32",
            count=corpus.count,
            dim=dim,
            ranks=self.ranks,
            folder=self.options.data.cache_folder,
        )
        return IndexKeeper(
            index=ShardedIndex(corpus.count, self.ranks, build_shard=maker),
            retriever=self.retriever,
            tokenizer=self.tokenizer,
            corpus=corpus,
            tokens=tokens,
            files=files,
            refresh=RefreshPlan(),
            maker=maker,
            ranks=self.ranks,
            show_progress=self.show_progress,
        )


def _require_same(part: Path, identity: IndexIdentity) -> None:
    """Refuse a part that is damaged, or made from something else than is in use."""
    manifest = require_sound(part, lambda size: None)
    mismatches = identity_mismatches(manifest.identity, identity)
    if mismatches:
        raise IndexFileError(
            f"{part}: made from something else than what is in use ({'; '.join(mismatches)}); "
            "remove it, or name another folder (--output)"
        )


def part_folders(output: Path, sources: Sequence[Path]) -> list[Path]:
    """Where the part of each file lies, or will."""
    return [output / PARTS / f"{number:06d}" for number in range(len(sources))]


def embed_parts(embedder: Embedder, sources: Sequence[Path], output: Path, task: Task) -> None:
    """Make the parts of one task. Those of others are neither read nor waited for.

    Raises:
        GazetteerError: as `Embedder.embed`.
    """
    folders = part_folders(output, sources)
    (output / PARTS).mkdir(parents=True, exist_ok=True)
    mine = task.parts(len(sources))
    logger.info("task %d of %d: %d of %d files", task.number, task.count, len(mine), len(sources))
    for number in mine:
        folder = folders[number]
        embedder.embed(sources[number], folder, output / UNFINISHED / folder.name)


def merge_parts(sources: Sequence[Path], output: Path, task: Task, layout: Layout) -> None:
    """Make one index of all parts, in the order of the files, unless it is there.

    Raises:
        IndexFileError: parts are missing, with the tasks that make them, or damaged, or made by
            different encoders.
    """
    folders = part_folders(output, sources)
    missing = [number for number, part in enumerate(folders) if not (part / MANIFEST).is_file()]
    if missing:
        tasks = sorted({number % task.count for number in missing})
        raise IndexFileError(
            f"{output / PARTS}: no index yet of {len(missing)} of {len(sources)} files, the first "
            f"{sources[missing[0]]}; run --shard {','.join(map(str, tasks))} of --n_shards "
            f"{task.count}"
        )
    if (output / INDEX).exists():
        manifest = require_sound(output / INDEX, lambda size: None)
        logger.info("%s: is there already, %d passages", output / INDEX, manifest.count)
        return
    merge(folders, output / INDEX, layout)
    logger.info("%s: merged from %d parts", output / INDEX, len(folders))


def build_parser() -> argparse.ArgumentParser:
    """The command's flags; those that train.py has too mean the same."""
    parser = argparse.ArgumentParser(
        prog="python -m gazetteer.embed_shards",
        description="Embed files of passages, one saved index for each; then merge them.",
        epilog="exit codes: 0 done, 2 something is wrong, said in one line",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--passages", metavar="FILE", type=Path, nargs="+", required=True, help="all of them"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="of the parts")
    parser.add_argument(
        "--shard", type=int, help="this task, from 0 [that of SLURM_ARRAY_TASK_ID, or 0]"
    )
    parser.add_argument("--n_shards", type=int, help="tasks in all [SLURM_ARRAY_TASK_COUNT, or 1]")
    parser.add_argument(
        "--merge", action="store_true", help=f"make DIR/{INDEX} of all parts, and embed nothing"
    )
    parser.add_argument("--no_progress", action="store_true", help="draw no bars")
    shared = parser.add_argument_group("as for train.py")
    known = all_flags(Options)
    for name in SHARED_FLAGS:
        flag = known[name]
        if isinstance(flag.default, bool):
            shared.add_argument(f"--{name}", action="store_true", help=flag.help)
            continue
        shared.add_argument(
            f"--{name}",
            type=flag.kind,
            default=flag.default,
            choices=flag.choices,
            help=f"{flag.help} [{flag.default}]",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and do one task's part; returns the exit code."""
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return exit_code("gazetteer.embed_shards: error", lambda: _run(parsed))


def _run(parsed: argparse.Namespace) -> None:
    sources: list[Path] = parsed.passages
    _require_different(sources)
    task = Task.of(parsed.shard, parsed.n_shards, os.environ)
    if parsed.merge:
        layout = Layout(files=MERGED_FILES, show_progress=not parsed.no_progress)
        merge_parts(sources, parsed.output, task, layout)
        return
    options = options_from_dict({name: getattr(parsed, name) for name in SHARED_FLAGS})
    formats = retriever_format_problems(options.reader.retriever_format)
    for problem in (*number_problems(options), *formats):
        raise OptionError(problem)
    use_fast_float32_matmul()
    ranks = Ranks(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    retriever, tokenizer = load_encoders(options, ranks, options.retriever.retriever_model_path)
    embedder = Embedder(
        options,
        retriever.to(ranks.device).requires_grad_(False),
        tokenizer,
        ranks,
        show_progress=not parsed.no_progress,
    )
    embed_parts(embedder, sources, parsed.output, task)


def _require_different(sources: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for source in sources:
        if not source.is_file():
            raise OptionError(f"--passages ({source}) must be an existing file")
        if source.resolve() in seen:
            raise OptionError(f"--passages ({source}) is given twice")
        seen.add(source.resolve())


if __name__ == "__main__":
    sys.exit(main())
