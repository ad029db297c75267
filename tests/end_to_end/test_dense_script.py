"""OpenMatch's five steps as the example script starts them, on a made-up MS MARCO."""

from __future__ import annotations

import importlib
import json
import os
import random
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.runs import close_logs
from tests.support.tiny_models import WORDS, save_tiny_reader, save_tiny_retriever

ROOT = Path(__file__).resolve().parents[2]


def make_marco(folder: Path, *, passages: int = 40, queries: int = 12) -> None:
    """The files that RocketQA and Microsoft publish, in small; ids are no row numbers."""
    folder.mkdir()
    generator = random.Random(0)

    def words(count: int) -> str:
        return " ".join(generator.choices(WORDS, k=count))

    ids = [str(3 * number + 5) for number in range(passages)]
    texts = {one: words(generator.randint(5, 15)) for one in ids}
    (folder / "para.txt").write_text("".join(f"{one}\t{text}\n" for one, text in texts.items()))
    titles = "".join(f"{one}\t{words(2)}\n" for one in ids[::2])
    (folder / "para.title.txt").write_text(titles)
    positives = {str(100 + number): generator.choice(ids) for number in range(queries)}
    asked = {one: " ".join(texts[gold].split()[:4]) for one, gold in positives.items()}
    lines = "".join(f"{one}\t{text}\n" for one, text in asked.items())
    for split in ("train", "dev"):
        (folder / f"{split}.query.txt").write_text(lines)
    qrels = "".join(f"{one}\t0\t{gold}\t1\n" for one, gold in positives.items())
    (folder / "qrels.train.tsv").write_text(qrels)
    # RocketQA's own has two columns.
    (folder / "qrels.dev.tsv").write_text("".join(f"{q}\t{d}\n" for q, d in positives.items()))
    triples = "".join(
        f"{one} {gold} {other}\r\n"
        for one, gold in positives.items()
        for other in generator.sample(ids, 8)
        if other != gold
    )
    (folder / "qidpidtriples.train.full.2.tsv").write_bytes(triples.encode())


def commands(**settings: object) -> list[list[str]]:
    shown = subprocess.run(
        ["bash", "example_scripts/dense/msmarco.sh"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LAUNCHER": "print"}
        | {name: str(value) for name, value in settings.items()},
        capture_output=True,
        text=True,
        check=True,
    )
    return [shlex.split(line) for line in shown.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_the_script_from_raw_files_to_a_measure(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_marco(tmp_path / "raw")
    save = save_tiny_retriever if kind == "bert" else save_tiny_reader
    out = tmp_path / "out"
    settings = {
        "RAW": tmp_path / "raw", "OUT": out, "MODEL": save(tmp_path / "model"), "BATCH": 4,
        "EVAL_BATCH": 16, "PER_QUERY": 3, "N_SAMPLE": 5, "DEPTH": 20, "VALIDATION": 2, "EPOCHS": 2,
        "LR": 1e-3, "SAVE_STEPS": 4, "Q_LEN": 12, "P_LEN": 24, "TRAIN_FLAGS": "--disable_tqdm",
        "HN_FLAGS": "--filter_duplicates",
    }  # fmt: skip
    monkeypatch.syspath_prepend(str(ROOT / "preprocessing"))
    for words in commands(**settings):
        is_module = words[0] == "-m"
        name, words = (words[1], words[2:]) if is_module else (Path(words[0]).stem, words[1:])
        code = importlib.import_module(name).main(words)
        close_logs()
        assert code == 0, (name, capsys.readouterr().err)
    lines = (out / "lines" / "train.new.jsonl").read_text().splitlines()
    hard = (out / "lines" / "train.hn.jsonl").read_text().splitlines()
    assert len(lines) == 10
    sources = [source for line in hard for source in json.loads(line)["negative_sources"]]
    assert len(hard) == 12
    assert set(sources) == {"gazetteer"}
    assert (out / "stage1" / "checkpoint-4").is_dir()
    assert len((out / "dev.trec").read_text().splitlines()) == 12 * 40
    assert "RR@10" in capsys.readouterr().out
