"""The model card of a tower: what it is, how to use it, what it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub import try_to_load_from_cache

from gazetteer.export.trained import Trained
from gazetteer.flags import all_flags, flat_values
from gazetteer.options import Options
from gazetteer.paths import path_kind
from gazetteer.retriever.encoder import TextEncoder
from gazetteer.task_names import DENSE

Role = Literal["both", "query", "passage"]
EMBEDDED = {"both": "queries and passages", "query": "queries", "passage": "passages"}
LEFT_OUT = {"config", "checkpoint_dir", "name", "cache_dir", "model_path", "retriever_model_path"}
"""Flags about a machine, and those said elsewhere."""
FRONT = "---\n"


def model_card(trained: Trained, tower: TextEncoder, role: Role, title: str) -> str:
    """A README with the fields that model hubs read.

    Args:
        trained: the retriever.
        tower: the one the card is about.
        role: what it embeds.
        title: of the card.

    Returns:
        Markdown. Of paths only the last part is told.
    """
    base = trained.options.retriever.retriever_model_path if trained.options else None
    front: dict[str, object] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "dense-retrieval", "gazetteer"],
    }
    if base is not None:
        licence = base_licence(base)
        front |= {} if licence is None else {"license": licence}
        front |= {"base_model": base} if path_kind(base) == "nothing" else {}
    parts = [
        f"{FRONT}{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {title}",
        _summary(tower, role),
        _usage(trained, tower, role),
    ]
    if trained.options is not None:
        parts.append(_training(trained, trained.options))
    if trained.metrics:
        rows = [f"| {name} | {value:.4g} |" for name, value in sorted(trained.metrics.items())]
        parts.append("\n".join(["## Evaluation", "", "| measure | value |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def base_licence(base: str) -> str | None:
    """The licence on a model's own card: in its folder, or among the files of the hub kept here."""
    folder = path_kind(base) == "folder"
    try:
        path = Path(base) / "README.md" if folder else try_to_load_from_cache(base, "README.md")
        text = Path(path).read_text(encoding="utf-8") if isinstance(path, str | Path) else ""
        front = yaml.safe_load(text.split(FRONT)[1]) if text.startswith(FRONT) else {}
        found = front.get("license")
    except (OSError, ValueError, AttributeError, IndexError, yaml.YAMLError):
        return None
    return found if isinstance(found, str) else None


def _summary(tower: TextEncoder, role: Role) -> str:
    kind, config = type(tower.model).__name__, tower.model.config
    steps = [f"{kind} ({config.num_hidden_layers} layers)", f"pooling {tower.pooling}"]
    if tower.head is not None:
        steps.append(f"linear head {tower.head.in_features} x {tower.head.out_features}")
    steps += ["normalised to length 1"] if tower.normalize else []
    return (
        f"Embeds {EMBEDDED[role]} as {tower.embedding_dim} numbers, to be compared by their dot "
        f"product: {', '.join(steps)}. Trained with gazetteer."
    )


def _usage(trained: Trained, tower: TextEncoder, role: Role) -> str:
    query, passage = "query = SentenceTransformer(FOLDER)", "passage = query"
    if role != "both":
        query, passage = (f'{r} = SentenceTransformer("{r}")' for r in ("query", "passage"))
    else:
        query = 'query = SentenceTransformer("FOLDER")'
    lines = [
        "## Use",
        "",
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        query,
        passage,
        'scores = query.encode(["a question"]) @ passage.encode(["a passage"]).T',
        "```",
    ]
    if trained.options is not None:
        for what, template in _templates(trained.options).items():
            lines += ["", f"In training a {what} was written as `{template}`."]
    return "\n".join(lines)


def _templates(options: Options) -> dict[str, str]:
    """How texts were put together, where that is more than the text itself."""
    passage, query = options.reader.retriever_format, None
    if options.task.task == DENSE:
        passage, query = options.dense.doc_template or passage, options.dense.query_template
    found = {"passage": passage, "query": query}
    return {what: template for what, template in found.items() if template}


def _training(trained: Trained, options: Options) -> str:
    data = ", ".join(Path(path).name for path in options.data.train_data)
    loss = options.retriever.gold_score_mode
    if options.task.task == DENSE:
        loss = f"{options.dense.dense_loss}, temperature {options.dense.dense_temperature}"
    base = options.retriever.retriever_model_path
    rows = {
        "base model": base if path_kind(base) == "nothing" else Path(base).resolve().name,
        "task": options.task.task,
        "training data": data,
        "loss": loss,
        "steps": trained.step,
    }
    flags = all_flags(Options)
    changed = {
        name: _shown(value)
        for name, value in flat_values(options).items()
        if value != flags[name].default and name not in LEFT_OUT
    }
    lines = ["## Training", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value]
    lines += ["", "Options that differ from their defaults:", "", "| flag | value |", "|---|---|"]
    lines += [f"| `--{name}` | {_cell(value)} |" for name, value in sorted(changed.items())]
    return "\n".join(lines)


def _shown(value: object) -> object:
    """A value without folders of the machine it was given on."""
    if isinstance(value, list):
        return " ".join(str(_shown(each)) for each in value)
    if isinstance(value, str) and value.startswith((".", "/", "~")):
        return Path(value).name
    return value


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
