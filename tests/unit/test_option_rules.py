import math
import os

import pytest

from gazetteer.errors import OptionError
from gazetteer.option_bounds import BOUNDS, Bounds
from gazetteer.option_rules import check, listed_files
from gazetteer.options import options_from_dict
from gazetteer.task_names import CHOICES, TASK_NAMES


@pytest.fixture
def violations(tmp_path, monkeypatch):
    """The lines `check` complains with, for options that are otherwise in order."""
    for name in ("train.jsonl", "dev.jsonl", "passages.jsonl"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)

    def lines(program="train", **changes):
        values = {
            "task": "qa",
            "train_data": ["train.jsonl"],
            "eval_data": ["dev.jsonl"],
            "passages": ["passages.jsonl"],
            "reader_model_type": "t5-small",
        }
        try:
            check(options_from_dict(values | changes), program)
        except OptionError as error:
            return str(error).splitlines()
        return []

    return lines


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_sound_options_pass(violations, program):
    assert violations(program) == []


def test_all_violations_are_reported_at_once(violations):
    lines = violations(task=None, train_data=[], lr=-1.0, decoder_format="{x}", passages=["gone"])
    assert lines == [
        f"--task is required: {' or '.join(CHOICES)}",
        "--train_data is required: jsonl files to train on",
        "--lr (-1.0) must be at least 0",
        "--decoder_format ({x}) must use the field {target}, and no other",
        "--passages (gone) must be an existing file",
    ]


# ---- numbers


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "rule"),
    [
        (Bounds(least=1), [1, 2], [0, -1, 0.5], "at least 1"),
        (Bounds(least=1, also=-1), [1, -1], [0, -2], "at least 1, or -1"),
        (Bounds(least=0, below=1), [0, 0.99], [-0.1, 1], "at least 0 and below 1"),
        (Bounds(above=0, below=1), [0.5], [0, 1], "above 0 and below 1"),
        (Bounds(least=0, most=1), [0, 1], [-0.1, 1.1], "at least 0 and at most 1"),
        (Bounds(above=0), [1e-9], [0, -1], "above 0"),
    ],
)
def test_bounds_say_what_they_accept(bounds, inside, outside, rule):
    assert all(value in bounds for value in inside)
    assert not any(value in bounds for value in outside)
    assert bounds.rule == rule


