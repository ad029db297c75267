"""What a run says about itself: run.log, TensorBoard, metrics.jsonl. Rank 0 alone reports."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers.utils.logging import disable_progress_bar

from gazetteer.distributed.agreement import main_first
from gazetteer.errors import GazetteerError
from gazetteer.files import disk_problem, replace_text
from gazetteer.options import OPTIONS_FILE, Options, options_log, save_options
from gazetteer.records import Ranks

LINE_FORMAT = "[%(asctime)s] {%(filename)s:%(lineno)d} %(levelname)s - %(message)s"
DATE_FORMAT = "%m/%d/%Y %H:%M:%S"
EARLY_LINES = 1_000
"""Lines kept for run.log until there is a folder for it."""
logger = logging.getLogger(__name__)


def start_log(ranks: Ranks) -> None:
    """Log to stdout; ranks other than 0 log warnings only.

    Lines have Atlas's shape. Rank 0 keeps them for run.log, too: nothing is written before
    `start_experiment`, when data have been checked.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if ranks.is_main:
        never = logging.CRITICAL + 1
        handlers.append(MemoryHandler(EARLY_LINES, flushLevel=never, flushOnClose=False))
    logging.basicConfig(
        level=logging.INFO if ranks.is_main else logging.WARNING,
        format=LINE_FORMAT,
        datefmt=DATE_FORMAT,
        handlers=handlers,
        force=True,
    )
    # Libraries keep their own voice down: one line per fact, ours.
    disable_progress_bar()
    for name in ("transformers", "torch", "absl", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def start_experiment(folder: Path, options: Options, ranks: Ranks) -> Path:
    """Create the experiment's folder, log to it, write its options and what they imply.

    Collective: every rank must call this.

    A resumed run appends to run.log.

    Raises:
        GazetteerError: the folder cannot be written, the same error on every rank.
    """

    def start() -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _log_to(folder / "run.log")
            (folder / "opt.log").write_text(options_log(options), encoding="utf-8")
            save_options(options, folder / OPTIONS_FILE)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise GazetteerError(
                f"{folder}: cannot be written: {reason} (--checkpoint_dir, --name)"
            ) from None
        for note in options.notes:
            logger.info("%s", note)

    main_first(start, ranks)
    return folder


def _log_to(path: Path) -> None:
    """Write the lines kept so far to a file, and all that follow."""
    root = logging.getLogger()
    file = _RunLog(path, encoding="utf-8")
    file.setFormatter(logging.Formatter(LINE_FORMAT, DATE_FORMAT))
    for early in [h for h in root.handlers if isinstance(h, MemoryHandler)]:
        early.setTarget(file)
        early.flush()
        root.removeHandler(early)
    root.addHandler(file)


class _RunLog(logging.FileHandler):
    """run.log; where the disk does not take it, the other handlers are told so, once."""

    is_full = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        """Say what is wrong in one line, unless it is a mistake of ours."""
        error = sys.exception()
        if not isinstance(error, OSError) or disk_problem(error) is None:
            super().handleError(record)
        elif not self.is_full:
            self.is_full = True
            sys.stderr.write(f"{self.baseFilename}: {error.strerror}; lines are missing there\n")


class Reporter:
    """Writes the numbers of a run; silent on all ranks but 0.

    A disk that does not take them ends no run: they are dropped, with a warning.

    Args:
        folder: of the experiment.
        ranks: this process among its peers.
        total_steps: printed beside the step.
        tensorboard: folder of TensorBoard's files; None for `folder`.
    """

    def __init__(
        self, folder: Path, ranks: Ranks, total_steps: int = 0, tensorboard: Path | None = None
    ) -> None:
        self._total_steps = total_steps
        self._device = ranks.device
        self._is_main = ranks.is_main
        self._writer: SummaryWriter | None = None
        self._metrics = folder / "metrics.jsonl"
        if ranks.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer = SummaryWriter(str(tensorboard or folder))

    def __enter__(self) -> Reporter:
        threading.excepthook = _unless_the_disk
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._to_tensorboard(SummaryWriter.close)
        threading.excepthook = threading.__excepthook__

    def training(
        self, step: int, averages: Mapping[str, float], learning_rates: Mapping[str, float]
    ) -> None:
        """One line about training: `{step} / {total} | {name}: {value} ... | lr: ... | Memory`."""
        if not self._is_main:
            return
        numbers = " | ".join(f"{name}: {averages[name]:.3g}" for name in sorted(averages))
        rate = next(iter(learning_rates.values()))
        memory = peak_memory_gib(self._device)
        logger.info(
            "%d / %d | %s | lr: %.2g | Memory: %.1f GiB",
            step, self._total_steps, numbers, rate, memory,
        )  # fmt: skip
        self._write("train", step, {**averages, **learning_rates, "memory_gib": memory})

    def evaluation(
        self,
        step: int,
        name: str,
        metrics: Mapping[str, float],
        intervals: Mapping[str, tuple[float, float]],
        *,
        digits: int = 3,
    ) -> None:
        """Two lines about an evaluation: `Dataset: {file} | {value} {metric} | ...`, the intervals.

        The first is Atlas's, which others may read; in metrics.jsonl, too, the intervals have a
        line of their own: `[low, high]` by the name of each metric.
        """
        if not self._is_main:
            return
        numbers = " | ".join(f"{value:.{digits}f} {metric}" for metric, value in metrics.items())
        logger.info("Dataset: %s | %s", name, numbers)
        self._write("eval", step, {f"{name}/{metric}": value for metric, value in metrics.items()})
        if not intervals:
            return
        ranges = " | ".join(
            f"{low:.{digits}f}-{high:.{digits}f} {m}" for m, (low, high) in intervals.items()
        )
        logger.info("95%% intervals: %s | %s", name, ranges)
        self._append(
            {"kind": "interval", "step": step}
            | {f"{name}/{metric}": list(ends) for metric, ends in intervals.items()}
        )

    def _write(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._to_tensorboard(SummaryWriter.add_scalar, name, value, step)
        self._append({"kind": kind, "step": step, **numbers})

    def _to_tensorboard(self, write: Callable[..., object], *arguments: object) -> None:
        if self._writer is None:
            return
        try:
            write(self._writer, *arguments)
        except OSError as error:
            # Its thread has ended; it cannot be had back.
            self._writer = None
            logger.warning("no more numbers for TensorBoard: %s", error.strerror or error)

    def _append(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record) + "\n"
        try:
            # One write per line, so that a reader never sees half of one.
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            _drop_half_a_line(self._metrics)
            logger.warning("%s: a line is missing: %s", self._metrics, error.strerror)


def _drop_half_a_line(path: Path) -> None:
    with suppress(OSError):
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


def _unless_the_disk(thread: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread ends with a traceback where one line of ours says it all."""
    if not isinstance(thread.exc_value, OSError) or disk_problem(thread.exc_value) is None:
        threading.__excepthook__(thread)


def drop_metrics_after(folder: Path, step: int) -> None:
    """Forget logged steps that a resumed run will log again."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return
    # A run that was killed or met a full disk may leave half a line, even half a character.
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    kept = [line for line in lines if (logged := _logged_step(line)) is not None and logged <= step]
    replace_text(path, "".join(line + "\n" for line in kept))


def _logged_step(line: str) -> int | None:
    """The step of a line of metrics; None where it is no whole line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None


def peak_memory_gib(device: torch.device) -> float:
    """Largest memory held so far, in GiB: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
