import pytest

from gazetteer.option_overrides import resolve
from gazetteer.options import options_from_dict, options_to_dict


def resolved(**values):
    """The flags that `resolve` changed, and its notes."""
    before = options_from_dict(values)
    options, notes = resolve(before)
    old, new = options_to_dict(before), options_to_dict(options)
    return {name: new[name] for name in new if new[name] != old[name]}, notes


def test_defaults_are_left_alone():
    assert resolved() == ({}, [])


def test_resolving_twice_changes_nothing_more():
    options, _ = resolve(options_from_dict({"closed_book": True, "gold_score_mode": "adist"}))
    assert resolve(options) == (options, [])


def test_closed_book_reads_the_query_alone():
    changed, notes = resolved(closed_book=True, n_context=40, train_retriever=True)
    assert changed == {
        "n_context": 1,
        "retriever_n_context": 1,
        "encoder_format": "{query}",
        "use_file_passages": True,
        "train_retriever": False,
    }
    assert notes == [
        "closed_book: n_context 40 -> 1",
        "closed_book: retriever_n_context 5 -> 1",
        "closed_book: encoder_format {query} title: {title} context: {text} -> {query}",
        "closed_book: use_file_passages False -> True",
        "use_file_passages: train_retriever True -> False",
    ]


def test_passages_from_the_file_switch_retriever_training_off():
    changed, notes = resolved(
        use_file_passages=True,
        train_retriever=True,
        query_side_retriever_training=True,
        use_gradient_checkpoint_retriever=True,
    )
    assert changed == {
        "train_retriever": False,
        "query_side_retriever_training": False,
        "use_gradient_checkpoint_retriever": False,
    }
    assert notes == [f"use_file_passages: {name} True -> False" for name in changed]


@pytest.mark.parametrize(("paper", "name"), [("pdist", "ppmean"), ("adist", "evalnormsum")])
def test_names_of_the_paper_are_translated(paper, name):
    changed, notes = resolved(gold_score_mode=paper)
    assert changed == {"gold_score_mode": name}
    assert notes == [f"the same by another name: gold_score_mode {paper} -> {name}"]


@pytest.mark.parametrize("mode", ["ppmean", "evalnormsum", "loop", "emdr", "emdr2"])
def test_other_names_of_losses_stay(mode):
    assert resolved(gold_score_mode=mode) == ({}, [])


def test_a_reader_without_its_owner_gets_it():
    changed, notes = resolved(reader_model_type="flan-t5-base")
    assert changed == {"reader_model_type": "google/flan-t5-base"}
    assert notes == [
        "the same by another name: reader_model_type flan-t5-base -> google/flan-t5-base"
    ]


def test_quoted_lists_of_files_are_taken_apart(tmp_path):
    dev, test = str(tmp_path / "dev.jsonl"), str(tmp_path / "test.jsonl")
    for path in (dev, test):
        (tmp_path / path).write_text("{}\n")
    both = f"{dev} {test}"
    for name in ("train_data", "eval_data", "passages"):
        changed, notes = resolved(**{name: [both]})
        assert changed == {name: [dev, test]}
        assert notes[0] == (f"several files in one argument: {name} {[both]} -> {[dev, test]}")


def test_more_read_than_learned_from_is_said():
    note = (
        "n_context 40 > retriever_n_context 5: 40 passages are retrieved; the reader reads all,"
        " the retriever learns from the first 5"
    )
    assert resolved(train_retriever=True, n_context=40) == ({}, [note])
    assert resolved(train_retriever=True, n_context=5) == ({}, [])
    assert resolved(n_context=40) == ({}, [])


@pytest.mark.parametrize("name", ["query_side_retriever_training", "reuse_reader_encodings"])
def test_retriever_flags_without_retriever_training_are_said_to_do_nothing(name):
    assert resolved(**{name: True}) == ({}, [f"{name}: no effect without train_retriever"])
    assert resolved(**{name: True}, train_retriever=True) == ({}, [])


def test_query_side_training_keeps_the_passage_tower_of_untied_towers_frozen():
    _, notes = resolved(
        untie_retriever=True, query_side_retriever_training=True, train_retriever=True
    )
    assert notes == [
        "untie_retriever: query_side_retriever_training separates the towers already, and keeps"
        " the passage tower frozen"
    ]


def test_spread_gradients_are_said_to_spread_optimiser_state_too():
    note = (
        "shard_grads: optimiser state is spread as well; the models clip jointly, as they do"
        " without shard_optim"
    )
    assert resolved(shard_grads=True) == ({}, [note])
    assert resolved(shard_grads=True, shard_optim=True) == ({}, [])


def test_flags_with_another_effect_than_in_atlas_are_said():
    assert resolved(alpha=0.9)[1] == ["alpha 0.9: no effect, as in Atlas"]
    assert resolved(scheduler_steps=5000)[1] == ["scheduler_steps 5000: honoured; Atlas ignored it"]
    assert resolved(target_maxlength=-1) == ({}, ["target_maxlength -1: targets are not cut"])