BELOW = {
    "local_rank": -2, "main_port": 0, "rendezvous_timeout_seconds": 0, "seed": -1,
    "collective_timeout_seconds": 0, "log_freq": 0, "eval_freq": 0, "save_freq": 0,
    "per_gpu_batch_size": 0, "global_batch_size": 0, "per_gpu_embedder_batch_size": 0,
    "max_passages": 0,
    "save_index_n_shards": 0, "faiss_code_size": 0, "faiss_nlist": 0, "faiss_nprobe": 0,
    "rescore": -1, "refresh_steps": 0, "refresh_workers": 0, "staleness_sample": -1,
    "refresh_below_overlap": 1.5, "retriever_n_context": 0,
    "projection_in_dim": 0, "projection_out_dim": 0, "lora_rank": -1, "lora_alpha": 0.0,
    "temperature_score": 0.0, "temperature_gold": 0.0, "filtering_overretrieve_ratio": 0,
    "freeze_retriever_steps": -2, "n_to_rerank_with_retrieve_with_rerank": 0,
    "text_maxlength": 2, "target_maxlength": 0, "n_context": 0, "generation_max_length": 0,
    "generation_min_length": -1, "generation_num_beams": 0, "mlm_noise_density": 0.0,
    "mlm_mean_noise_span_length": 0.5, "min_words_per_lm_instance": -1,
    "min_lm_context_ratio": -0.1, "max_lm_context_ratio": -0.1,
    "multiple_choice_num_options": 1, "total_steps": 0, "warmup_steps": -1,
    "scheduler_steps": 0, "accumulation_steps": 0, "lr": -1e-9, "lr_retriever": -1e-9,
    "dropout": -0.1, "clip": 0.0, "weight_decay": -0.1, "epsilon": 0.0, "beta2": -0.1,
    "max_nonfinite_steps": 0, "train_n_passages": 0, "dense_temperature": 0.0,
    "mine_negatives": -1, "mine_depth": 0, "mine_margin": -0.1, "mine_memory": -0.1,
    "teacher_temperature": 0.0, "gc_q_chunk_size": 0, "gc_p_chunk_size": 0, "q_max_len": 2,
    "p_max_len": 2, "num_train_epochs": 0.0, "warmup_ratio": -0.1, "dev_passages": -1,
    "matryoshka_dims": [0],
    "distill_layer_num": -1, "reader_layer_num": -1, "layer_resample_steps": 0,
    "layer_temperature": 0.0,
    "reader_lora_rank": -1, "reader_lora_alpha": 0.0, "reader_lora_dropout": 1.0,
    "compressor_layers": 0,
    "num_memory_tokens": 0,
    "compression_rate": 0.5,
    "compressor_maxlength": 2,
    "lr_compressor": -1e-4,
    "distill_kl_weight": -0.1,
    "rerank_weight": -0.05,
    "rerank_by_compressor": -1,
    "slurm_time": 0, "slurm_nodes": 0, "slurm_gpus_per_node": -1,
    "slurm_tasks_per_node": 0, "slurm_cpus_per_task": 0, "slurm_notice": -1, "slurm_requeues": -1,
}  # fmt: skip
ABOVE = {
    "main_port": 65536, "seed": 2**32, "mlm_noise_density": 1.0, "min_lm_context_ratio": 1.1,
    "max_lm_context_ratio": 1.1, "multiple_choice_num_options": 27, "dropout": 1.0, "beta2": 1.0,
    "mine_margin": 1.0, "mine_memory": 1.1,
}  # fmt: skip
EDGE = {
    "local_rank": -1, "main_port": 65535, "max_passages": -1, "target_maxlength": -1,
    "freeze_retriever_steps": -1, "warmup_steps": 0, "lr": 0.0, "dropout": 0.0,
    "weight_decay": 0.0, "generation_min_length": 0, "generation_length_penalty": -2.0,
    "alpha": -1.0, "seed": 2**32 - 1, "text_maxlength": 3,
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [*BELOW.items(), *ABOVE.items()])
def test_numbers_out_of_range_are_refused(violations, name, value):
    shown = value[0] if isinstance(value, list) else value
    assert f"--{name} ({shown}) must be {BOUNDS[name].rule}" in violations(**{name: value})


@pytest.mark.parametrize(("name", "value"), EDGE.items())
def test_numbers_at_the_edge_of_their_range_pass(violations, name, value):
    assert violations(**{name: value}) == []


def test_every_bounded_number_has_a_value_that_is_refused():
    unbounded = {name for name, bounds in BOUNDS.items() if bounds == Bounds()}
    assert set(BELOW) == set(BOUNDS) - unbounded
    assert unbounded == {"generation_length_penalty", "alpha"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["lr", "temperature_gold", "generation_length_penalty", "alpha"])
def test_numbers_that_are_not_finite_are_refused(violations, name, value):
    assert violations(**{name: value}) == [f"--{name} ({value}) must be a finite number"]


def test_the_shortest_answer_is_not_longer_than_the_longest(violations):
    assert violations(generation_min_length=16, generation_max_length=16) == []
    assert violations(generation_min_length=17, generation_max_length=16) == [
        "--generation_min_length (17) must be at most --generation_max_length (16)"
    ]


def test_the_smaller_context_ratio_is_not_above_the_larger(violations):
    assert violations(min_lm_context_ratio=0.25, max_lm_context_ratio=0.75) == []
    assert violations(min_lm_context_ratio=0.75) == [
        "--min_lm_context_ratio (0.75) must be at most --max_lm_context_ratio (0.5)"
    ]


def test_at_least_as_many_passages_are_reranked_as_are_kept(violations):
    few = {"retrieve_with_rerank": True, "n_to_rerank_with_retrieve_with_rerank": 10}
    assert violations(**few, n_context=10) == []
    flag = "--n_to_rerank_with_retrieve_with_rerank (10)"
    assert violations(**few, n_context=11) == [
        f"{flag} must be at least --n_context (11), which are kept of them"
    ]
    assert violations(**few, train_retriever=True, retriever_n_context=12) == [
        f"{flag} must be at least --retriever_n_context (12), which are kept of them"
    ]
    assert violations("evaluate", **few, train_retriever=True, retriever_n_context=12) == []
    assert violations(n_to_rerank_with_retrieve_with_rerank=10, n_context=11) == []


