"""`--retriever_kind`: late-interaction models and cross-encoders trained as retrievers are.

LEAD's teachers before they teach. Lines, picking, loop and checkpoints are those of dual encoders.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from gazetteer import build
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.tokens import SpecialTokens
from gazetteer.dense.data import DenseData, open_data
from gazetteer.dense.distillation import TokenisedModel, open_model
from gazetteer.dense.evaluation import report_all
from gazetteer.dense.records import DenseBatch
from gazetteer.dense.training import (
    RETRIEVER,
    build_batches,
    dense_plan,
    link_checkpoint,
    started,
    validation_losses,
)
from gazetteer.distributed.agreement import build_alike, main_first
from gazetteer.distributed.query_shares import QueryShare
from gazetteer.distributed.replicas import replicate
from gazetteer.losses.contrastive import contrastive_loss
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.reporting import start_experiment, start_log
from gazetteer.stats import Stopwatch
from gazetteer.step import Stats
from gazetteer.training.beginning import Beginning, begin
from gazetteer.training.learning import assign, train_state
from gazetteer.training.loop import carry_out
from gazetteer.training.run import TrainingRun


class RankingStep(nn.Module):
    """One micro-batch of any model that scores passages, from tokens to loss.

    Candidates of a query are the passages of the whole batch, of all ranks; or, for a model that
    reads query and passage together, its own.

    Args:
        model: replicated where there are several ranks.
        temperature: softmax of the scores (`--dense_temperature`).
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(
        self, batch: DenseBatch, train_retriever: bool = True, share: QueryShare | None = None
    ) -> tuple[Tensor, Stats]:
        """The loss of one micro-batch, as `dense.step.DenseStep` gives it. Collective."""
        clock = Stopwatch()
        share = share or QueryShare.of(len(batch.examples))
        with clock.time("runtime/embed"):
            states = self.model(batch.query_tokens, batch.passage_tokens, ())
        scores = states.scores()
        loss = contrastive_loss(
            scores.final, scores.positive, temperature=self.temperature, query_count=share.mean
        )
        average = share.logged(loss)
        stats: Stats = {"loss/retriever_loss": average, "loss/train_loss": average}
        return loss, stats | clock.seconds


def train(options: Options, ranks: Ranks) -> int:
    """Train a late-interaction model or a cross-encoder, as `dense.training.train` does retrievers.

    Collective: every rank must call this.

    Returns:
        Exit code: 0, or 75 when a signal ended the run early; the state is saved either way.
    """
    start_log(ranks)
    beginning = begin(options, ranks)
    name = options.retriever.retriever_model_path
    if beginning.models is not None:
        name = str(beginning.models / build.RETRIEVER_FOLDER)
    kind = options.lead.retriever_kind
    model = build_alike(lambda: open_model(options, ranks, kind, name), ranks)
    data = open_data(options, ranks, model.tokenizer)
    start_experiment(options.experiment.folder, options, ranks)
    use_fast_float32_matmul()
    run = _build(options, ranks, beginning, model, data)
    logs, export = options.dense.logging_dir, options.dense.export_path
    code = carry_out(run, Path(logs) if logs else None)
    if code == 0 and export is not None:
        main_first(lambda: model.save(Path(export)), ranks)
    return code


def _build(
    options: Options, ranks: Ranks, beginning: Beginning, model: TokenisedModel, data: DenseData
) -> TrainingRun:
    trained = {RETRIEVER: list(model.model.named_parameters())}
    peak_rates = {RETRIEVER: options.optimisation.lr_retriever}
    temperature, export = options.dense.dense_temperature, options.dense.export_path
    losses = validation_losses(
        options, ranks, data, model.tokenizer, RankingStep(model.model, temperature)
    )
    run = TrainingRun(
        options=options,
        ranks=ranks,
        folder=options.experiment.folder,
        plan=dense_plan(options, ranks, data.train.count),
        models=build.Models(
            retriever=None, retriever_tokenizer=None, reader=None, reader_tokenizer=None
        ),
        step=RankingStep(replicate(model.model, ranks), temperature),
        retrieving=None,
        refreshes=(),
        batches=build_batches(
            options, data.train, data.corpus, SpecialTokens.of(model.tokenizer), is_training=True
        ),
        evaluate=partial(report_all, losses),
        state=train_state(options, trained, peak_rates, owners=assign(options, ranks, trained)),
        peak_rates=peak_rates,
        checkpoints=beginning.checkpoints,
        export=partial(link_checkpoint, Path(export)) if export else None,
        save_more=lambda checkpoint: model.save(checkpoint / build.RETRIEVER_FOLDER),
    )
    return started(run, beginning, data)
