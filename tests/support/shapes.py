"""The checker behind shape annotations in tests: wrong shapes and dtypes raise in every call.

Other annotations are pyright's business; so tests may pass stand-ins for models and indexes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and results whose annotations speak of shapes, and no others."""
    hints = function.__annotations__
    shapes = {name: hint for name, hint in hints.items() if _speaks_of_shapes(hint)}
    if not shapes:
        return function
    function.__annotations__ = dict.fromkeys(hints, Any) | shapes
    return beartype(function)


def _speaks_of_shapes(hint: Any) -> bool:
    is_shape = isinstance(hint, type) and issubclass(hint, AbstractArray)
    return is_shape or any(_speaks_of_shapes(part) for part in get_args(hint))
