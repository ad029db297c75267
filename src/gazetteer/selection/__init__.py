"""Which passages a query gets: search, filter, re-rank."""

from gazetteer.selection.select import Selector

__all__ = ["Selector"]
