"""Checkpoints of Atlas: read without unpickling them, started from, converted, and written."""
