"""Write an encoder that has only the first layers of another one.

    python example_scripts/studies/first_layers.py --model FOLDER --layers 2 --output FOLDER

What it was trained to do above them is lost; what is left is a small encoder to train.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoTokenizer

from gazetteer.errors import OptionError
from gazetteer.one_line_errors import exit_code


def write_first_layers(model: str, layers: int, output: Path) -> None:
    """Weights, config and tokenizer; nothing about pooling, which is the trainer's to say.

    Raises:
        OptionError: there is no such model, or it has fewer layers.
    """
    try:
        there = AutoConfig.from_pretrained(model).num_hidden_layers
        if not 1 <= layers <= there:
            raise OptionError(f"--layers ({layers}) must be from 1 to {there}, those of {model}")
        encoder = AutoModel.from_pretrained(
            model, num_hidden_layers=layers, add_pooling_layer=False
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise OptionError(f"--model ({model}): {str(error).splitlines()[0]}") from None
    encoder.save_pretrained(output)
    tokenizer.save_pretrained(output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="hub name or folder")
    parser.add_argument("--layers", type=int, required=True, help="to keep, from the first")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    return exit_code(
        "first_layers", lambda: write_first_layers(options.model, options.layers, options.output)
    )


if __name__ == "__main__":
    sys.exit(main())
