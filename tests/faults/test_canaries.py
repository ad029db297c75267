"""A pickle that would run code, in place of any file that a run loads: it never runs."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch

import train
from gazetteer.evaluation.run import evaluate
from gazetteer.files import MANIFEST, STAMP, replace_vouched, write_manifest
from gazetteer.index import read_manifest
from gazetteer.program import run_program
from tests.faults.whole_run import STEPS, WholeRun
from tests.support.kill_points import Fault, in_child
from tests.support.runs import words_of


@dataclass(frozen=True, slots=True)
class Canary:
    """Leaves a file where it is unpickled."""

    marker: Path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def raw(marker: Path) -> bytes:
    return pickle.dumps(Canary(marker))


def in_torch_file(marker: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": Canary(marker)}, file)
    return file.getvalue()


KINDS = {"pickle": raw, "torch.save": in_torch_file}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    return WholeRun(tmp_path_factory.mktemp("canaries"))


def plant(path: Path, content: bytes) -> None:
    """The file is the canary, and the manifest says that this is right: an attacker's folder."""
    path.write_bytes(content)
    vouching = [folder for folder in path.parents if (folder / MANIFEST).is_file()]
    if path.name == MANIFEST or not vouching:
        return
    if "format" in json.loads((vouching[0] / MANIFEST).read_text()):
        revouch(vouching[0], path)
    else:
        write_manifest(vouching[0])


def revouch(folder: Path, path: Path) -> None:
    """Of an index."""
    document = asdict(read_manifest(folder))
    about = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    codec = document["codec"] or {"quantiser": {}, "codes": []}
    for entry in (*document["files"], *document["rounded"], *codec["codes"], codec["quantiser"]):
        if entry.get("name") == path.name:
            entry |= about
    head = {"format": "gazetteer-index", "format_version": 1}
    replace_vouched(folder / MANIFEST, head | document)


def test_no_file_of_a_run_is_unpickled(
    whole_run: WholeRun, tmp_path: Path, is_long: bool, fault_row
) -> None:
    """Resuming, and evaluating with the index."""
    before = shutil.copytree(whole_run.folder, tmp_path / "before", symlinks=True)
    step = whole_run.experiments / "run" / "checkpoint" / f"step-{STEPS}"
    places = [step, whole_run.experiments / "index", whole_run.folder / "cache",
              whole_run.folder / "reader", whole_run.folder / "retriever"]  # fmt: skip
    found = [path.relative_to(whole_run.folder) for place in places
             for path in sorted(place.rglob("*"))
             if path.is_file() and path.name != STAMP]  # fmt: skip
    jobs = [(path, kind) for path in found for kind in KINDS]
    marker, lost, tracebacks = tmp_path / "marker", [], []
    tried = jobs if is_long else jobs[:: len(jobs) // 6]
    for path, kind in tried:
        shutil.rmtree(whole_run.folder)
        shutil.copytree(before, whole_run.folder, symlinks=True)
        plant(whole_run.folder / path, KINDS[kind](marker))
        names = ("new", "run") if path.parts[0] in ("reader", "retriever") else ("run",)
        for name in names:
            code = in_child(lambda n=name: resume(whole_run, n), tmp_path, output(tmp_path))
            said = (tmp_path / "said").read_text()
            if code not in (0, 2) or "Traceback" in said:
                tracebacks.append(f"{path} ({kind}): exit code {code}: {said[-1500:]}")
        code = in_child(lambda: look_up(whole_run), tmp_path, output(tmp_path))
        said = (tmp_path / "said").read_text()
        if code not in (0, 2) or "Traceback" in said:
            tracebacks.append(f"{path} ({kind}), evaluated: exit code {code}: {said[-1500:]}")
        if marker.exists():
            marker.unlink()
            lost.append(f"{path} ({kind}) ran")
    how = f"{len(found)} files of checkpoints, indexes, caches and model folders, hashes made right"
    fault_row("canary", len(tried), len(lost), f"{how}; {len(tracebacks)} ended with a traceback")
    assert not lost, "\n".join(lost)
    if not is_long:
        assert not tracebacks, "\n".join(tracebacks)


def output(folder: Path) -> Fault:
    return Fault(output=folder / "said")


def resume(run: WholeRun, name: str) -> int:
    words = words_of(run.folder, "train", name=name, train_retriever=True, refresh_index="2",
                     total_steps=STEPS + 1, dropout=0.1)  # fmt: skip
    return run_program("train", train.job, words)


def look_up(run: WholeRun) -> int:
    words = words_of(
        run.folder, "evaluate", name="evaluated", load_index_path=run.experiments / "index",
        model_path=run.experiments / "run" / "checkpoint" / f"step-{STEPS}",
        allow_stale_index=True,
    )  # fmt: skip
    return run_program("evaluate", evaluate, words)


def test_a_canary_runs_where_it_is_unpickled(tmp_path: Path) -> None:
    """Otherwise the test above says nothing."""
    pickle.loads(raw(tmp_path / "marker"))  # noqa: S301
    assert (tmp_path / "marker").exists()
