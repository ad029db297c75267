"""What the README shows of the index alone runs as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from gazetteer.index.__main__ import main
from tests.support import tiny_data
from tests.support.saved_indexes import save_embedded

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^    python -m gazetteer\.index (.+)$", README, re.MULTILINE)


@pytest.fixture
def left_by_a_run(tmp_path: Path, retriever_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the README's own training command leaves behind."""
    run = tmp_path / "runs" / "my-run"
    retriever = run / "checkpoint" / "latest" / "retriever"
    shutil.copytree(retriever_folder, retriever)
    save_embedded(run / "saved_index", tiny_data.passages(20), retriever)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_five_lines_print_five_passages(
    left_by_a_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = CODE
    assert len([line for line in code.splitlines() if line]) <= 5
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    scores = [float(line.split()[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    ids = [line.split()[1] for line in lines]
    assert set(ids) < {f"p{number}" for number in range(20)}


def test_the_commands_do_what_they_say(
    left_by_a_run: Path, retriever_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [command.split()[0] for command in COMMANDS] == [
        "info", "verify", "convert", "convert", "merge",
    ]  # fmt: skip
    saved = "runs/my-run/saved_index"
    assert main(["convert", saved, "--to", "atlas", "--output", "atlas_index", "--files", "3"]) == 0
    for name, seed in (("first_index", "a"), ("second_index", "b")):
        passages = [row | {"id": f"{seed}{row['id']}"} for row in tiny_data.passages(5)]
        save_embedded(left_by_a_run / name, passages, retriever_folder)
    for command in COMMANDS:
        # There is no network in a test: a folder stands for the name of a model.
        words = shlex.split(command.replace("facebook/contriever", str(retriever_folder)))
        assert main(words) == 0, command
    assert f"{saved}: sound" in capsys.readouterr().out
    assert len(list(Path("for_atlas").glob("*.pt"))) == 2 * 128
    assert main(["verify", "my_index", "both_indexes"]) == 0
