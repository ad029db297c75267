"""The demo's reader is prepared from the training countries alone, the same way every time."""

import json

import pytest
import torch
from demo_reader_examples import ExampleMaker, LookupShape, ReadingShape
from demo_reader_model import PREVIOUS, build_tokenizer, copying_model, reader_config
from prepare_demo_reader import STAGES, Stage, main, read_jsonl, training_passages, write_stage
from transformers import AutoTokenizer, T5ForConditionalGeneration

TRAINING = ("Ruritania", "Graustark", "Borduria", "Syldavia", "Zubrowka", "Freedonia")


def passages_of(country, number):
    geography = (
        f"Area - total: {number}2,345 sq km\nCoastline: {number}39 km\n"
        f"Elevation - highest point: Peak {country} {number}85 m"
    )
    government = f"Capital - name: {country}grad\nGovernment type: constitutional monarchy"
    code = country[:2].lower()
    return [
        {"id": f"{code}-g", "title": country, "section": "Geography", "text": geography},
        {"id": f"{code}-v", "title": country, "section": "Government", "text": government},
    ]


def questions_of(country, number):
    code = country[:2].lower()
    shared = {"country": country}
    return [
        {
            **shared,
            "question": f"what is the capital of {country}?",
            "answers": [f"{country}grad"],
            "field": "capital",
            "gold_passage_id": f"{code}-v",
        },
        {
            **shared,
            "question": f"how long is the coastline of {country}?",
            "answers": [f"{number}39 km"],
            "field": "coastline",
            "gold_passage_id": f"{code}-g",
        },
    ]


def training_text():
    passages = [p for n, c in enumerate(TRAINING, 1) for p in passages_of(c, n)]
    questions = [q for n, c in enumerate(TRAINING, 1) for q in questions_of(c, n)]
    return passages, questions


def maker(seed=0):
    return ExampleMaker(*training_text(), seed)


