"""The compressor: (query, passage) -> a few vectors for the reader to decode over."""

from gazetteer.compressor.compress import Compressed, Compressor
from gazetteer.compressor.lesson import CompressorLesson, InputsOf
from gazetteer.compressor.saving import load_compressor, save_compressor
from gazetteer.compressor.settings import CompressorSettings

__all__ = [
    "Compressed",
    "Compressor",
    "CompressorLesson",
    "CompressorSettings",
    "InputsOf",
    "load_compressor",
    "save_compressor",
]
