"""Every command in the README and the example scripts is understood by the real parser."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from gazetteer.options import build_parser

ROOT = Path(__file__).resolve().parents[2]
# The other scripts are run, with a launcher that only prints: test_example_scripts.py.
SOURCES = [ROOT / "README.md", *sorted((ROOT / "example_scripts" / "factbook").glob("*.sh"))]
ARRAY = re.compile(r"^(\w+)=\((.*?)\)", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(program, words after it) of each call of train.py or evaluate.py."""
    joined = text.replace("\\\n", " ")
    arrays = {name: words.replace("\n", " ") for name, words in ARRAY.findall(joined)}
    found = []
    for line in joined.split("\n"):
        match = re.search(r"\b(train|evaluate)\.py\s+((?:--|\"\$).*)", line.strip().strip("`"))
        if match is None or line.lstrip().startswith("#"):
            continue
        # Within a sentence a command ends with its quotation.
        quoted = match[2].partition("`")[0]
        words = re.sub(r'"\$\{(\w+)\[@\]\}"', lambda m: arrays[m[1]], quoted).replace("...", "")
        words = words.replace('"$@"', "").split("; }")[0]
        # Stand-ins for what the shell would put there: numbers, and else names of models or files.
        words = re.sub(
            r"\$\{?(\w*STEPS|N_CONTEXT|PASSAGES|WORKERS|BATCH|RATE|\w*QUESTIONS)\}?", "7", words
        )
        words = re.sub(r"\$\([^()]*\)|\$\{?\w+\}?(?:/[\w.-]+)*", "some/name", words)
        found.append((match[1], shlex.split(words, comments=True)))
    return found


ALL = [(source.name, *command) for source in SOURCES for command in commands(source.read_text())]


@pytest.mark.parametrize(("source", "program", "words"), ALL, ids=lambda value: str(value)[:40])
def test_every_documented_command_parses(source: str, program: str, words: list[str]) -> None:
    values = build_parser(program).parse_args(words)  # type: ignore[arg-type]
    assert values.task in ("qa", "dense") or values.retrieve_only


def test_commands_are_found() -> None:
    names = [name for name, _, _ in ALL]
    assert names.count("README.md") >= 6
    assert names.count("demo.sh") >= 6
