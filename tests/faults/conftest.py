"""Every test here is a part of the table of faults, and takes as long as its points."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.saved_run import SavedRun
from tests.support.runs import make_world

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory: pytest.TempPathFactory) -> SavedRun:
    """With reader, retriever, two optimisers and an index of other weights."""
    world = make_world(tmp_path_factory.mktemp("saved-run"))
    return SavedRun(world, train_retriever=True, refresh_index="3")
