from pathlib import Path

from gazetteer.flags import all_flags
from gazetteer.flags_page import flags_markdown
from gazetteer.options import Options

ROOT = Path(__file__).parents[2]


def test_the_committed_page_is_current():
    page = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    assert page == flags_markdown(), "run: python -m gazetteer.flags_page > docs/flags.md"


def test_every_flag_has_one_row_of_four_cells():
    rows = [line for line in flags_markdown().splitlines() if line.startswith("| `--")]
    assert [row.split("`")[1][2:] for row in rows] == list(all_flags(Options))
    assert all(row.count("|") == 5 for row in rows)


def test_rows_show_value_default_and_meaning():
    rows = flags_markdown().splitlines()
    assert "| `--shuffle` | switch | off | shuffle the training data, anew each epoch |" in rows
    assert "| `--lr` | float | `0.0001` | learning rate of the reader |" in rows
    assert "| `--train_data` | str, one or more | none | jsonl files to train on |" in rows
    assert any(row.startswith("| `--index_mode` | `flat`, `faiss` | `flat` |") for row in rows)