# ---- what is required, and what goes together


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_task_is_available(violations, task):
    assert violations(task=task) == []


def test_masking_for_the_retriever_alone_needs_the_tokenizer_of_a_reader(violations):
    alone = {"task": "mlm", "retrieve_only": True}
    assert violations("evaluate", **alone) == []
    assert violations("evaluate", **alone, reader_model_type=None) == [
        "--reader_model_type is required with --task mlm, which uses its tokenizer"
    ]
    assert violations("evaluate", **alone | {"task": "lm"}, reader_model_type=None) == []


def test_candidates_are_ranked_only_where_they_are_a_closed_set(violations):
    for task in ("fever", "multiple_choice"):
        assert violations(task=task, rank_candidates=True) == []
    assert violations(task="qa", rank_candidates=True) == [
        "--rank_candidates must come with --task fever or multiple_choice"
    ]


def test_orders_beyond_counting_are_refused(violations):
    given = {"multiple_choice_eval_permutations": "all", "multiple_choice_num_options": 7}
    (line,) = violations(task="multiple_choice", **given)
    assert line == (
        "--multiple_choice_eval_permutations (all) must come with --multiple_choice_num_options"
        " of at most 6 (7 have too many orders)"
    )
    assert violations(task="qa", **given) == []
    for most in (
        {"multiple_choice_num_options": 6},
        {"multiple_choice_eval_permutations": "cyclic"},
    ):
        assert violations(task="multiple_choice", **{**given, **most}) == []


def test_training_needs_training_data_and_evaluation_evaluation_data(violations):
    assert violations(train_data=[]) == ["--train_data is required: jsonl files to train on"]
    assert violations("train", eval_data=[]) == []
    assert violations("evaluate", train_data=[]) == []
    assert violations("evaluate", eval_data=[]) == [
        "--eval_data is required: jsonl files to evaluate on"
    ]


def test_passages_come_from_somewhere(violations):
    (line,) = violations(passages=None)
    assert line.startswith("--passages or --load_index_path is required")
    assert violations(passages=[]) == [line]
    assert violations(passages=None, load_index_path="folder") == []
    assert violations(passages=None, use_file_passages=True) == []
    assert violations(passages=None, closed_book=True) == []


def test_compressed_indices_are_available(violations):
    for kind in ("flat", "sq", "pq", "pqfs", "ivfflat", "ivfsq", "ivfpq", "ivfpqfs"):
        assert violations(index_mode="faiss", faiss_index_type=kind) == []


def test_no_more_lists_are_searched_than_there_are(violations):
    asked = {"index_mode": "faiss", "faiss_index_type": "ivfpq", "faiss_nlist": 256}
    assert violations(**asked, faiss_nprobe=256) == []
    assert violations(**asked, faiss_nprobe=257) == [
        "--faiss_nprobe (257) must be at most --faiss_nlist (256)"
    ]


def test_a_reader_is_required_unless_a_checkpoint_or_nothing_is_read(violations):
    (line,) = violations(reader_model_type=None)
    assert line.startswith("--reader_model_type is required")
    assert violations(reader_model_type=None, model_path="folder") == []
    assert violations("evaluate", reader_model_type=None, retrieve_only=True) == []


def test_a_reader_nobody_knows_is_refused_with_the_list(violations):
    (line,) = violations(reader_model_type="t6-base")
    assert line.startswith(
        "--reader_model_type (t6-base) must be a hub name, a folder, a .gguf file, or"
    )
    assert "t5-small" in line and "google/t5-xxl-lm-adapt" in line
    assert violations(reader_model_type="google/flan-t5-small") == []
    assert violations(reader_model_type="folder") == []


def test_retrieval_alone_is_for_evaluation(violations):
    assert violations("evaluate", retrieve_only=True) == []
    assert violations("train", retrieve_only=True) == [
        "--retrieve_only is for evaluate.py: without a reader nothing can be trained"
    ]


@pytest.mark.parametrize("name", ["closed_book", "use_file_passages"])
def test_retrieval_alone_needs_retrieval(violations, name):
    assert violations("evaluate", retrieve_only=True, **{name: True}) == [
        f"--retrieve_only must not be given with --{name}, which retrieves nothing"
    ]


