"""Scale T5's weights so that float16 does not overflow, without changing what it computes.

T5 normalises what it reads from its residual stream, never the stream, which outgrows float16. Here
all that writes to the stream is divided by 128, and so is the stream: a power of two, so that no
bit of what is read changes. What was written is compared with the original before it is shown.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoTokenizer,
    T5Config,
)

from gazetteer.errors import CheckpointError, OptionError
from gazetteer.files import replace_json
from gazetteer.index.conversion import appearing_folder
from gazetteer.one_line_errors import exit_code
from gazetteer.retriever.loading import is_t5

logger = logging.getLogger(__name__)

STREAM, INNER = 128, 8
"""What the residual stream and the inner layer of a feed-forward are divided by. OpenMatch has 100
and 10, which round."""
LARGEST_ERROR = 1e-5
"""Of an output, relative to its largest number."""
HEAD = "lm_head.weight"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, scale, and say what is wrong in one line.

    Returns:
        The exit code.
    """
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)

    def work() -> None:
        scale_t5(parsed.input_model_path, parsed.output_model_path, parsed.num_layers)

    return exit_code("scale_t5_weights: error", work)


def build_parser() -> argparse.ArgumentParser:
    """The command line: OpenMatch's."""
    parser = argparse.ArgumentParser(
        prog="python -m gazetteer.dense.scale_t5_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--input_model_path", required=True, help="hub name or folder of a T5")
    parser.add_argument(
        "--output_model_path", required=True, type=Path, help="folder, new or empty"
    )
    parser.add_argument("--num_layers", type=int, help="checked against the model's [its own]")
    return parser


def scale_t5(source: str, target: Path, num_layers: int | None = None) -> float:
    """Write a scaled T5 that computes the same.

    Args:
        source: hub name or folder of a T5 (mT5, umT5), whole, without head, or encoder alone.
        target: folder; new or empty.
        num_layers: of encoder and decoder; None = whatever they have.

    Returns:
        The largest error of an output, relative to its largest number, in float32.

    Raises:
        OptionError: a flag is wrong.
        CheckpointError: there is no T5, or it would not compute the same; nothing is written then.
        IndexFileError: the target cannot be made.
    """
    if target.is_dir() and any(target.iterdir()):
        raise OptionError(f"--output_model_path ({target}) must be empty: it is not overwritten")
    model = _load(source, dtype="auto")
    _check_layers(model.config, num_layers)
    before = _outputs(_load(source, dtype=torch.float32))
    scale_in_place(model)
    if target.is_dir():
        target.rmdir()
    with appearing_folder(target) as partial:
        _save(model, source, partial)
        del model
        after = _outputs(_load(str(partial), dtype=torch.float32))
        error = max(map(_relative_error, before.results, after.results))
        if not error < LARGEST_ERROR:
            raise CheckpointError(
                f"{source}: scaled, it would not compute the same: outputs differ by {error:.1e} "
                f"of their largest number, allowed are {LARGEST_ERROR:.0e}; nothing was written"
            )
    logger.info("largest number in the residual stream: %.4g -> %.4g", before.stream, after.stream)
    logger.info("outputs differ by %.1e of their largest number, in float32", error)
    logger.info("written: %s", target)
    return error


@torch.no_grad()
def scale_in_place(model: Any) -> None:  # noqa: ANN401 - each has its own class
    """Divide what writes to the residual stream; the head keeps its function.

    A head that shares the embeddings is separated from them. Those of T5 v1.0 divide their input by
    a root: that goes into the weights, so that transformers 4, which does it to shared heads only,
    computes the same.
    """
    config = model.config
    head, shared = getattr(model, "lm_head", None), model.get_input_embeddings()
    if isinstance(head, nn.Linear) and head.weight is shared.weight:
        weight = shared.weight.detach().clone()
        if isinstance(config, T5Config) and config.scale_decoder_outputs:
            weight = (weight.float() * config.d_model**-0.5).to(weight.dtype)
            config.scale_decoder_outputs = False
        head.weight = nn.Parameter(weight)
        model.all_tied_weights_keys.pop(HEAD, None)
    # Dividing before a function divides its result if that is a ReLU; in a gated layer, one of the
    # two factors is divided.
    can_divide_inner = config.is_gated_act or config.dense_act_fn == "relu"
    for name, parameter in model.named_parameters():
        parameter.div_(_divisor(name, INNER if can_divide_inner else 1))
    config.layer_norm_epsilon = config.layer_norm_epsilon / STREAM**2


