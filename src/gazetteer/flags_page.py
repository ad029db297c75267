"""Write docs/flags.md: `python -m gazetteer.flags_page > docs/flags.md`."""

from __future__ import annotations

import sys

from gazetteer.flags import Flag, flags_of, group_title, groups_of
from gazetteer.options import Options

_HEAD = """# Flags

The flags of `train.py` and `evaluate.py`, made from `src/gazetteer/options.py` by
`python -m gazetteer.flags_page > docs/flags.md`. Names, types and defaults are Atlas's; flags of
our own end with "(new)". Names are given in full; of a flag given twice, the last counts.

`--config FILE` reads flags from a YAML or JSON file, without the dashes; the command line wins, and
`--no-shuffle` switches off what the file switched on:

    task: qa
    train_data: [nq/train.jsonl]
    lr: 4e-5
    shuffle: true
"""


def flags_markdown() -> str:
    """Format every flag, one table per group, in the order of `options.py`."""
    sections = [_section(group) for group in groups_of(Options).values()]
    return "\n".join([_HEAD, *sections])


def _section(group: type) -> str:
    head = f"## {group_title(group)}\n\n| flag | value | default | meaning |\n|---|---|---|---|\n"
    return head + "".join(_row(flag) for flag in flags_of(group))


def _row(flag: Flag) -> str:
    is_word = flag.kind is bool or flag.default in (None, [])
    default = flag.default_text if is_word else f"`{flag.default_text}`"
    return f"| `--{flag.name}` | {_value(flag)} | {default} | {flag.help} |\n"


def _value(flag: Flag) -> str:
    if flag.kind is bool:
        return "switch"
    kind = ", ".join(f"`{choice}`" for choice in flag.choices or ()) or flag.kind.__name__
    return f"{kind}, one or more" if flag.is_list else kind


if __name__ == "__main__":
    sys.stdout.write(flags_markdown())
