"""`--dry_run`: check what can be checked without working, and say what the run would need.

No weights are loaded, nothing is embedded, no other process is waited for. Figures are estimates.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from gazetteer import build
from gazetteer.build_compressor import count_weights
from gazetteer.build_reader import require_possible
from gazetteer.build_retriever import asked_of_teacher, asked_of_towers
from gazetteer.build_search import REFRESH_FOLDER, codec_settings
from gazetteer.collection_options import searches_collections
from gazetteer.convert.atlas_checkpoint import AtlasCheckpoint
from gazetteer.convert.weights import reader_name, require_fit
from gazetteer.data.corpus import CorpusSize, cached_folder, estimate_passages
from gazetteer.data.examples import ExampleFiles
from gazetteer.data.passages import PASSAGES_FOLDER, stated_facts
from gazetteer.data_files import build_collections, build_task
from gazetteer.errors import CheckpointError, GazetteerError, IndexFileError, LaunchError
from gazetteer.index import read_manifest, shard_range
from gazetteer.index.codec import Codec, plan_codec
from gazetteer.index.faiss_codec import load_faiss
from gazetteer.ir.lines import ON_BAD
from gazetteer.ir.training_formats import read_training_lines
from gazetteer.lead.states import layer_count
from gazetteer.lead.teachers import ranker_on_meta
from gazetteer.options import Options
from gazetteer.reader.causal_loading import model_source
from gazetteer.reader.loading import HUB_NAMES, NOT_LOADABLE, cannot_load, reader_class
from gazetteer.records import Ranks
from gazetteer.retriever.loading import find_source, tower_on_meta
from gazetteer.task_names import DENSE

GIB = 2**30
PROBED_LINES = 1000
FILES = {
    "weights": ("*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer.json", "vocab.txt", "spiece.model", "tokenizer.model", "vocab.json"),
}
"""What a model's folder needs; one of each."""
BYTES_PER_WEIGHT = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Weights of a model, and what its embeddings measure.

    Attributes:
        weights: number of parameters.
        dim: hidden size; of a retriever, length of its embeddings.
    """

    weights: int
    dim: int


def plan(options: Options, ranks: Ranks) -> Iterator[str]:
    """Check paths, formats, models and ports, and describe the run line by line.

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
    reader, retriever, compressor = _sizes(options)
    teacher = _teacher_size(options)
    if options.index.load_index_path and retriever is not None:
        _check_index(options, retriever.dim)
    models = {
        "reader": reader, "retriever": retriever, "compressor": compressor, "teacher": teacher
    }  # fmt: skip
    for name, size in models.items():
        if size is not None:
            yield f"{name}: {size.weights / 1e6:.1f} M weights"
    yield from _needs(options, ranks, passages, models)


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


def _sizes(options: Options) -> tuple[ModelSize | None, ModelSize | None, ModelSize | None]:
    """Reader, retriever and compressor; None for what the run does without."""
    checkpoint = build.model_folder(options)
    atlas = build.open_atlas(options, checkpoint)
    reader = retriever = compressor = None
    if not options.retriever.retrieve_only and options.task.task != DENSE:
        name = options.reader.reader_model_type or ""
        if atlas is not None:
            name, checkpoint = reader_name(atlas, options.reader.reader_model_type), None
        source = str(checkpoint / build.READER_FOLDER) if checkpoint else HUB_NAMES.get(name, name)
        require_possible(options, source)
        config = _reader_config(source)
        reader = _reader_size(source, config, atlas)
        counted = count_weights(options, checkpoint, config)
        if counted is not None:
            for part in FILES:
                _check_files(
                    Path(options.compressor.compressor_model_path or ""), "compressor", part=part
                )
            compressor = ModelSize(counted, reader.dim)
    if not options.data.use_file_passages:
        retriever = _retriever_size(_retriever_source(options, checkpoint), options, atlas)
    return reader, retriever, compressor


def _retriever_source(options: Options, checkpoint: Path | None) -> str:
    saved = checkpoint / build.RETRIEVER_FOLDER if checkpoint else None
    is_saved = saved is not None and saved.is_dir()
    return str(saved) if is_saved else options.retriever.retriever_model_path


def _teacher_size(options: Options) -> ModelSize | None:
    """Count a teacher's weights; it needs as many layers as are compared, as the student does."""
    lead, name = options.lead, options.lead.teacher
    if name is None:
        return None
    if lead.teacher_kind == "de":
        teacher = tower_on_meta(name, asked_of_teacher(options, name)).model
        _check_towers(name, "teacher")
    else:
        teacher = _ranker(name, "teacher")
    student = _retriever_source(options, build.model_folder(options))
    layers = (tower_on_meta(student, asked_of_towers(options)).model, teacher)
    build.build_chooser(
        options, "distill_layer_num", lead.distill_layer_num, *map(layer_count, layers)
    )
    return _counted(teacher, teacher.config.hidden_size, "teacher", teacher, None)


