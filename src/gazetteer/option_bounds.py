"""What every numeric flag may be, on its own. Rules between flags are in `option_rules.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The numbers a flag may take; `also` lists a value outside with a meaning of its own."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    also: int | None = None

    def __contains__(self, value: float) -> bool:
        inside = self.least <= value <= self.most and self.above < value < self.below
        return inside or value == self.also

    @property
    def rule(self) -> str:
        """The bounds in words."""
        named = {
            "at least": self.least,
            "above": self.above,
            "at most": self.most,
            "below": self.below,
        }
        words = " and ".join(
            f"{word} {bound}" for word, bound in named.items() if math.isfinite(bound)
        )
        return words if self.also is None else f"{words}, or {self.also}"


_COUNT, _COUNT_OR_NOT = Bounds(least=1), Bounds(least=1, also=-1)
_POSITIVE, _NOT_NEGATIVE = Bounds(above=0), Bounds(least=0)
_SHARE = Bounds(least=0, most=1)

BOUNDS: Mapping[str, Bounds] = {
    "local_rank": Bounds(least=-1),
    "main_port": Bounds(least=1, most=65535, also=-1),
    "rendezvous_timeout_seconds": _COUNT,
    "collective_timeout_seconds": _COUNT,
    "slurm_time": _COUNT,
    "slurm_nodes": _COUNT,
    "slurm_gpus_per_node": _NOT_NEGATIVE,
    "slurm_tasks_per_node": _COUNT,
    "slurm_cpus_per_task": _COUNT,
    "slurm_notice": _NOT_NEGATIVE,
    "slurm_requeues": _NOT_NEGATIVE,
    "seed": Bounds(least=0, most=2**32 - 1),
    "log_freq": _COUNT,
    "eval_freq": _COUNT,
    "save_freq": _COUNT,
    "per_gpu_batch_size": _COUNT,
    "global_batch_size": _COUNT,
    "per_gpu_embedder_batch_size": _COUNT,
    "max_passages": _COUNT_OR_NOT,
    "save_index_n_shards": _COUNT,
    "refresh_steps": _COUNT,
    "refresh_workers": _COUNT,
    "staleness_sample": _NOT_NEGATIVE,
    "refresh_below_overlap": _SHARE,
    "faiss_code_size": _COUNT,
    "faiss_nlist": _COUNT,
    "faiss_nprobe": _COUNT,
    "rescore": _NOT_NEGATIVE,
    "retriever_n_context": _COUNT,
    "lora_rank": _NOT_NEGATIVE,
    "lora_alpha": _POSITIVE,
    "projection_in_dim": _COUNT,
    "projection_out_dim": _COUNT,
    "temperature_score": _POSITIVE,
    "temperature_gold": _POSITIVE,
    "filtering_overretrieve_ratio": _COUNT,
    "freeze_retriever_steps": Bounds(least=-1),
    "n_to_rerank_with_retrieve_with_rerank": _COUNT,
    # Two are special tokens of BERT.
    "text_maxlength": Bounds(least=3),
    "target_maxlength": _COUNT_OR_NOT,
    "n_context": _COUNT,
    "generation_max_length": _COUNT,
    "generation_min_length": _NOT_NEGATIVE,
    "generation_length_penalty": Bounds(),
    "generation_num_beams": _COUNT,
    "mlm_noise_density": Bounds(above=0, below=1),
    "mlm_mean_noise_span_length": _COUNT,
    "min_words_per_lm_instance": _NOT_NEGATIVE,
    "min_lm_context_ratio": _SHARE,
    "max_lm_context_ratio": _SHARE,
    "multiple_choice_num_options": Bounds(least=2, most=26),
    "total_steps": _COUNT,
    "warmup_steps": _NOT_NEGATIVE,
    "scheduler_steps": _COUNT,
    "accumulation_steps": _COUNT,
    "lr": _NOT_NEGATIVE,
    "lr_retriever": _NOT_NEGATIVE,
    "dropout": Bounds(least=0, below=1),
    "clip": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "epsilon": _POSITIVE,
    "beta2": Bounds(least=0, below=1),
    "alpha": Bounds(),
    "max_nonfinite_steps": _COUNT,
    "train_n_passages": _COUNT,
    "dense_temperature": _POSITIVE,
    "mine_negatives": _NOT_NEGATIVE,
    "mine_depth": _COUNT,
    "mine_margin": Bounds(least=0, below=1),
    "mine_memory": _SHARE,
    "teacher_temperature": _POSITIVE,
    "matryoshka_dims": _COUNT,
    "gc_q_chunk_size": _COUNT,
    "gc_p_chunk_size": _COUNT,
    "q_max_len": Bounds(least=3),
    "p_max_len": Bounds(least=3),
    "dev_passages": _NOT_NEGATIVE,
    "num_train_epochs": _POSITIVE,
    "warmup_ratio": _SHARE,
    "distill_layer_num": _NOT_NEGATIVE,
    "reader_layer_num": _NOT_NEGATIVE,
    "layer_resample_steps": _COUNT,
    "layer_temperature": _POSITIVE,
    "reader_lora_rank": _NOT_NEGATIVE,
    "reader_lora_alpha": _POSITIVE,
    "reader_lora_dropout": Bounds(least=0, below=1),
    "compressor_layers": _COUNT,
    "num_memory_tokens": _COUNT,
    "compression_rate": _COUNT,
    "compressor_maxlength": Bounds(least=3),
    "lr_compressor": _NOT_NEGATIVE,
    "distill_kl_weight": _NOT_NEGATIVE,
    "rerank_weight": _NOT_NEGATIVE,
    "rerank_by_compressor": _NOT_NEGATIVE,
}
"""Every numeric flag and what it may be; of a list, each number."""