# ---- formats and schedules


@pytest.mark.parametrize("name", ["encoder_format", "retriever_format"])
def test_passage_formats_take_any_field_of_a_passage(violations, name):
    assert violations(**{name: "{title}: {section} {text} {{braces}}"}) == []
    assert violations(**{name: "{text:.100} {title!s}"}) == []
    assert violations(**{name: ""}) == []


@pytest.mark.parametrize(
    "name",
    [
        "encoder_format",
        "retriever_format",
        "qa_prompt_format",
        "decoder_format",
        "decoder_prompt_format",
    ],
)
@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{text", "expected '}' before end of string"),
        ("text}", "Single '}' encountered in format string"),
        ("{}", "{} is not a field's name"),
        ("{0}", "{0} is not a field's name"),
        ("{text.__class__}", "{text.__class__} is not a field's name"),
        ("{text[0]}", "{text[0]} is not a field's name"),
        ("{text:{width}}", "a field inside a field"),
    ],
)
def test_formats_that_cannot_be_filled_are_refused(violations, name, template, problem):
    assert violations(**{name: template}) == [
        f"--{name} ({template}) must be a format string: {problem}"
    ]


def test_only_the_reader_sees_the_query(violations):
    assert violations(encoder_format="{query} {text}") == []
    assert violations(retriever_format="{query} {text}") == [
        "--retriever_format ({query} {text}) must not use {query}: passages are embedded without"
        " a query"
    ]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("qa_prompt_format", "question"),
        ("decoder_format", "target"),
        ("decoder_prompt_format", "query"),
    ],
)
def test_prompts_and_targets_have_one_field(violations, name, field):
    assert violations(**{name: f"<extra_id_0> {{{field}}}, {{{field}}}"}) == []
    for template in ("constant", "", "{other}", f"{{{field}}} {{other}}"):
        shown = template or "''"
        assert violations(**{name: template}) == [
            f"--{name} ({shown}) must use the field {{{field}}}, and no other"
        ]


def test_refresh_schedules_are_read_ahead(violations):
    assert violations(refresh_index="0-1000:500,1000-10000:2000") == []
    assert violations(refresh_index="0-10:0") == [
        "--refresh_index (0-10:0) must be -1, a number of steps, or start-end:rate,start-end:rate;"
        " '0-10:0' has rate 0; the smallest is 1, and -1 alone means never"
    ]


# ---- files and folders


@pytest.mark.parametrize("name", ["train_data", "eval_data", "passages"])
def test_files_must_exist(violations, name):
    assert violations(**{name: ["dev.jsonl", "gone.jsonl", "folder"]}) == [
        f"--{name} (gone.jsonl) must be an existing file",
        f"--{name} (folder) must be an existing file",
    ]
    assert violations(**{name: [""]}) == [f"--{name} ('') must be an existing file"]


def test_files_must_be_readable(violations, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != "dev.jsonl" and allowed(path, mode)
    )
    assert violations() == ["--eval_data (dev.jsonl) must be a file this user can read"]


def test_files_that_are_not_used_are_not_asked_for(violations):
    assert violations("evaluate", train_data=["gone"]) == []
    assert violations(passages=["gone"], use_file_passages=True) == []
    assert violations(passages=["gone"], closed_book=True) == []


def test_several_files_quoted_into_one_argument_are_found(violations, tmp_path):
    assert violations(eval_data=["dev.jsonl train.jsonl"]) == []
    assert violations(eval_data=["dev.jsonl gone.jsonl"]) == [
        "--eval_data (dev.jsonl gone.jsonl) must be an existing file"
    ]
    (tmp_path / "dev.jsonl train.jsonl").write_text("{}\n")
    assert listed_files(["dev.jsonl train.jsonl", "a b"]) == ["dev.jsonl train.jsonl", "a b"]
    assert listed_files(["train.jsonl\n dev.jsonl"]) == ["train.jsonl", "dev.jsonl"]
    assert listed_files([" "]) == [" "]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("model_path", "be 'none' or an existing folder"),
        ("load_index_path", "be an existing folder"),
        ("retriever_model_path", "be a hub name or an existing folder"),
    ],
)
@pytest.mark.parametrize("value", ["./gone", "./dev.jsonl", ""])
def test_folders_that_are_read_must_exist(violations, name, rule, value):
    assert violations(**{name: "./folder"}) == []
    assert violations(**{name: value}) == [f"--{name} ({value or repr('')}) must {rule}"]


