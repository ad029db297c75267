"""What a compressor saves of a T5 fusion reader's work: FLOPs and bytes, counted, not timed.

One query, 20 passages of 200 tokens, an answer of 16 tokens, forward passes. Nothing is computed:
the tensors have shapes only, and torch counts. So it takes seconds, whatever the model.

    python -m benchmarks.compression_cost [--size small|base|large]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.measure import RESULTS

PASSAGES, TOKENS, ANSWER = 20, 200, 16
VECTORS = (200, 50, 16, 8, 2)
"""Of a passage; the first are all its tokens: the plain fusion reader."""
SIZES = {
    "small": {"d_model": 512, "d_ff": 1024, "num_layers": 8, "num_heads": 6},
    "base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "large": {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
}
"""T5 v1.1."""


def config_of(size: str, layers: int | None = None) -> Any:  # noqa: ANN401 - a T5Config
    """A size of T5 v1.1, with so many layers in its encoder."""
    values: dict[str, Any] = {**SIZES[size], "num_decoder_layers": SIZES[size]["num_layers"]}
    values |= {"vocab_size": 32128, "d_kv": 64, "feed_forward_proj": "gated-gelu"}
    values |= {"tie_word_embeddings": False, "decoder_start_token_id": 0}
    config: Any = T5Config(**values)
    config.num_layers = layers or config.num_layers
    config._attn_implementation = "eager"
    return config


def flops(work: Callable[[], object]) -> int:
    """What torch counts."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def encoding(size: str, layers: int) -> int:
    """FLOPs of that many layers over every passage."""
    model = T5EncoderModel(config_of(size, layers))
    ids = torch.zeros(PASSAGES, TOKENS, dtype=torch.long)
    return flops(lambda: model(input_ids=ids))


def decoding(size: str, sequences: int, context: int) -> int:
    """FLOPs of the decoder, teacher forced, over contexts of that many vectors."""
    model = T5ForConditionalGeneration(config_of(size))
    states = torch.zeros(sequences, context, model.config.d_model)
    ids = torch.zeros(sequences, ANSWER, dtype=torch.long)
    return flops(
        lambda: model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),  # type: ignore[arg-type]
            decoder_input_ids=ids,
            use_cache=False,
        )
    )


def table_row(name: str, cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join([name, *cells]) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    size = parser.parse_args(arguments).size
    config = config_of(size)
    layers = config.num_layers
    with torch.device("meta"):
        depths = (layers, -(-layers // 2), -(-layers // 4))
        encoders = {depth: encoding(size, depth) / 1e9 for depth in depths}
        decoders = {m: decoding(size, 1, PASSAGES * m) / 1e9 for m in VECTORS}
        scorings = {m: decoding(size, PASSAGES, m) / 1e9 for m in VECTORS}
    full = encoders[layers] + decoders[TOKENS]
    print(f"T5 v1.1 {size}: GFLOPs of a forward pass, {PASSAGES} passages of {TOKENS} tokens\n")
    keys = {
        m: 2 * config.num_decoder_layers * config.num_heads * config.d_kv * PASSAGES * m * 2 / 1e6
        for m in VECTORS
    }
    print(table_row("vectors of a passage", [str(m) for m in VECTORS]))
    print(table_row("---", ["---:"] * len(VECTORS)))
    counted = {
        "decoder": decoders,
        "scoring each passage alone": scorings,
        "cross-attention K/V, bf16 MB": keys,
    }
    for name, numbers in counted.items():
        print(table_row(name, [f"{numbers[m]:.1f}" for m in VECTORS]))
    for depth, cost in encoders.items():
        totals = [cost + decoders[m] for m in VECTORS]
        cells = [f"{total:.1f} ({full / total:.2f}x)" for total in totals]
        print(table_row(f"{depth} of {layers} encoder layers ({cost:.1f}) and decoder", cells))
    print(f"\nThe encoder is {encoders[layers] / full:.0%} of the plain reader.")
    RESULTS.mkdir(exist_ok=True)
    document = {"encoder": encoders, "decoder": decoders, "scoring": scorings, "kv_mb": keys}
    (RESULTS / f"compression_cost_{size}.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
