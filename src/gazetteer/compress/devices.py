"""One place where `--device` becomes a device."""

from __future__ import annotations

import logging
import os

import torch

from gazetteer.errors import OptionError
from gazetteer.records import Ranks

logger = logging.getLogger(__name__)


def choose_device(name: str) -> None:
    """Settle where this process computes, before anything does.

    Args:
        name: "gpu", "cpu" or "trainium".

    Raises:
        OptionError: trainium.
    """
    if name == "trainium":
        raise OptionError("--device (trainium) must be gpu or cpu: nothing here runs on Trainium")
    if name == "cpu":
        # Launchers give each process a GPU if they see one.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        logger.warning("--device gpu: there is none here, so the CPU computes")


def alone() -> Ranks:
    """This process without peers, on the device that `choose_device` settled."""
    return Ranks(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
