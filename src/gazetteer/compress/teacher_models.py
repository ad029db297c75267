"""Models that can teach: any causal or sequence-to-sequence model of transformers, or vLLM's.

Answers are greedy: the same question gets the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

from gazetteer.compress.model_names import cannot_load, config_of, gguf_of
from gazetteer.errors import OptionError
from gazetteer.gguf_tokenizer import load_gguf_tokenizer
from gazetteer.optional_packages import import_optional

FLAG = "--teacher_model"
PROMPT_TOKENS = 4096
"""Of a prompt, at most, unless told otherwise: twenty passages of a hundred words fit."""
UNLIMITED_PROMPT_TOKENS = 2048
"""The same for models without positions to run out of, such as T5."""
Answer = Callable[[Sequence[Sequence[int]]], list[str]]
"""From the token ids of some prompts to their answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """How a teacher answers.

    Attributes:
        name: hub name, folder, or a GGUF file.
        backend: "transformers" or "vllm".
        is_8bit: load it in 8 bits.
        max_new_tokens: of an answer.
        max_prompt_tokens: of a prompt; None = as many as the model takes, up to `PROMPT_TOKENS`.
        device: where it runs.
    """

    name: str
    backend: str = "transformers"
    is_8bit: bool = False
    max_new_tokens: int = 128
    max_prompt_tokens: int | None = None
    device: torch.device


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a teacher.

    Raises:
        CheckpointError: nothing usable under that name.
    """
    gguf = gguf_of(name)
    try:
        if gguf is not None:
            return load_gguf_tokenizer(*gguf, config_of(name, FLAG))
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise cannot_load(name, error, FLAG) from None


def require_possible(settings: TeacherSettings) -> None:
    """Look, before anything else is done, whether a teacher can be had as it is asked for.

    Raises:
        OptionError: it cannot; in one line.
    """
    is_gguf = gguf_of(settings.name) is not None
    if settings.backend == "vllm":
        if settings.is_8bit or is_gguf:
            raise OptionError("--teacher_backend vllm takes neither --teacher_8bit nor a GGUF here")
        _import_vllm()
    elif settings.is_8bit:
        if is_gguf:
            raise OptionError("--teacher_8bit is given, but a GGUF has its own precision")
        if settings.device.type != "cuda":
            raise OptionError("--teacher_8bit needs a GPU")
        import_optional("bitsandbytes", "--teacher_8bit needs bitsandbytes", "bitsandbytes")


def _import_vllm() -> Any:  # noqa: ANN401 - a module
    return import_optional("vllm", "--teacher_backend vllm needs vllm", "vllm")


def prompt_limit(settings: TeacherSettings) -> int:
    """Tokens that a prompt may have.

    Raises:
        OptionError: more were asked for than the model has positions.
        CheckpointError: nothing usable under that name.
    """
    config = config_of(settings.name, FLAG)
    positions = getattr(config, "max_position_embeddings", None)
    if config.is_encoder_decoder or not positions:
        return settings.max_prompt_tokens or UNLIMITED_PROMPT_TOKENS
    room = positions - settings.max_new_tokens
    asked = settings.max_prompt_tokens or min(PROMPT_TOKENS, room)
    if not 0 < asked <= room:
        raise OptionError(
            f"--teacher_max_prompt_tokens ({asked}) and --teacher_max_new_tokens "
            f"({settings.max_new_tokens}) must fit into the {positions} positions of "
            f"{settings.name}"
        )
    return asked


def load_answerer(settings: TeacherSettings, tokenizer: PreTrainedTokenizerBase) -> Answer:
    """A model that answers.

    Raises:
        CheckpointError: nothing usable under that name.
        OptionError: what was asked for is impossible here.
    """
    if settings.backend == "vllm":
        return _vllm_answerer(settings)
    config = config_of(settings.name, FLAG)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = _load(kind, settings)
    greedy = _greedy(model.generation_config, tokenizer, settings.max_new_tokens)
    is_causal = not config.is_encoder_decoder

    @torch.no_grad()
    def answer(prompts: Sequence[Sequence[int]]) -> list[str]:
        ids, mask = padded(prompts, int(greedy.pad_token_id), on_left=is_causal)
        ids, mask = ids.to(model.device), mask.to(model.device)
        found = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
        fresh = found[:, ids.shape[1] :] if is_causal else found
        return [text.strip() for text in tokenizer.batch_decode(fresh, skip_special_tokens=True)]

    return answer


def _load(kind: Any, settings: TeacherSettings) -> Any:  # noqa: ANN401 - classes of transformers
    is_gpu = settings.device.type == "cuda"
    arguments: dict[str, Any] = {"dtype": torch.bfloat16 if is_gpu else torch.float32}
    gguf = gguf_of(settings.name)
    source = settings.name
    if gguf is not None:
        source, arguments["gguf_file"] = gguf
    if settings.is_8bit:
        arguments |= _in_8bit()
    try:
        model = kind.from_pretrained(source, **arguments)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise cannot_load(settings.name, error, FLAG) from None
    if not settings.is_8bit:
        model = model.to(settings.device)
    return model.eval().requires_grad_(False)


def _in_8bit() -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def _greedy(
    noted: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int
) -> GenerationConfig:
    """Greedy decoding that ends where the model was taught to end."""
    ends = getattr(noted, "eos_token_id", None)
    end = tokenizer.eos_token_id if ends is None else ends
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = end[0] if isinstance(end, list) else end
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=0 if pad is None else pad,
        bos_token_id=getattr(noted, "bos_token_id", None),
        decoder_start_token_id=getattr(noted, "decoder_start_token_id", None),
    )


def padded(
    prompts: Sequence[Sequence[int]], pad_id: int, *, on_left: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one matrix of int64 and its mask; on the left, answers begin at one column."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if on_left else slice(0, len(prompt))
        ids[row, place] = torch.tensor(list(prompt), dtype=torch.int64)
        mask[row, place] = 1
    return ids, mask


def _vllm_answerer(settings: TeacherSettings) -> Answer:
    vllm = _import_vllm()
    try:
        model = vllm.LLM(
            model=settings.name,
            seed=0,
            max_model_len=prompt_limit(settings) + settings.max_new_tokens,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_load(settings.name, error, FLAG) from None
    greedy = vllm.SamplingParams(temperature=0.0, max_tokens=settings.max_new_tokens)

    def answer(prompts: Sequence[Sequence[int]]) -> list[str]:
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        found = model.generate(asked, greedy, use_tqdm=False)
        return [each.outputs[0].text.strip() for each in found]

    return answer
