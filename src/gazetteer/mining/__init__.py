"""Negatives: where they come from, which of them are left out and why, and how many."""
