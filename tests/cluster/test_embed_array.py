"""A corpus embedded by an array of Slurm jobs, with one of its tasks put back into the queue.

`make test-cluster`; a minute on two cores.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from gazetteer.embed_shards import main
from tests.cluster.slurm_cluster import Cluster
from tests.support.saved_indexes import content
from tests.support.tiny_data import passages, write_jsonl
from tests.support.tiny_models import save_tiny_retriever

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
SIZES = (400, 300, 300, 12_000)
"""Passages of each file; task 0 of 3 has the first file and the last, which takes longest."""


def test_an_array_with_a_requeued_task_makes_the_bytes_of_one_process(
    cluster: Cluster, tmp_path: Path, report
) -> None:
    retriever = save_tiny_retriever(tmp_path / "retriever")
    rows, start = passages(sum(SIZES)), 0
    files = []
    for number, size in enumerate(SIZES):
        files.append(write_jsonl(tmp_path / f"part{number}.jsonl", rows[start : start + size]))
        start += size
    flags = ["--retriever_model_path", str(retriever), "--text_maxlength", "64", "--no_progress"]

    def submit(*words: str) -> str:
        cluster.environment |= {
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
        }
        slurm = ("--gpus-per-task=0", f"--chdir={ROOT}", f"--output={tmp_path}/%A_%a.out")
        script = str(ROOT / "example_scripts" / "embed_array.sh")
        given = words.index("--")
        return cluster.ask(
            "sbatch", "--parsable", *slurm, *words[:given], script, str(tmp_path / "out"),
            str(tmp_path / "part*.jsonl"), *words[given + 1 :],
        )  # fmt: skip

    begin = time.monotonic()
    cache = ["--cache_dir", str(tmp_path / "cache")]
    job = submit("--array=0-2", "--", *flags, *cache)
    merging = submit(f"--dependency=afterok:{job}", "--array=0", "--", "--merge", "--no_progress")

    def said() -> str:
        return "\n".join(path.read_text()[-2000:] for path in sorted(tmp_path.glob("*.out")))

    first, last = (tmp_path / "out" / "parts" / f"{number:06d}" for number in (0, 3))
    cluster.wait(first.exists, 300, f"the first part: {said()}")
    assert not last.exists(), "nothing left to interrupt"
    cluster.ask("scontrol", "requeue", f"{job}_0")
    index = tmp_path / "out" / "index"
    cluster.wait(lambda: cluster.state(f"{merging}_0") == "COMPLETED", 400, f"the merge: {said()}")
    assert cluster.restarts(f"{job}_0") == 1
    assert f"{first}: is there already" in (tmp_path / f"{job}_0.out").read_text(), said()

    alone = tmp_path / "alone"
    words = ["--passages", *map(str, files), "--output", str(alone), "--no_progress"]
    assert main([*words, *flags, "--cache_dir", str(tmp_path / "cache2")]) == 0
    assert main([*words, "--merge"]) == 0
    assert content(index) == content(alone / "index")
    report("array of 3 over 4 files, one requeued", "equal bytes", time.monotonic() - begin)
