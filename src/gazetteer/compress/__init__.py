"""Offline data and training of the compressor: the commands of ScaleDown's two guides.

Queries -> retrieval -> reranking -> a teacher's answers -> records, which training reads.
"""
