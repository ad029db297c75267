"""Read a `--config` file, YAML or JSON, into one flat mapping. What keys mean is not known here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from gazetteer.errors import OptionError

_INT, _FLOAT, _TIMESTAMP = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp"))


class _ConfigLoader(yaml.SafeLoader):
    """SafeLoader that reads numbers as people write them and refuses a key given twice.

    YAML 1.1 takes `4e-5` for text, `010` for 8, `1:30` for 90 and `2024-01-01` for a date.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {  # pyright: ignore
        first: [(tag, pattern) for tag, pattern in rules if tag not in (_INT, _FLOAT, _TIMESTAMP)]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build the mapping, unless two of its keys are spelled alike."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"key '{key.value}' is given twice, expected once"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_ConfigLoader.add_implicit_resolver(
    _INT, re.compile(r"[-+]?(0|[1-9][0-9]*)$", re.ASCII), list("-+0123456789")
)
_ConfigLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|nan))$",
        re.ASCII,
    ),
    list("-+.0123456789"),
)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a mapping from flag name to value; `.json` files as JSON, all others as YAML.

    An empty file is an empty mapping.

    Raises:
        OptionError: the file is missing, unreadable, not well formed, not a mapping, or gives a
            key twice; the message names file, line where known, and what was expected.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise OptionError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OptionError(
            f"{path}: byte {error.start} is not UTF-8, expected a text file"
        ) from error
    is_json = Path(path).suffix.lower() == ".json"
    found = _parse_json(text, path) if is_json else _parse_yaml(text, path)
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise OptionError(f"{path}: found {kind}, expected a mapping from flag name to value")
    return found


def _parse_yaml(text: str, path: str | Path) -> object:
    try:
        found = yaml.load(text, Loader=_ConfigLoader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f" line {mark.line + 1}:" if mark else ""
        reason = problem or str(error).splitlines()[0]
        raise OptionError(
            f"{path}:{line} {reason} (expected YAML, one `flag: value` a line)"
        ) from error
    return {} if found is None else found


def _parse_json(text: str, path: str | Path) -> object:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise OptionError(f"{path}: key '{key}' is given twice, expected once")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=unique) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise OptionError(f"{path}: line {error.lineno}: {error.msg} (expected JSON)") from error
