"""Corpora and queries as OpenMatch's flags describe them: columns, names of ids, templates."""

from __future__ import annotations

import argparse
from pathlib import Path

from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.passage_rows import IDS_OF_OTHERS, SourceFormat
from gazetteer.data.passages import PassageStore
from gazetteer.dense.commands import SeedParser, names
from gazetteer.distributed.agreement import build_main_first
from gazetteer.errors import OptionError
from gazetteer.paths import default_cache_folder
from gazetteer.records import Ranks

TABULAR = (".tsv", ".txt")


def add_text_flags(parser: SeedParser, kind: str) -> None:
    """`--doc_template`, `--doc_column_names`, or the same for queries.

    Args:
        parser: gets the flags.
        kind: "doc" or "query".
    """
    parser.add_argument(f"--{kind}_template", help='fields in angle brackets, as "<text>"')
    parser.add_argument(
        f"--{kind}_column_names", type=names, help="of a .tsv or .txt, as id,title,text"
    )


def add_reading_flags(parser: SeedParser) -> None:
    """What corpora and queries have in common."""
    parser.add_argument("--id_key_name", default="id", help="the field that is the id")
    parser.add_argument("--all_markers", type=names, help="the only fields templates may name")
    parser.add_argument("--data_cache_dir", type=Path, help="for prepared texts")
    parser.add_argument("--no_progress", action="store_true", help="draw no bars")


def template_of(text: str, values: argparse.Namespace) -> MarkedTemplate:
    """A template of the command line."""
    return MarkedTemplate.parse_marked(text, values.all_markers)


def open_texts(
    path: Path,
    kind: str,
    template: MarkedTemplate,
    values: argparse.Namespace,
    ranks: Ranks,
) -> PassageStore:
    """The texts of `--corpus_path` or `--query_path`.

    Collective: every rank must call this.

    Raises:
        GazetteerError: they cannot be read, the same error on every rank.
    """
    flag = "--corpus_path" if kind == "doc" else "--query_path"
    columns = getattr(values, f"{kind}_column_names") or ()
    ids = tuple(dict.fromkeys((values.id_key_name, *IDS_OF_OTHERS)))
    needs_text = template.names("text")

    def build() -> PassageStore:
        is_tabular = path.name.lower().removesuffix(".gz").endswith(TABULAR)
        if is_tabular and not columns:
            raise OptionError(f"{path} needs --{kind}_column_names, such as id,text ({flag})")
        if is_tabular and not set(ids) & set(columns):
            raise OptionError(
                f"--{kind}_column_names {','.join(columns)} must name '{values.id_key_name}' "
                "(--id_key_name)"
            )
        if is_tabular and needs_text and "text" not in columns:
            raise OptionError(
                f"--{kind}_column_names {','.join(columns)} must name 'text', which the template "
                "has"
            )
        return cached_passage_store(
            [path],
            values.data_cache_dir or default_cache_folder(),
            form=SourceFormat(flag, columns, ids, needs_text),
            show_progress=ranks.is_main and not values.no_progress,
        )

    return build_main_first(build, ranks)
