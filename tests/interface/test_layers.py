"""Rules of the house that a reader can rely on: who imports what, and what nobody may call."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "gazetteer").rglob("*.py"))
PROGRAMS = sorted([ROOT / "train.py", ROOT / "evaluate.py", *(ROOT / "preprocessing").glob("*.py")])
FORBIDDEN_BUILTINS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "extractall",
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "scatter_object_list",
}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve"}


def _imports(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_only_the_distributed_package_knows_torch_distributed(path: Path) -> None:
    if path.parent.name == "distributed":
        return
    names = _imports(ast.parse(path.read_text()))
    assert not {n for n in names if n.startswith(("torch.distributed", "torch.nn.parallel"))}


@pytest.mark.parametrize("path", SOURCES + PROGRAMS, ids=lambda path: path.stem)
def test_nothing_loads_or_runs_code(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not _imports(tree) & FORBIDDEN_MODULES
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        is_builtin = isinstance(node.func, ast.Name) and name in FORBIDDEN_BUILTINS
        assert not is_builtin, f"{path}:{node.lineno} calls {name}"
        assert name not in FORBIDDEN_CALLS, f"{path}:{node.lineno} calls {name}"
        keywords = {k.arg: k.value for k in node.keywords}
        assert "trust_remote_code" not in keywords, f"{path}:{node.lineno}"
        shell = keywords.get("shell")
        assert not (isinstance(shell, ast.Constant) and shell.value), f"{path}:{node.lineno}"
        owner = getattr(getattr(node.func, "value", None), "id", "")
        tensors_only = keywords.get("weights_only")
        is_safe = isinstance(tensors_only, ast.Constant) and tensors_only.value is True
        is_load = (owner, name) == ("torch", "load")
        assert is_safe or not is_load, f"{path}:{node.lineno} calls torch.load"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
