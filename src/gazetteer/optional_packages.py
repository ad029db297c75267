"""Packages that only some uses need, imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from gazetteer.errors import OptionError


def import_optional(module: str, needed: str, install: str = "gazetteer[dense]") -> Any:  # noqa: ANN401
    """Import a package that is not always installed.

    Args:
        module: its name in Python.
        needed: who needs what, such as "BM25 needs bm25s".
        install: what pip is to install.

    Raises:
        OptionError: it is not installed; `needed`, and how to install it.
    """
    try:
        return import_module(module)
    except ImportError:
        raise OptionError(f"{needed}: pip install {install}") from None
