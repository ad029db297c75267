"""Atlas's command line, frozen: no flag may disappear or change type, default or choices."""

import argparse
import json
import shlex
from pathlib import Path

import pytest

from gazetteer.flags import all_flags
from gazetteer.options import Options, build_parser, options_to_dict, parse_options

ATLAS: dict = json.loads((Path(__file__).parent / "atlas_flags.json").read_text())
MORE_CHOICES = {
    "gold_score_mode": ("emdr2",),
    "faiss_index_type": ("sq", "pqfs", "ivfpqfs"),
    "task": ("dense",),
}
NEW = {
    "reader_prefix", "reader_lora_rank", "reader_lora_alpha", "reader_lora_dropout",
    "reader_lora_modules",
    "global_batch_size",
    "config", "dry_run", "on_bad_line", "cache_dir", "retriever_pooling", "retriever_normalize",
    "untie_retriever", "reuse_reader_encodings", "allow_stale_index", "max_nonfinite_steps",
    "collective_timeout_seconds", "rendezvous_timeout_seconds", "no_progress",
    "refresh_mode", "refresh_steps", "refresh_workers", "staleness_sample", "refresh_below_overlap",
    "index_dtype", "faiss_nlist", "faiss_nprobe", "rescore", "rank_candidates",
    "encoder_only", "add_linear_head", "projection_in_dim", "projection_out_dim",
    "train_n_passages", "dense_loss", "dense_temperature", "teacher_temperature",
    "matryoshka_dims", "negatives_x_device", "mask_known_positives",
    "grad_cache", "gc_q_chunk_size", "gc_p_chunk_size",
    "q_max_len", "p_max_len", "query_template", "doc_template", "positive_passage_no_shuffle",
    "negative_passage_no_shuffle", "num_train_epochs", "dev_queries",
    "dev_qrels", "dev_passages", "warmup_ratio", "logging_dir", "export_path",
    "mine_negatives", "mine_depth", "mine_margin", "mine_new_texts", "mine_memory",
    "qrels", "qrels_split", "measures", "keep_identical",
    "lora_rank", "lora_alpha", "lora_target", "lora_modules",
    "retriever_kind", "teacher", "teacher_kind", "train_teacher", "distill_layer_num",
    "reader_layer_num", "layer_selection", "layer_resample_steps", "layer_score_reweight",
    "layer_temperature",
    "compressor", "compressor_model_path", "compressor_layers", "compressor_pooling",
    "num_memory_tokens", "compression_rate", "compressor_format", "compressor_maxlength",
    "lr_compressor", "distill_kl_weight", "rerank_weight", "rerank_target", "rerank_by_compressor",
    "launcher", "slurm_partition", "slurm_time", "slurm_nodes", "slurm_gpus_per_node",
    "slurm_tasks_per_node", "slurm_cpus_per_task", "slurm_mem", "slurm_account", "slurm_qos",
    "slurm_constraint", "slurm_exclude", "slurm_comment", "slurm_notice", "slurm_requeues",
    "slurm_folder", "slurm_wait", "shard_backend", "shard_params", "async_save",
}  # fmt: skip


def actions(program):
    found = [each for each in build_parser(program)._actions if each.dest != "help"]
    # The last of a switch and its hidden opposite, `--no-FLAG`, is the switch.
    return {action.dest: action for action in found}


def test_there_are_81():
    assert len(ATLAS) == 81


@pytest.mark.parametrize("program", ["train", "evaluate"])
@pytest.mark.parametrize("name", ATLAS)
def test_each_flag_of_atlas_is_as_it_was(program, name):
    action, expected = actions(program)[name], ATLAS[name]
    is_switch = isinstance(action, argparse._StoreTrueAction)
    kind = bool if is_switch else action.type
    assert action.option_strings == [f"--{name}"]
    assert not action.required
    assert kind.__name__ == expected["type"]
    assert action.default == expected["default"]
    assert type(action.default) is type(expected["default"])
    assert action.nargs == expected["nargs"]
    if expected["choices"] is None:
        assert action.choices is None
    else:
        assert tuple(action.choices) == (*expected["choices"], *MORE_CHOICES.get(name, ()))


def test_flags_of_our_own_are_known_and_marked():
    assert set(actions("train")) - set(ATLAS) == NEW
    for name, each in all_flags(Options).items():
        assert each.help.endswith("(new)") == (name in NEW), name


def test_switches_of_our_own_are_off_by_default():
    for name in NEW:
        assert all_flags(Options)[name].default is not True


