"""Fixtures: seeds, one thread, tiny models, shapes checked in every call; the network is off."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

from tests.support import fault_table, shapes
from tests.support.tiny_models import save_tiny_reader, save_tiny_retriever

# Before any test imports gazetteer: from then on a wrong shape is an error.
install_import_hook("gazetteer", f"{shapes.__name__}.check")

# Other programs share the machine: how long an example takes says nothing.
settings.register_profile("gazetteer", deadline=None)
settings.load_profile("gazetteer")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="all points of the table of faults")
    parser.addoption("--fault-table", type=Path, help="write the table of faults there, as JSON")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    ended = (*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed"))
    rows = fault_table.rows_of(report for report in ended if report.when == "call")
    if not rows:
        return
    terminalreporter.write_line("")
    for line in fault_table.lines(rows):
        terminalreporter.write_line(line)
    if config.getoption("--fault-table"):
        fault_table.write(rows, config.getoption("--fault-table"))


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether to try everything (`make test-cluster`) or a part (`make test`)."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def fault_row(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Add a row to the table of faults: claim, tried, lost, how."""
    begin = time.monotonic()

    def add(claim: str, tried: int, lost: int, how: str) -> None:
        seconds = time.monotonic() - begin
        row = fault_table.Row(claim, tried, lost, how, seconds)
        record_property(fault_table.PROPERTY, asdict(row))

    return add


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """What a program that was called adds to the log writes to streams that end with the test."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 with its tokenizer."""
    return save_tiny_reader(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="session")
def retriever_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer."""
    return save_tiny_retriever(tmp_path_factory.mktemp("retriever"))
