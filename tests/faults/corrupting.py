"""Single bytes of files, changed and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Flip:
    """One byte of one file.

    Attributes:
        path: of the file.
        place: of the byte.
        mask: of the bits that change; not 0.
    """

    path: Path
    place: int
    mask: int

    @contextmanager
    def done(self) -> Iterator[None]:
        """The byte is changed meanwhile."""
        self._change()
        try:
            yield
        finally:
            self._change()

    def _change(self) -> None:
        with self.path.open("r+b") as file:
            file.seek(self.place)
            (byte,) = file.read(1)
            file.seek(self.place)
            file.write(bytes([byte ^ self.mask]))


def flips(path: Path, count: int, seed: int = 0) -> Iterator[Flip]:
    """Changes spread over a file: its first and last byte, and others by chance.

    Half of them change one bit, the others any number.
    """
    chance = random.Random(f"{seed} {path.name}")
    size = path.stat().st_size
    places = [0, size - 1, *(chance.randrange(size) for _ in range(count - 2))]
    for number, place in enumerate(places[:count]):
        mask = 1 << chance.randrange(8) if number % 2 else chance.randrange(1, 256)
        yield Flip(path, place, mask)
