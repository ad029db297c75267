"""What a run that starts from Atlas's checkpoint says in its log."""

from __future__ import annotations

from collections.abc import Iterator

from gazetteer.convert.atlas_checkpoint import PARTS, QUERY, AtlasCheckpoint
from gazetteer.flags import flags_of
from gazetteer.option_overrides import GOLD_SCORE_ALIASES
from gazetteer.options import Options
from gazetteer.reader_names import full_reader_name

ABOUT_THE_RUN = {"retriever_model_path", "train_retriever", "retrieve_only"}
"""Where a run starts and what it does, not what its models were trained with."""
SHOWN_CHARACTERS = 80


def describe_atlas(atlas: AtlasCheckpoint, options: Options) -> Iterator[str]:
    """One line for what is taken, one for what is not, one for options that differ."""
    parts = ", ".join(f"{part}.*" for part in PARTS if part in atlas.parts)
    yield f"{atlas.path}: Atlas's checkpoint of step {atlas.step}, weights taken: {parts}"
    if not atlas.has_retriever:
        yield "no retriever in it: one that is needed comes from --retriever_model_path"
    elif QUERY in atlas.parts:
        yield "query and passage towers are separate in it, and stay so"
    left = "step and optimiser state" if atlas.has_optimisers else "step"
    yield f"{left} not taken: as in Atlas, --model_path begins at step 0 with fresh optimisers"
    differing = [
        f"--{name} {_shown(noted)}, now {_shown(used)}"
        for name, noted, used in different_options(atlas, options)
    ]
    if differing:
        yield f"options it was trained with that differ: {'; '.join(differing)}"


def different_options(
    atlas: AtlasCheckpoint, options: Options
) -> Iterator[tuple[str, object, object]]:
    """Name, Atlas's value and the one in use, of options that say how models read and learn."""
    for group in (options.task, options.retriever, options.reader, options.generation):
        for flag in flags_of(type(group)):
            name, used = flag.name, getattr(group, flag.name)
            if name in ABOUT_THE_RUN or name not in atlas.options:
                continue
            noted = _resolved(name, atlas.options[name])
            is_left_open = name == "reader_model_type" and used is None
            if noted != used and not is_left_open:
                yield name, noted, used


def _resolved(name: str, value: object) -> object:
    """As our own options spell it."""
    if name == "gold_score_mode" and isinstance(value, str):
        return GOLD_SCORE_ALIASES.get(value, value)
    if name == "reader_model_type" and isinstance(value, str):
        return full_reader_name(value)
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
