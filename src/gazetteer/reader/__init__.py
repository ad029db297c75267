"""The readers: fusion in the decoder and decoder-only, their signals for the retriever, answers."""

from gazetteer.reader.base import GenerationSettings, Reader
from gazetteer.reader.causal import CausalReader
from gazetteer.reader.fusion import FusionReader
from gazetteer.reader.generate import decode_answers, generate
from gazetteer.reader.loading import load_reader, save_reader
from gazetteer.reader.states import EncodedPassages, FusedStates

__all__ = [
    "CausalReader",
    "EncodedPassages",
    "FusedStates",
    "FusionReader",
    "GenerationSettings",
    "Reader",
    "decode_answers",
    "generate",
    "load_reader",
    "save_reader",
]
