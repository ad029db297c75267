"""Test collections as data: corpora, queries, judgements, runs, training files, measures."""
