"""Evaluation: retrieve, read, score, write; on any number of workers."""
