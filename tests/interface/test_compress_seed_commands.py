"""Every command line of ScaleDown's guide to data sets is understood by our parsers.

`scaledown.data` stands in the guide where `gazetteer.compress` stands here; the rest is as printed,
but for the shell comments behind backslashes, which break the command in any shell.
"""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from gazetteer.compress import small_real
from gazetteer.compress.prepare_flags import build_parser, check

ROOT = Path(__file__).resolve().parents[2]
KILT = "--corpus_path kilt_knowledgesource.json"
PREPARE = [
    "--num_synthetic_queries 100 --output_file test_data.json",
    "--download_ms_marco --corpus_path /path/to/kilt_knowledgesource.json --output_file "
    "train_data.json --top_k_retrieval 20 --top_k_reranking 5 --enable_reranking",
    "--queries_file queries.txt --corpus_path /path/to/kilt_knowledgesource.json --output_file "
    "train_data.json",
    f"--queries_file queries.txt {KILT} --output_file train_data.json --top_k_retrieval 5",
    f"--queries_file queries.txt {KILT} --output_file train_data.json --top_k_retrieval 20 "
    "--top_k_reranking 5 --enable_reranking",
    f"--queries_file queries.txt {KILT} --output_file train_data.json --teacher_8bit "
    "--max_corpus_size 100000",
    f"--queries_file queries_chunk_aa {KILT} --output_file train_data_queries_chunk_aa.json",
    f"--download_ms_marco {KILT} --output_file full_dataset.json --enable_reranking",
]
MODELS = [
    "--retriever_model naver/splade-cocondenser-ensembledistil",
    "--reranker_model cross-encoder/ms-marco-MiniLM-L-6-v2",
    "--reranker_model cross-encoder/ms-marco-deberta-v3-base",
    "--reranker_model cross-encoder/ms-marco-deberta-v3-large",
    "--teacher_model mistralai/Mistral-7B-Instruct-v0.2",
    "--teacher_model meta-llama/Meta-Llama-3-8B-Instruct",
    "--teacher_model microsoft/phi-2",
]
SMALL = [
    "--dataset squad --num_examples 500",
    *(
        f"--dataset {name} --num_examples {count} --output_file small_real_dataset.json"
        for name, count in (("squad", 500), ("trivia_qa", 500), ("hotpot_qa", 500), ("all", 800))
    ),
    "--dataset squad --num_examples 5000 --output_file medium_dataset.json",
    "--num_examples 200",
]


@pytest.mark.parametrize("words", PREPARE + [f"{PREPARE[2]} {each}" for each in MODELS])
def test_commands_of_the_guide_to_data_sets(words: str) -> None:
    check(build_parser().parse_args(shlex.split(words)))


@pytest.mark.parametrize("words", SMALL)
def test_commands_of_the_guide_to_training(words: str) -> None:
    assert small_real.build_parser().parse_args(shlex.split(words)).split == "validation"


def test_defaults_are_those_of_the_guide() -> None:
    values = vars(build_parser().parse_args(["--num_synthetic_queries", "1"]))
    expected = {
        "top_k_retrieval": 20,
        "top_k_reranking": None,
        "enable_reranking": False,
        "max_corpus_size": None,
        "reranker_model": "cross-encoder/ms-marco-MiniLM-L-6-v2",
        "teacher_model": "mistralai/Mistral-7B-Instruct-v0.2",
        "teacher_8bit": False,
        "output_file": Path("train_data.json"),
    }
    assert {name: values[name] for name in expected} == expected
    small = small_real.build_parser().parse_args([])
    assert (small.dataset, small.num_examples, small.output_file, small.split) == (
        "squad", 500, Path("small_real_dataset.json"), "validation",
    )  # fmt: skip


def test_python_of_the_page_imports_what_there_is() -> None:
    page = (ROOT / "docs" / "dataset_preparation.md").read_text(encoding="utf-8")
    imports = re.findall(r"^from (gazetteer[\w.]+) import (.+)$", page, re.MULTILINE)
    assert len(imports) == 3
    for module, names in imports:
        for name in names.split(", "):
            assert callable(getattr(importlib.import_module(module), name))