@pytest.mark.parametrize("name", ["checkpoint_dir", "save_index_path", "cache_dir"])
def test_folders_that_are_written_are_not_files(violations, name):
    assert violations(**{name: "new/folder"}) == []
    assert violations(**{name: "folder"}) == []
    for value in ("dev.jsonl", ""):
        assert violations(**{name: value}) == [
            f"--{name} ({value or repr('')}) must be a folder, or a name that is free for one"
        ]


@pytest.mark.parametrize("name", ["checkpoint_dir", "save_index_path", "cache_dir"])
def test_folders_that_are_written_can_be_created(violations, name):
    assert violations(**{name: "dev.jsonl/below"}) == [
        f"--{name} (dev.jsonl/below) must be a folder this user can write to, or can create"
    ]


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_files_whose_results_would_replace_each_other_are_refused(violations, program, tmp_path):
    for name in ("folder/dev.jsonl", "dev.json", "test.jsonl"):
        (tmp_path / name).write_text("{}\n")
    rule = "must not be named like dev.jsonl: results go to dev-step-N.jsonl"
    for other in ("folder/dev.jsonl", "dev.json", "dev.jsonl"):
        files = ["dev.jsonl", "test.jsonl", other]
        assert violations(program, eval_data=files) == [f"--eval_data ({other}) {rule}"]
    assert violations(program, eval_data=["dev.jsonl", "test.jsonl"]) == []


def test_the_experiment_has_a_name(violations):
    assert violations(name="") == ["--name ('') must not be empty"]


def test_processes_are_not_set_aside_for_nothing(violations):
    dedicated = {"refresh_mode": "dedicated", "train_retriever": True, "refresh_index": "5"}
    assert violations(**dedicated) == []
    assert violations("evaluate", refresh_mode="dedicated") == []
    assert violations(**dedicated | {"refresh_index": "-1", "staleness_sample": 9,
                                     "refresh_below_overlap": 0.5}) == []  # fmt: skip
    (line,) = violations(**dedicated | {"refresh_index": "-1"})
    assert line.startswith("--refresh_mode (dedicated) must come with --refresh_index")
    for change in (
        {"train_retriever": False},
        {"query_side_retriever_training": True},
        {"closed_book": True},
        {"use_file_passages": True},
    ):
        (line,) = violations(**dedicated | change)
        assert line.startswith("--refresh_mode (dedicated) must come with --train_retriever, and")


# ---- towers


def test_what_cannot_be_asked_of_the_towers(violations):
    assert violations(projection_out_dim=8) == [
        "--projection_out_dim (8) must come with --add_linear_head"
    ]
    assert violations(projection_out_dim=8, add_linear_head=True) == []
    lora = {"train_retriever": True, "lora_rank": 4, "query_side_retriever_training": True}
    assert violations(**lora, lora_target="query") == []
    assert violations(**lora, lora_target="passage") == [
        "--lora_target (passage) must not come with --query_side_retriever_training, which freezes"
        " the passage tower"
    ]


# ---- submission


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"slurm_comment": "a\n#SBATCH --x"}, "--slurm_comment ('a\\n#SBATCH --x') must be one"),
        ({"slurm_nodes": 2, "launcher": "submitit_local"}, "--slurm_nodes (2) must be 1 with"),
        ({"slurm_time": 1, "slurm_notice": 60}, "--slurm_notice (60) must be below --slurm_time"),
        ({"slurm_folder": "a%j", "launcher": "submitit"}, "--slurm_folder (a%j) must not contain"),
        ({"slurm_folder": "a\nb", "launcher": "submitit"}, "--slurm_folder ('a\\nb') must be one"),
        ({"name": "a\ntouch b", "launcher": "submitit", "slurm_folder": "c"}, "--name ('a\\ntouch"),
    ],
)
def test_a_job_that_cannot_be_is_refused(violations, changes, line):
    (found,) = violations(**changes)
    assert found.startswith(line)