def _ranker(name: str, what: str) -> PreTrainedModel:
    """The transformer of a late-interaction model or a cross-encoder, without weights."""
    model = ranker_on_meta(name)
    for part in FILES:
        _check_files(Path(name), what, part=part)
    return model


def _check_files(folder: Path, what: str, *, part: str) -> None:
    """Refuse a model's folder without weights or tokenizer; a name of the hub is no folder."""
    patterns = FILES[part]
    if folder.is_dir() and not any(next(folder.glob(pattern), None) for pattern in patterns):
        raise CheckpointError(
            f"{what} '{folder}' cannot be loaded: no {part} there ({', '.join(patterns)})"
        )


def _reader_config(source: str) -> Any:  # noqa: ANN401 - each type of model has its own
    try:
        folder, file = model_source(source)
        config = AutoConfig.from_pretrained(folder, **file)
        reader_class(config)
        return config
    except NOT_LOADABLE as error:
        raise cannot_load("reader", source, error) from None


def _reader_size(source: str, config: Any, atlas: AtlasCheckpoint | None) -> ModelSize:  # noqa: ANN401
    """Count the reader's weights; those of Atlas's checkpoint have to fit it."""
    _, file = model_source(source)
    kind: Any = reader_class(config)
    for part in () if file else FILES:
        _check_files(Path(source), "reader", part=part)
    with torch.device("meta"):
        model = kind(config) if kind else AutoModelForCausalLM.from_config(config)
    return _counted(model, int(config.hidden_size), "reader", model, atlas)


def _retriever_size(name: str, options: Options, atlas: AtlasCheckpoint | None) -> ModelSize:
    """Count a tower's weights; those of Atlas's checkpoint have to fit it."""
    if options.lead.retriever_kind != "de":
        model = _ranker(name, "retriever")
        return _counted(model, model.config.hidden_size, "retriever", model, None)
    tower = tower_on_meta(name, asked_of_towers(options))
    _check_towers(name, "retriever")
    return _counted(tower, tower.embedding_dim, "retriever", tower.model, atlas)


def _check_towers(name: str, what: str) -> None:
    source = find_source(name)
    for folder in source.towers:
        _check_files(Path(folder), what, part="weights")
    _check_files(Path(source.tokenizer), what, part="tokenizer")


def _counted(
    whole: nn.Module, dim: int, what: str, model: nn.Module, atlas: AtlasCheckpoint | None
) -> ModelSize:
    if atlas is not None:
        for part in atlas.parts:
            if part.split(".")[0] == what:
                require_fit(atlas, part, model)
    return ModelSize(sum(p.numel() for p in whole.parameters()), dim)


def _needs(
    options: Options,
    ranks: Ranks,
    passages: int | None,
    models: Mapping[str, ModelSize | None],
) -> Iterator[str]:
    """Memory of one worker without activations, and disk."""
    trains, retriever = bool(options.data.train_data), models["retriever"]
    is_trained = {
        "reader": trains,
        "compressor": trains,
        "retriever": trains and options.retriever.train_retriever,
        "teacher": options.lead.train_teacher,
    }
    held = 0.0
    for name, size in models.items():
        if size is not None:
            held += size.weights * _bytes_per_weight(options, is_trained[name])
    index_bytes = 0
    if passages is not None and retriever is not None:
        index_bytes = passages * retriever.dim * 4
        rows = len(shard_range(passages, 0, ranks.world_size)) + 1
        shard_bytes = rows * retriever.dim * 4
        codec = _codec(options, passages, retriever.dim)
        if codec is not None:
            yield f"vectors: {shard_bytes / GIB:.2f} GiB per worker on the disk of --cache_dir"
            index_bytes, shard_bytes = passages * codec.row_bytes, rows * codec.row_bytes
        yield f"index: {index_bytes / GIB:.2f} GiB in all, {shard_bytes / GIB:.2f} GiB per worker"
        # What is saved is vectors, and codes if there are any.
        index_bytes += passages * retriever.dim * 4 if codec is not None else 0
        held += shard_bytes
    yield f"memory per worker, activations aside: {held / GIB:.2f} GiB of {_memory(ranks):.1f} GiB"
    yield from _disk(options, index_bytes)
    if ranks.set_aside and passages is not None and retriever is not None:
        yield _refresh_disk(options, passages, retriever)


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


def _bytes_per_weight(options: Options, is_trained: bool) -> int:
    """Weight, and in training gradient, two moments and, below float32, a master copy."""
    size = BYTES_PER_WEIGHT[options.optimisation.precision]
    return size if not is_trained else 2 * size + 8 + (4 if size < 4 else 0)


def _memory(ranks: Ranks) -> float:
    if ranks.device.type == "cuda":
        return torch.cuda.get_device_properties(ranks.device).total_memory / GIB
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages / GIB / ranks.local_world_size


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
