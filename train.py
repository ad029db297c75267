"""Train retriever and reader together, or a retriever alone.   python train.py --help"""

import sys

from gazetteer.dense.step_on_meta import measure_training
from gazetteer.dense.training import train as train_dense
from gazetteer.dense.warm_up import train as train_scorer
from gazetteer.options import Options
from gazetteer.program import run_program
from gazetteer.records import Ranks
from gazetteer.run_lock import only_run
from gazetteer.task_names import DENSE
from gazetteer.training.loop import train


def job(options: Options, ranks: Ranks) -> int:
    """What `--task` asks for."""
    with only_run(options.experiment.folder, ranks, options.launch.collective_timeout_seconds):
        if options.task.task != DENSE:
            return train(options, ranks)
        is_dual = options.lead.retriever_kind == "de"
        return (train_dense if is_dual else train_scorer)(options, ranks)


def main() -> int:
    """Parse, launch, train."""
    return run_program("train", job, measure=measure_training)


if __name__ == "__main__":
    sys.exit(main())