@pytest.fixture
def atlas_data(tmp_path, monkeypatch):
    """The files and folders that the commands of Atlas's README name, in the current folder."""
    names = [f"atlas_data/data/nq_data/{split}.jsonl" for split in ("train.64-shot", "dev", "test")]
    names += [
        f"atlas_data/corpora/wiki/enwiki-dec2018/{part}.jsonl"
        for part in ("text-list-100-sec", "infobox")
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    experiment = tmp_path / "atlas_data/experiments/my-nq-64-shot-example"
    for folder in (
        tmp_path / "atlas_data/models/atlas/large",
        experiment / "checkpoint/step-30",
        experiment / "saved_index",
    ):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


README_TRAIN = """
    --shuffle --train_retriever --gold_score_mode pdist
    --use_gradient_checkpoint_reader --use_gradient_checkpoint_retriever --precision fp32
    --shard_optim --shard_grads --temperature_gold 0.01 --temperature_score 0.01
    --refresh_index -1 --query_side_retriever_training --target_maxlength 16
    --reader_model_type google/t5-large-lm-adapt
    --dropout 0.1 --weight_decay 0.01 --lr 4e-5 --lr_retriever 4e-5 --scheduler linear
    --text_maxlength 512 --model_path "./atlas_data/models/atlas/large"
    --train_data "./atlas_data/data/nq_data/train.64-shot.jsonl"
    --eval_data "./atlas_data/data/nq_data/dev.jsonl"
    --per_gpu_batch_size 1 --n_context 40 --retriever_n_context 40
    --name my-nq-64-shot-example --checkpoint_dir ./atlas_data/experiments/
    --eval_freq 30 --log_freq 4 --total_steps 30 --warmup_steps 5 --save_freq 30
    --main_port 15500 --write_results --task qa --index_mode flat
    --passages "./atlas_data/corpora/wiki/enwiki-dec2018/text-list-100-sec.jsonl"
               "./atlas_data/corpora/wiki/enwiki-dec2018/infobox.jsonl"
    --save_index_path ./atlas_data/experiments/my-nq-64-shot-example/saved_index
"""

README_EVALUATE = """
    --name 'my-nq-64-shot-example-evaluation' --generation_max_length 16
    --gold_score_mode "pdist" --precision fp32 --reader_model_type google/t5--lm-adapt
    --text_maxlength 512
    --model_path ./atlas_data/experiments/my-nq-64-shot-example/checkpoint/step-30
    --eval_data "./atlas_data/data/nq_data/dev.jsonl ./atlas_data/data/nq_data/test.jsonl"
    --per_gpu_batch_size 1 --n_context 40 --retriever_n_context 40
    --checkpoint_dir ./atlas_data/experiments/ --main_port 15500 --index_mode "flat" --task "qa"
    --load_index_path ./atlas_data/experiments/my-nq-64-shot-example/saved_index
    --write_results
"""

RETRIEVE_ONLY = """
    --name nq-retrieve --generation_max_length 32 --target_maxlength 32 --target_maxlength 16
    --precision fp32 --text_maxlength 512 --retrieve_only --reader_model_type t5-base
    --model_path ./atlas_data/models/atlas/large --eval_data ./atlas_data/data/nq_data/test.jsonl
    --per_gpu_batch_size 8 --n_context 40 --retriever_n_context 40 --main_port -1 --task qa
    --passages ./atlas_data/corpora/wiki/enwiki-dec2018/infobox.jsonl --write_results
    --save_index_path ./atlas_data/index
"""


def changed(options):
    """The flags that differ from their defaults."""
    defaults = options_to_dict(Options())
    return {
        name: value for name, value in options_to_dict(options).items() if value != defaults[name]
    }


def test_the_few_shot_training_command_of_the_readme(atlas_data):
    options = parse_options(shlex.split(README_TRAIN), program="train")
    corpus = "./atlas_data/corpora/wiki/enwiki-dec2018"
    assert changed(options) == {
        "shuffle": True,
        "train_retriever": True,
        "use_gradient_checkpoint_reader": True,
        "use_gradient_checkpoint_retriever": True,
        "shard_optim": True,
        "shard_grads": True,
        "query_side_retriever_training": True,
        "target_maxlength": 16,
        "reader_model_type": "google/t5-large-lm-adapt",
        "weight_decay": 0.01,
        "lr": 4e-5,
        "lr_retriever": 4e-5,
        "scheduler": "linear",
        "text_maxlength": 512,
        "model_path": "./atlas_data/models/atlas/large",
        "train_data": ["./atlas_data/data/nq_data/train.64-shot.jsonl"],
        "eval_data": ["./atlas_data/data/nq_data/dev.jsonl"],
        "n_context": 40,
        "retriever_n_context": 40,
        "name": "my-nq-64-shot-example",
        "checkpoint_dir": "./atlas_data/experiments/",
        "eval_freq": 30,
        "log_freq": 4,
        "total_steps": 30,
        "warmup_steps": 5,
        "save_freq": 30,
        "main_port": 15500,
        "write_results": True,
        "task": "qa",
        "passages": [f"{corpus}/text-list-100-sec.jsonl", f"{corpus}/infobox.jsonl"],
        "save_index_path": "./atlas_data/experiments/my-nq-64-shot-example/saved_index",
    }
    assert options.retriever.gold_score_mode == "ppmean"


def test_the_evaluation_command_of_the_readme_with_its_two_slips(atlas_data):
    options = parse_options(shlex.split(README_EVALUATE), program="evaluate")
    data = "./atlas_data/data/nq_data"
    assert options.data.eval_data == [f"{data}/dev.jsonl", f"{data}/test.jsonl"]
    assert options.reader.reader_model_type == "google/t5--lm-adapt"
    assert options.experiment.model_path.endswith("checkpoint/step-30")
    assert options.generation.generation_max_length == 16
    assert options.index.load_index_path is not None and options.data.passages is None


def test_the_retrieve_only_script_takes_the_last_of_a_repeated_flag(atlas_data):
    options = parse_options(shlex.split(RETRIEVE_ONLY), program="evaluate")
    assert options.reader.target_maxlength == 16
    assert options.retriever.retrieve_only
    assert options.launch.main_port == -1


@pytest.mark.parametrize(
    "extra",
    [
        "--scheduler cosine --total_steps 5000 --warmup_steps 100 --eval_freq 500 --save_freq 5000"
        " --refresh_index 0-1000:500,1000-10000:2000 --log_freq 50",
        "--total_steps 2000 --warmup_steps 50 --refresh_index 100000000000 --temperature_gold 0.1",
        "--total_steps 100 --warmup_steps 20 --n_context 20 --qa_prompt_format {question}",
        "--retrieve_with_rerank --n_to_rerank_with_retrieve_with_rerank 100 --refresh_index 1000",
        "--closed_book --per_gpu_batch_size 2 --text_maxlength 384 --target_maxlength -1",
    ],
    ids=["nq full", "mmlu full", "templama", "pretraining", "closed book"],
)
def test_settings_of_the_example_scripts_parse(atlas_data, extra):
    words = shlex.split(README_TRAIN + extra)
    given = dict(zip(extra.split(), extra.split()[1:], strict=False))
    values = options_to_dict(parse_options(words, program="train"))
    for name, value in given.items():
        if name.startswith("--") and not value.startswith("--"):
            kind = all_flags(Options)[name[2:]].kind
            assert "closed_book" in extra or values[name[2:]] == kind(value), name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--index_mode faiss --faiss_index_type ivfpq --faiss_code_size 16",
         {"index_mode": "faiss", "faiss_index_type": "ivfpq", "faiss_code_size": 16}),
        ("--save_index_n_shards 128", {"save_index_n_shards": 128}),
        ("--refresh_index 0-1000:500,1000-10000:1000",
         {"refresh_index": "0-1000:500,1000-10000:1000"}),
        ("--refresh_index 100", {"refresh_index": "100"}),
        ("--refresh_index -1", {"refresh_index": "-1"}),
        ("--retrieve_with_rerank --n_to_rerank_with_retrieve_with_rerank 64",
         {"retrieve_with_rerank": True, "n_to_rerank_with_retrieve_with_rerank": 64}),
        ("--use_file_passages", {"use_file_passages": True, "train_retriever": False}),
        ("--closed_book", {"n_context": 1, "retriever_n_context": 1, "encoder_format": "{query}",
                           "use_file_passages": True}),
        ("--encoder_format '{query} text: {text}'", {"encoder_format": "{query} text: {text}"}),
        ("--qa_prompt_format {question}", {"qa_prompt_format": "{question}"}),
        ("--model_path none", {"model_path": "none"}),
        ("--precision bf16", {"precision": "bf16"}),
        ("--task base", {"task": "base"}),
        ("--task mlm --mlm_noise_density 0.15 --mlm_mean_noise_span_length 3"
         " --min_words_per_lm_instance 10", {"mlm_mean_noise_span_length": 3.0}),
        ("--task lm --min_lm_context_ratio 0.25 --max_lm_context_ratio 0.75",
         {"min_lm_context_ratio": 0.25, "max_lm_context_ratio": 0.75}),
        ("--task section --min_words_per_lm_instance 5", {"min_words_per_lm_instance": 5}),
        ("--task multiple_choice --multiple_choice_num_options 4"
         " --multiple_choice_train_permutations all --multiple_choice_eval_permutations cyclic",
         {"multiple_choice_train_permutations": "all",
          "multiple_choice_eval_permutations": "cyclic"}),
        ("--task fever", {"task": "fever"}),
        ("--task kilt", {"task": "kilt"}),
    ],
    ids=lambda value: value.partition(" --")[0] if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.parametrize(
    ("program", "command"), [("train", README_TRAIN), ("evaluate", README_EVALUATE)]
)
def test_every_flag_the_readme_of_atlas_speaks_of_does_what_it_says(
    atlas_data, program, command, words, expected
):
    values = options_to_dict(parse_options(shlex.split(command + words), program=program))
    assert {name: values[name] for name in expected} == expected


def test_several_files_are_given_one_after_the_other(atlas_data):
    names = ["file_1.jsonl", "file_2.jsonl"]
    for name in names:
        Path(name).write_text("{}\n")
    words = README_TRAIN + f" --train_data {' '.join(names)} --eval_data {' '.join(names)}"
    options = parse_options(shlex.split(words), program="train")
    assert options.data.train_data == options.data.eval_data == names


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_help_is_short_and_long(program, capsys):
    for word in ("-h", "--help"):
        with pytest.raises(SystemExit) as caught:
            parse_options([word], program=program)
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        assert all(f"--{name}" in shown for name in ATLAS)
