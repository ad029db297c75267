"""Packages that only some uses need, imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gazetteer.errors import OptionError


def import_optional(module: str, needed: str) -> Any:  # noqa: ANN401 - a module
    """Import a package of the extra `dense`.

    Args:
        module: its name in Python.
        needed: who needs what, such as "BM25 needs bm25s".

    Raises:
        OptionError: it is not installed; `needed`, and how to install it.
    """
    try:
        return import_module(module)
    except ImportError:
        raise OptionError(f"{needed}: pip install gazetteer[dense]") from None
