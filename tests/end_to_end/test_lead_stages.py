"""All stages of LEAD, command after command of all.sh, on tiny models and a made-up collection."""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import shutil
from pathlib import Path

import pytest

from gazetteer.options import parse_options
from gazetteer.records import Ranks
from tests.interface.test_example_scripts import printed
from tests.support.lead_models import save_encoder
from tests.support.runs import close_logs
from tests.support.tiny_models import WORDS
from train import job

ROOT = Path(__file__).resolve().parents[2]
TOPICS = WORDS[50:90]


def make_collection(folder: Path) -> None:
    """A document for each topic, some without one; a query for each topic, judged by it."""
    generator = random.Random(0)
    folder.mkdir(parents=True)
    corpus, queries, qrels, lines = [], [], [], []
    for number, topic in enumerate(TOPICS):
        words = " ".join(generator.choices(WORDS[:50], k=6))
        corpus.append(f"d{number}\t{topic}\t{words} {topic}\n")
        queries.append(f"q{number}\twhat is {topic}\n")
        qrels.append(f"q{number}\t0\td{number}\t1\n")
        others = generator.sample([n for n in range(len(TOPICS)) if n != number], 4)
        lines.append(
            {
                "query_id": f"q{number}",
                "query": f"what is {topic}",
                "positives": [{"id": f"d{number}"}],
                "negatives": [{"id": f"d{other}"} for other in others],
            }
        )
    files = {"corpus.tsv": corpus, "train.jsonl": [json.dumps(line) + "\n" for line in lines]}
    for split, part in (("train", slice(0, 32)), ("dev", slice(32, None))):
        files[f"{split}.queries.tsv"] = queries[part]
        files[f"{split}.qrels.tsv"] = qrels[part]
    files["train.jsonl"] = files["train.jsonl"][:32]
    for name, rows in files.items():
        (folder / name).write_text("".join(rows), encoding="utf-8")


def carry_out(command: list[str]) -> None:
    """What a shell would do, in this process."""
    words = command[1:] if command[0] == "python" else command
    if words[0] == "cp":
        shutil.copy(words[1], words[2])
    elif words[0] == "train.py":
        options = parse_options([*words[1:], "--no_progress"], program="train")
        assert job(options, Ranks()) == 0, command
    elif words[0] == "-m":
        assert importlib.import_module(words[1]).main(words[2:]) == 0, command
    else:
        path = ROOT / words[0]
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.main(words[1:]) == 0, command
    close_logs()


def test_all_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "my data"
    make_collection(data / "lead" / "tiny")
    models = {
        f"MODEL_{layers}": str(
            save_encoder(tmp_path / f"model-{layers}", layers=count, seed=layers)
        )
        for layers, count in ((6, 2), (12, 3), (24, 4))
    }
    monkeypatch.syspath_prepend(str(ROOT / "preprocessing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = "tiny 3000 2 32 8 4 3 0.1".split()
    script = ROOT / "example_scripts" / "lead" / "all.sh"
    for command in printed(script, data, *words, STEPS="2", SAVE_STEPS="2", **models):
        carry_out(command)

    hard = (data / "lead" / "tiny" / "train-hard.jsonl").read_text().splitlines()
    assert len(hard) == 32
    for line in map(json.loads, hard):
        positives = {each["id"] for each in line["positives"]}
        negatives = {each["id"] for each in line["negatives"]}
        assert len(negatives) > 20
        assert not positives & negatives
    runs = data / "experiments" / "tiny"
    for name, step in (("12de_to_6de", 2), ("12ce_to_6de", 20), ("24cb_to_12de", 2)):
        assert (runs / name / "checkpoint" / f"step-{step}" / "teacher").is_dir()
        found = (runs / name / "runs" / f"dev-step-{step}.trec").read_text().splitlines()
        assert len(found) == 8 * len(TOPICS)
    assert capsys.readouterr().out.lower().count("rr") >= 5
