"""`--dry_run`: check what can be checked without working, and say what the run would need.

No weights are loaded, nothing is embedded, no other process is waited for. Figures are estimates.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from gazetteer.build_search import REFRESH_FOLDER, codec_settings
from gazetteer.collection_options import searches_collections
from gazetteer.data.corpus import CorpusSize, cached_folder, estimate_passages
from gazetteer.data.examples import ExampleFiles
from gazetteer.data.passages import PASSAGES_FOLDER, stated_facts
from gazetteer.data_files import build_collections, build_task
from gazetteer.dry_run_memory import GIB, estimate_memory, index_memory, memory_lines
from gazetteer.dry_run_models import ModelSize, model_sizes, teacher_size
from gazetteer.errors import GazetteerError, IndexFileError, LaunchError
from gazetteer.index import read_manifest, shard_range
from gazetteer.index.codec import Codec, plan_codec
from gazetteer.index.faiss_codec import load_faiss
from gazetteer.ir.lines import ON_BAD
from gazetteer.ir.training_formats import read_training_lines
from gazetteer.memory_estimate import MemoryEstimate, RunMemory
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.step_on_meta import measure_reading
from gazetteer.task_names import DENSE

PROBED_LINES = 1000
Measure = Callable[[Options, Ranks], RunMemory]
"""Finds what models and step of a run need: `measure_reading`, or for any task that of dense/."""


def plan(options: Options, ranks: Ranks, measure: Measure = measure_reading) -> Iterator[str]:
    """Check paths, formats, models and ports, and describe the run line by line.

    Args:
        options: of the run.
        ranks: this process among its peers.
        measure: says what models and step need of memory.

    Raises:
        GazetteerError: what would stop the run.
    """
    _check_port(options, ranks)
    aside = f", {ranks.set_aside} more only embed" if ranks.set_aside else ""
    yield f"workers: {ranks.world_size} on {ranks.device.type}{aside}"
    data = options.data
    for flag, paths in (("--train_data", data.train_data), ("--eval_data", data.eval_data)):
        if paths:
            yield f"{flag}: {_count_examples(options, paths, flag)} examples"
    passages = _passages(options)
    if data.passages and not data.use_file_passages:
        yield f"--passages: first {PROBED_LINES} lines of each file checked"
    if passages is not None:
        yield f"passages: about {passages:,}"
    reader, retriever, compressor = model_sizes(options)
    teacher = teacher_size(options)
    if options.index.load_index_path and retriever is not None:
        _check_index(options, retriever.dim)
    models = {
        "reader": reader, "retriever": retriever, "compressor": compressor, "teacher": teacher
    }  # fmt: skip
    for name, size in models.items():
        if size is not None:
            yield f"{name}: {size.weights / 1e6:.1f} M weights"
    yield from _needs(options, ranks, passages, retriever, measure)


def _check_port(options: Options, ranks: Ranks) -> None:
    port = options.launch.main_port
    if ranks.world_size > 1 or port < 0:
        return
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LaunchError(f"--main_port ({port}) is not free: {error.strerror}") from None


def _count_examples(options: Options, paths: list[str], flag: str) -> int:
    if flag == "--eval_data" and searches_collections(options):
        opened = build_collections(options, Ranks())
        return sum(collection.count for collection in opened)
    files = [Path(path) for path in paths]
    if options.task.task == DENSE:
        on_bad = ON_BAD[options.data.on_bad_line]
        return sum(1 for path in files for _ in read_training_lines(path, flag=flag, on_bad=on_bad))
    task, is_training = build_task(options), False
    fields = task.evaluation_fields
    if flag == "--train_data":
        fields, is_training = task.training_fields, True
    lines = ExampleFiles.open(
        files, fields, keeps=task.keeps, flag=flag, on_bad_line=options.data.on_bad_line
    )
    return lines.count * len(task.orders(is_training=is_training))


def _passages(options: Options) -> int | None:
    """Passages to search: exact for a saved index, estimated from the first lines otherwise."""
    given = _given_passages(options)
    if options.index.load_index_path:
        count = read_manifest(Path(options.index.load_index_path)).count
        if given is not None and given.is_exact:
            _check_count(options, given.count, count)
        return count
    return None if given is None else given.count


def _given_passages(options: Options) -> CorpusSize | None:
    """Size of `--passages`; None without."""
    if not options.data.passages or options.data.use_file_passages:
        return None
    sizes = [
        estimate_passages(Path(path), options.data.on_bad_line, PROBED_LINES)
        for path in options.data.passages
    ]
    total, limit = sum(size.count for size in sizes), options.data.max_passages
    is_exact = all(size.is_exact for size in sizes)
    return CorpusSize(total if limit < 0 else min(total, limit), is_exact)


def _check_index(options: Options, dim: int) -> None:
    """Compare a saved index with the retriever and, where it is known, with the corpus."""
    assert options.index.load_index_path is not None
    folder, data = Path(options.index.load_index_path), options.data
    manifest = read_manifest(folder)
    if manifest.embedding_dim != dim:
        raise IndexFileError(
            f"{folder}: holds vectors of {manifest.embedding_dim} numbers, the retriever makes "
            f"{dim} (--load_index_path)"
        )
    corpus = folder / PASSAGES_FOLDER
    if data.passages:
        corpus = cached_folder(
            [Path(path) for path in data.passages],
            data.cache_folder,
            max_passages=data.max_passages,
            on_bad_line=data.on_bad_line,
        )
    facts = stated_facts(corpus)
    if facts is None and not data.passages:
        raise IndexFileError(
            f"{corpus}: no passages here; name their files with --passages (--load_index_path)"
        )
    if facts is not None:
        _check_count(options, facts[0], manifest.count)
        if facts[1] != manifest.identity.corpus and not options.index.allow_stale_index:
            raise IndexFileError(
                f"{folder}: made from other passages than are in use; embed again, or pass "
                "--allow_stale_index (--load_index_path)"
            )


def _check_count(options: Options, passages: int, rows: int) -> None:
    if passages != rows:
        raise IndexFileError(
            f"{options.index.load_index_path}: holds {rows} vectors, in use are {passages} "
            "passages (--load_index_path)"
        )


def _needs(
    options: Options,
    ranks: Ranks,
    passages: int | None,
    retriever: ModelSize | None,
    measure: Measure,
) -> Iterator[str]:
    """Memory of one worker, and disk."""
    index_bytes = in_memory = 0
    if passages is not None and retriever is not None and _has_index(options):
        codec = _codec(options, passages, retriever.dim)
        in_memory = index_memory(options, ranks, passages, retriever.dim, codec)
        index_bytes = passages * retriever.dim * 4
        if codec is not None:
            rows = len(shard_range(passages, 0, ranks.world_size))
            on_disk = rows * retriever.dim * 4
            yield f"vectors: {on_disk / GIB:.2f} GiB per worker on the disk of --cache_dir"
            # What is saved is vectors, and codes if there are any.
            index_bytes += passages * codec.row_bytes
        yield f"index: {in_memory / GIB:.2f} GiB per worker in memory"
    yield from memory_lines(options, ranks, measure(options, ranks), in_memory)
    yield from _disk(options, index_bytes)
    if ranks.set_aside and passages is not None and retriever is not None:
        yield _refresh_disk(options, passages, retriever)


def _has_index(options: Options) -> bool:
    """Whether passages are searched; a dense run may only have its lines name them."""
    trains_dense = options.task.task == DENSE and bool(options.data.train_data)
    return not trains_dense or options.mining.mine_negatives > 0


def run_memory(
    options: Options, ranks: Ranks, measure: Measure = measure_reading
) -> MemoryEstimate:
    """What `plan` says of memory, as numbers.

    Raises:
        GazetteerError: as `plan` does.
    """
    retriever, passages, index = model_sizes(options)[1], _passages(options), 0
    if passages is not None and retriever is not None and _has_index(options):
        codec = _codec(options, passages, retriever.dim)
        index = index_memory(options, ranks, passages, retriever.dim, codec)
    return estimate_memory(options, ranks, measure(options, ranks), index)


def _refresh_disk(options: Options, passages: int, retriever: ModelSize) -> str:
    """What processes set aside write of each version."""
    needed = passages * retriever.dim * 4 + retriever.weights * 4
    folder = options.experiment.folder / REFRESH_FOLDER
    free = shutil.disk_usage(_existing_parent(folder)).free
    if needed > free:
        raise GazetteerError(
            f"--refresh_mode dedicated ({folder}): needs {needed / GIB:.2f} GiB, "
            f"{free / GIB:.2f} GiB are free"
        )
    return f"disk for {folder}: {needed / GIB:.2f} GiB, {free / GIB:.1f} GiB are free"


def _codec(options: Options, passages: int, dim: int) -> Codec | None:
    """The quantiser of a compressed index; None without one."""
    settings = codec_settings(options)
    if settings is None:
        return None
    load_faiss()
    return plan_codec(settings, count=passages, dim=dim)


def _disk(options: Options, index_bytes: int) -> Iterator[str]:
    if options.index.save_index_path:
        folder = Path(options.index.save_index_path)
        free = shutil.disk_usage(_existing_parent(folder)).free
        needed = f"{index_bytes / GIB:.2f} GiB"
        yield f"disk for --save_index_path: {needed}, {free / GIB:.1f} GiB are free"
        if index_bytes > free:
            raise GazetteerError(
                f"--save_index_path ({folder}): needs {needed}, {free / GIB:.2f} GiB are free"
            )


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in (path, *path.resolve().parents) if parent.exists())
