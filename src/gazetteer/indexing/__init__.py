"""Filling the index from the corpus, and keeping it as fresh as the schedule asks."""

from gazetteer.indexing.files import IndexFiles
from gazetteer.indexing.keeper import IndexKeeper, RefreshPlan
from gazetteer.indexing.staleness import StalenessMeter

__all__ = ["IndexFiles", "IndexKeeper", "RefreshPlan", "StalenessMeter"]