def _divisor(name: str, inner: int) -> int:
    """What a parameter is divided by."""
    layer = name.split(".")[-2]
    if layer in ("shared", "embed_tokens", "o"):
        return STREAM
    if layer in ("wi", "wi_1"):
        return inner
    return STREAM // inner if layer == "wo" else 1


def _load(source: str, dtype: torch.dtype | str) -> Any:  # noqa: ANN401 - each has its own class
    """The model, in evaluation mode.

    Raises:
        CheckpointError: there is none, or it is no T5, or lacks weights.
    """
    try:
        config = AutoConfig.from_pretrained(source)
        if not is_t5(config):
            raise ValueError(f"it is a {config.model_type}, expected a t5 (--input_model_path)")
        kind = _model_class(config)
        model, keys = kind.from_pretrained(
            source, dtype=dtype, attn_implementation="eager", output_loading_info=True
        )
        if keys["missing_keys"]:
            raise ValueError(f"it lacks {min(keys['missing_keys'])}")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"'{source}' cannot be loaded: {reason}") from None
    return model.eval()


def _model_class(config: Any) -> Any:  # noqa: ANN401
    """What was saved: an encoder, encoder and decoder, or (if nothing is said) those and a head."""
    saved = (getattr(config, "architectures", None) or [""])[0]
    if saved.endswith("EncoderModel"):
        return MODEL_FOR_TEXT_ENCODING_MAPPING[type(config)]
    if saved.endswith("T5Model"):
        return MODEL_MAPPING[type(config)]
    return MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING[type(config)]


def _check_layers(config: Any, num_layers: int | None) -> None:  # noqa: ANN401
    found = {config.num_layers, config.num_decoder_layers}
    if num_layers is not None and found != {num_layers}:
        shown = f"{config.num_layers} and {config.num_decoder_layers}"
        raise OptionError(f"--num_layers ({num_layers}) must be the model's, which has {shown}")


def _save(model: Any, source: str, folder: Path) -> None:  # noqa: ANN401
    model.save_pretrained(folder)
    config = model.config
    if isinstance(config, T5Config) and not config.scale_decoder_outputs:
        # transformers 5 writes that heads are shared, and ties none that differ; 4 believes it.
        path = folder / "config.json"
        document = json.loads(path.read_text(encoding="utf-8"))
        replace_json(path, document | {"tie_word_embeddings": False})
    try:
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    except (OSError, ValueError) as error:
        logger.warning("no tokenizer was copied: %s", str(error).splitlines()[0])


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What a model makes of some tokens.

    Attributes:
        results: final states of the encoder, and the decoder's or the head's.
        stream: largest number in the residual stream.
    """

    results: tuple[Tensor, ...]
    stream: float


@torch.no_grad()
def _outputs(model: Any) -> _Outputs:  # noqa: ANN401
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    ids, labels = (torch.randint(1, vocabulary, (4, n), generator=generator) for n in (48, 12))
    if not hasattr(model, "decoder"):
        found = model(input_ids=ids, output_hidden_states=True)
        states = found.hidden_states
        results = (found.last_hidden_state,)
    else:
        found = model(input_ids=ids, decoder_input_ids=labels, output_hidden_states=True)
        last = found.logits if hasattr(found, "logits") else found.last_hidden_state
        states = (*found.encoder_hidden_states[:-1], *found.decoder_hidden_states)
        results = (found.encoder_last_hidden_state, last)
    # The last one is normalised already.
    return _Outputs(results, max(float(each.abs().max()) for each in states[:-1]))


def _relative_error(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / first.abs().max())


if __name__ == "__main__":
    sys.exit(main())
