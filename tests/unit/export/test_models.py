"""The models of a checkpoint alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gazetteer.export.__main__ import main
from gazetteer.files import find_damage, write_manifest

KEPT = ("compressor/backbone/model.safetensors", "reader/config.json", "retriever/config.json")
LEFT_OUT = ("options.json", "random.0.safetensors", "reader_optimiser.safetensors", "state.json")


def checkpoint(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"what is in {name}")
    write_manifest(folder)
    return folder


def test_models_go_and_the_run_stays(tmp_path: Path) -> None:
    source, target = checkpoint(tmp_path / "step-4", KEPT + LEFT_OUT), tmp_path / "models"
    assert main([str(source), "--output", str(target), "--to", "models"]) == 0
    written = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    assert written == {*KEPT, "manifest.json"}
    assert find_damage(target) is None
    files = json.loads((target / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert set(files) == set(KEPT)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (LEFT_OUT, "no models in this checkpoint"),
        (KEPT, "reader/config.json has 3 bytes"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, names: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path / "step-4", names)
    if names is KEPT:
        (source / "reader/config.json").write_text("cut")
    assert main([str(source), "--output", str(tmp_path / "models"), "--to", "models"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