def test_the_number_of_index_files_is_said_not_to_matter_for_loading():
    note = "save_index_n_shards 64: no effect on loading; a saved index names its files"
    assert resolved(save_index_n_shards=64, load_index_path="index")[1] == [note]
    assert resolved(save_index_n_shards=64, save_index_path="index")[1] == []
    assert resolved(load_index_path="index")[1] == []


@pytest.mark.parametrize(
    ("name", "value", "idle_kinds", "needed"),
    [
        ("faiss_index_type", "pq", [], ""),
        ("rescore", 0, [], ""),
        ("faiss_code_size", 64, ["flat", "ivfflat"], "an sq or pq kind"),
        ("faiss_nlist", 64, ["flat", "sq", "pq", "pqfs"], "an ivf kind"),
        ("faiss_nprobe", 64, ["flat", "sq", "pq", "pqfs"], "an ivf kind"),
    ],
)
def test_flags_of_compressed_indices_are_said_to_do_nothing_where_they_do(
    name, value, idle_kinds, needed
):
    assert resolved(**{name: value})[1] == [f"{name} {value}: no effect without --index_mode faiss"]
    if name == "faiss_index_type":
        assert resolved(index_mode="faiss", faiss_index_type=value)[1] == []
        return
    for kind in ("flat", "ivfflat", "ivfsq", "ivfpq", "pq", "sq", "pqfs", "ivfpqfs"):
        note = f"{name} {value}: no effect without {needed} of --faiss_index_type"
        notes = resolved(index_mode="faiss", faiss_index_type=kind, **{name: value})[1]
        assert notes == ([note] if kind in idle_kinds else [])


def test_a_warm_up_longer_than_the_schedule_is_said():
    note = "warmup_steps 1000 > 30 steps of schedule: the learning rate never reaches its peak"
    assert resolved(train_data=["a"], total_steps=30)[1] == [note]
    assert note in resolved(train_data=["a"], scheduler_steps=30)[1]
    assert resolved(train_data=["a"], total_steps=1000)[1] == []
    assert resolved(total_steps=30)[1] == []


def test_a_gap_in_the_refresh_schedule_is_said():
    def notes(schedule, **values):
        values = {"train_data": ["a"], "train_retriever": True, "warmup_steps": 1} | values
        return resolved(refresh_index=schedule, total_steps=100, **values)[1]

    gap = (
        "refresh_index 0-10:5,20-100:5: says nothing about steps 10-20 of 100 (end excluded):"
        " no refresh there"
    )
    assert notes("0-10:5,20-100:5") == [gap]
    for schedule in ("-1", "500", "0-10:5,10-100:50", "0-1000:10"):
        assert notes(schedule) == []
    assert "steps 50-100 of 100" in notes("0-50:10")[0]
    assert notes("0-10:5,20-100:5", train_retriever=False) == []
    assert notes("0-10:5,20-100:5", freeze_retriever_steps=20) == []


def test_refresh_workers_alone_are_noted():
    note = "refresh_workers 2: no effect without --refresh_mode dedicated"
    assert note in resolved(refresh_workers=2)[1]
    assert note not in resolved(refresh_workers=2, refresh_mode="dedicated")[1]


def test_adapters_for_one_tower_imply_what_becomes_of_the_other():
    lora = {"train_retriever": True, "lora_rank": 4}
    changed, notes = resolved(**lora, lora_target="query")
    assert changed["query_side_retriever_training"] is True
    assert notes[0] == "lora_target query: query_side_retriever_training False -> True"
    changed, _ = resolved(**lora, lora_target="passage")
    assert changed["untie_retriever"] is True
    assert resolved(**lora)[1] == []


def test_flags_of_adapters_that_do_nothing_are_said():
    assert resolved(lora_alpha=4.0, lora_target="query")[1] == [
        "lora_alpha 4.0: no effect without lora_rank",
        "lora_target query: no effect without lora_rank",
    ]
    assert resolved(lora_rank=4)[1] == ["lora_rank 4: no effect without train_retriever"]


def test_flags_of_the_readers_adapters_that_do_nothing_are_said():
    assert resolved(reader_lora_alpha=4.0, reader_prefix="Read")[1] == [
        "reader_lora_alpha 4.0: no effect without reader_lora_rank"
    ]
    assert resolved(reader_lora_rank=4, train_data=[])[1] == [
        "reader_lora_rank 4: no effect without train_data"
    ]


def test_another_name_for_the_first_token():
    changed, notes = resolved(retriever_pooling="first")
    assert changed["retriever_pooling"] == "cls"
    assert notes == ["the same by another name: retriever_pooling first -> cls"]


def test_a_global_batch_says_what_has_no_effect():
    given = {"global_batch_size": 8, "per_gpu_batch_size": 2}
    assert resolved(**given) == ({}, ["global_batch_size 8: no effect without train_data"])
    assert resolved(**given, task="qa", train_data=["t"]) == ({}, [])
    notes = resolved(**given, task="dense", train_data=["t"])[1]
    assert any(note.startswith("per_gpu_batch_size 2: no effect with") for note in notes)