def write_factbook(folder):
    passages, questions = training_text()
    passages += passages_of("Testland", 9)
    folder.mkdir()
    for name, records in (("passages", passages), ("train", questions)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def test_the_answer_of_a_lookup_stands_behind_its_label_under_the_asked_name():
    made = maker()

    for _ in range(200):
        example = made.lookup(LookupShape())
        (passage,) = example["passages"]
        assert example["target"] == example["answers"][0]
        assert passage["title"] in example["question"]
        assert example["target"] in passage["text"]
        assert 1 <= len(passage["text"].split("\n")) <= 3


def test_names_and_values_are_exchanged_so_that_remembering_does_not_pay():
    made = maker()
    examples = [made.lookup(LookupShape(natural=1.0, cut_values=0.0)) for _ in range(200)]
    capitals = [e for e in examples if e["target"].endswith("grad")]

    assert capitals
    assert any(e["passages"][0]["title"] not in e["target"] for e in capitals)


@pytest.mark.parametrize("n_context", [1, 2, 4])
def test_a_reading_example_has_its_gold_passage_among_others(n_context):
    made = maker()

    for _ in range(50):
        example = made.reading(ReadingShape(n_context, cut_passages=0.5))
        assert len({passage["id"] for passage in example["passages"]}) == n_context
        assert any(
            passage["title"] in example["question"] and example["target"] in passage["text"]
            for passage in example["passages"]
        )


def test_an_invented_name_replaces_the_country_everywhere():
    made = maker()

    for _ in range(50):
        example = made.reading(ReadingShape(3, cut_passages=0.0, invented_names=1.0))
        titles = {passage["title"] for passage in example["passages"]}
        assert any(title in example["question"] for title in titles)


def test_the_same_seed_makes_the_same_examples():
    first, second, other = maker(3), maker(3), maker(4)
    shape = ReadingShape(2, cut_passages=0.5)
    made = [[m.reading(shape) for _ in range(10)] for m in (first, second, other)]

    assert made[0] == made[1]
    assert made[0] != made[2]


def test_examples_are_written_with_ids_of_their_own(tmp_path):
    path = write_stage(Stage("tiny", 5, lambda m: m.lookup(LookupShape())), maker(), tmp_path)

    lines = read_jsonl(path)
    ids = [line["id"] for line in lines] + [p["id"] for line in lines for p in line["passages"]]
    assert len(lines) == 5
    assert len(set(ids)) == len(ids)


def test_titles_stand_in_the_text_as_in_records(tmp_path):
    stage = Stage("tiny", 3, lambda m: m.lookup(LookupShape()))
    apart, together = (
        [passage for line in read_jsonl(path) for passage in line["passages"]]
        for path in (
            write_stage(stage, maker(), tmp_path),
            write_stage(Stage("in", 3, stage.make), maker(), tmp_path, titles_in_text=True),
        )
    )

    wanted = [f"{p['title']}, {p['section']}: {p['text']}" for p in apart]
    assert [p["text"] for p in together] == wanted
    assert {p["title"] for p in together} == {""}


def test_the_curriculum_goes_from_one_passage_to_several():
    sizes = [len(stage.make(maker())["passages"]) for stage in STAGES]

    assert sizes == sorted(sizes)
    assert sizes[0] == 1 < sizes[-1]


def test_passages_of_other_countries_are_kept_out():
    passages, questions = training_text()

    known = training_passages(passages + passages_of("Testland", 9), questions)

    assert {passage["title"] for passage in known} == set(TRAINING)


@pytest.fixture(scope="module")
def tokenizer():
    passages, _ = training_text()
    return build_tokenizer([passage["text"] for passage in passages] * 5, 220)


def test_special_tokens_stand_where_t5_has_them(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>", "<extra_id_0>"])

    assert ids == [0, 1, 2, 3]
    assert tokenizer("x")["input_ids"][-1] == tokenizer.eos_token_id == 1
    assert tokenizer.pad_token_id == 0


def test_digits_are_single_case_is_dropped_and_line_breaks_become_bars(tokenizer):
    text = "Coastline: 139 km\nGovernment type"
    tokens = tokenizer.tokenize(text)

    assert all(len(token) == 1 for token in tokens if any(c.isdigit() for c in token))
    assert tokens == tokenizer.tokenize(text.lower().replace("\n", " | "))


def test_a_target_survives_the_tokenizer(tokenizer):
    ids = tokenizer("<extra_id_0> 12,345 sq km")["input_ids"]

    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "12,345 sq km"


def test_initial_weights_follow_from_the_seed():
    weights = [copying_model(reader_config(300), seed).state_dict() for seed in (0, 0, 1)]

    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_initial_cross_attention_passes_states_on_and_one_head_looks_back():
    model = copying_model(reader_config(300), 0)

    cross = model.decoder.block[0].layer[1].EncDecAttention
    identity = cross.o.weight @ cross.v.weight
    torch.testing.assert_close(identity, torch.eye(len(identity)), atol=1e-5, rtol=0.0)
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert int(bias[:, 0].argmax()) == PREVIOUS


def test_a_shape_that_cannot_start_copying_is_refused():
    config = reader_config(300)
    config.num_heads = 4

    with pytest.raises(ValueError, match=r"num_heads \(4\)"):
        copying_model(config, 0)


def test_the_program_writes_a_reader_that_loads_and_every_stage(tmp_path, capsys):
    write_factbook(tmp_path / "book")
    flags = ["--factbook_directory", str(tmp_path / "book"), "--vocabulary", "300"]

    assert main([*flags, "--output_directory", str(tmp_path / "out"), "--scale", "0.0005"]) == 0

    model = T5ForConditionalGeneration.from_pretrained(tmp_path / "out" / "reader")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "reader")
    assert model.config.vocab_size == len(tokenizer)
    written = [read_jsonl(tmp_path / "out" / f"{stage.name}.jsonl") for stage in STAGES]
    assert [len(lines) for lines in written] == [max(1, round(s.examples * 0.0005)) for s in STAGES]
    assert "Testland" not in json.dumps(written)
    assert "12 passages of training countries" in capsys.readouterr().out


def test_missing_input_is_one_line_that_says_what_writes_it(tmp_path, capsys):
    flags = ["--factbook_directory", str(tmp_path), "--output_directory", str(tmp_path / "out")]

    assert main(flags) == 2

    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "train.jsonl" in error
    assert "--factbook_directory" in error
