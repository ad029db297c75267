"""The type checker behind shape annotations in tests."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Checks arguments and results on every call; an int passes for a float, as everywhere else."""
