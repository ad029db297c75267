"""Benchmarks run rarely: at least what they import must be there."""

import importlib
import pkgutil

import pytest

import benchmarks


@pytest.mark.parametrize(
    "name", sorted(each.name for each in pkgutil.iter_modules(benchmarks.__path__))
)
def test_every_benchmark_finds_what_it_imports(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
