"""train.py, in which processes set aside take a nap before each piece they embed.

slow_refresh.py SECONDS FLAGS...
"""

from __future__ import annotations

import sys
import time
from typing import Any

from gazetteer.indexing import helping
from gazetteer.program import run_program
from gazetteer.training.loop import train

if __name__ == "__main__":
    nap_seconds = float(sys.argv.pop(1))
    original = helping.embed

    def embed(*arguments: Any) -> Any:
        time.sleep(nap_seconds)
        return original(*arguments)

    helping.embed = embed
    sys.exit(run_program("train", train))
