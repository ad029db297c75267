"""Every `python -m ...` and `python FILE` of README, docs and scripts fits its own parser."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "Makefile",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "example_scripts").rglob("*.md")),
    *sorted((ROOT / "example_scripts").rglob("*.sh")),
]
TOOL = re.compile(
    r"python (?P<name>-m (?:gazetteer|benchmarks)[\w.]*|[\w/]+/\w+\.py)"
    r"(?P<words>[^`\n]*)(?P<end>`?)"
)
WITHOUT_PARSER = ("gazetteer.flags_page", "benchmarks.")
"""Programs that read no words, or words of another package's parser."""


class Parsed(BaseException):
    """What a program's parser made of its words; raised in place of doing it."""

    def __init__(self, values: argparse.Namespace) -> None:
        super().__init__()
        self.values = values


def tools(text: str) -> list[tuple[str, list[str] | None]]:
    """(program, words after it) of each call; None for words in the middle of a sentence."""
    found: list[tuple[str, list[str] | None]] = []
    for match in TOOL.finditer(text.replace("\\\n", " ")):
        # Up to a redirection; templates have angle brackets, too.
        words = re.split(r"\s>", match["words"])[0].replace('"$@"', "").replace("...", "")
        # Stand-ins for what the shell would put there: numbers, and else names of files.
        number = r"\$\{?(?:NODES|WORKERS|\w*STEPS|PASSAGES|RATE|BATCH|\w*QUESTIONS)\}?"
        words = re.sub(f'"{number}"|{number}', "7", words)
        words = re.sub(r"\$\([^()]*\)|\$\{?\w+\}?(?:/[\w.-]+)*", "some/name", words)
        name = match["name"].removeprefix("-m ")
        found.append((name, None if match["end"] else shlex.split(words, comments=True)))
    return found


SIZES = ("base", "large", "xl", "xxl")
ATLAS = {
    "preprocessing/prepare_qa.py": ["", "--output_directory ./atlas_data/data/"],
    "preprocessing/prepare_templama.py": [""],
    "preprocessing/prepare_fever.py": [""],
    "preprocessing/prepare_mmlu.py": [""],
    "preprocessing/download_corpus.py": [
        f"--corpus corpora/wiki/enwiki-{date}"
        for date in ("dec2017", "dec2018", "aug2019", "dec2020", "dec2021")
    ],
    "preprocessing/download_model.py": [
        f"--model models/{kind}/{size}" for kind in ("atlas", "atlas_nq") for size in SIZES
    ],
    "preprocessing/download_index.py": [
        f"--index indices/{kind}/wiki/{size}" for kind in ("atlas", "atlas_nq") for size in SIZES
    ],
}
"""What Atlas's README calls, and its flags but for `--output_directory DIR`."""

ALL = [(source.name, *tool) for source in SOURCES for tool in tools(source.read_text())] + [
    ("Atlas", name, ["--output_directory", "./atlas_data", *words.split()])
    for name, lines in ATLAS.items()
    for words in lines
]


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of a program that is run by name or as a file."""
    if not name.endswith(".py"):
        is_package = hasattr(importlib.import_module(name), "__path__")
        return importlib.import_module(f"{name}.__main__" if is_package else name)
    path = ROOT / name
    monkeypatch.syspath_prepend(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("source", "name", "words"), ALL, ids=lambda value: str(value)[:60])
def test_every_documented_tool_parses(
    source: str, name: str, words: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.startswith(WITHOUT_PARSER):
        assert importlib.util.find_spec(name) is not None
        assert not words
        return
    module = load(name, monkeypatch)
    parse_args = argparse.ArgumentParser.parse_args

    def stop_there(self: argparse.ArgumentParser, *args: Any) -> argparse.Namespace:
        raise Parsed(parse_args(self, *args))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_there)
    if words is not None:
        with pytest.raises(Parsed):
            module.main([*words, "train.py"] if name.endswith("submit.py") else words)


def test_tools_are_found() -> None:
    named = {name for _, name, words in ALL if words is not None}
    assert {"gazetteer.index", "gazetteer.convert", "gazetteer.evaluation.mmlu_summary"} <= named
    # Those of Atlas, and at least one of our own.
    assert len({name for name in named if name.startswith("preprocessing/")} - set(ATLAS)) >= 1
