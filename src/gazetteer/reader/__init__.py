"""The reader: fusion in the decoder, its signals for the retriever, and generation."""

from gazetteer.reader.fusion import EncodedPassages, FusedStates, FusionReader
from gazetteer.reader.generate import GenerationSettings, decode_answers, generate
from gazetteer.reader.loading import load_reader, save_reader

__all__ = [
    "EncodedPassages",
    "FusedStates",
    "FusionReader",
    "GenerationSettings",
    "decode_answers",
    "generate",
    "load_reader",
    "save_reader",
]
