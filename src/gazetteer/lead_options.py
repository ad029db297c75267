"""Flags of LEAD: layers of a teacher teach layers of the retriever."""

# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gazetteer.flags import flag, flags_of
from gazetteer.task_names import DENSE

if TYPE_CHECKING:
    from gazetteer.options import Options

ModelKind = Literal["de", "colbert", "cross"]
LayerSelection = Literal["random", "last", "skip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LeadOptions:
    """Lead: layers of a teacher teach layers of the retriever, and teachers are trained."""

    retriever_kind: ModelKind = flag(
        "de", "what --task dense trains; de: dual encoder, colbert: late interaction (new)"
    )
    teacher: str | None = flag(
        None, "hub name or folder of a model that teaches --task dense by its layers (new)"
    )
    teacher_kind: ModelKind = flag("de", "what the teacher is (new)")
    train_teacher: bool = flag(False, "teacher and student learn together, as in LEAD (new)")
    distill_layer_num: int = flag(5, "pairs of layers compared; 0 = final scores only (new)")
    reader_layer_num: int = flag(
        0, "decoder layers of the reader that teach the retriever's layers; 0 = none (new)"
    )
    layer_selection: LayerSelection = flag("random", "which layers are compared (new)")
    layer_resample_steps: int = flag(10, "steps until random layers are drawn anew (new)")
    layer_score_reweight: bool = flag(
        False, "weigh a teacher's layers by how well each ranks the positives (new)"
    )
    layer_temperature: float = flag(10.0, "softmax temperature of these weights (new)")


def lead_rules(options: Options, program: str) -> Iterator[str]:
    """What cannot be asked of teachers and of what is taught."""
    lead, dense, task = options.lead, options.dense, options.task.task
    if lead.train_teacher and lead.teacher is None:
        yield "--train_teacher must come with --teacher"
    for name in ("teacher", "retriever_kind"):
        value = getattr(lead, name)
        if value not in (None, "de") and (task != DENSE or program != "train"):
            yield f"--{name} ({value}) must come with --task {DENSE} of train.py"
    if lead.teacher is not None and lead.retriever_kind != "de":
        yield f"--retriever_kind ({lead.retriever_kind}) must be de with --teacher"
    if lead.teacher is not None or lead.retriever_kind != "de":
        cause = "--teacher" if lead.teacher is not None else "--retriever_kind"
        unfit = {
            "--grad_cache": dense.grad_cache,
            f"--dense_loss {dense.dense_loss}": dense.dense_loss != "infonce",
            "--matryoshka_dims": bool(dense.matryoshka_dims),
            "--mask_known_positives": dense.mask_known_positives,
            "--mine_negatives": options.mining.mine_negatives > 0 and lead.retriever_kind != "de",
            "--dev_queries": dense.dev_queries is not None and lead.retriever_kind != "de",
        }
        yield from (f"{name} must not come with {cause}" for name, given in unfit.items() if given)
        if dense.train_n_passages < 2 and "cross" in (lead.teacher_kind, lead.retriever_kind):
            rule = "be at least 2 with a cross-encoder, which compares a query's own passages"
            yield f"--train_n_passages ({dense.train_n_passages}) must {rule}"
    if lead.reader_layer_num and not (options.retriever.train_retriever and task != DENSE):
        yield (
            f"--reader_layer_num ({lead.reader_layer_num}) must come with --train_retriever and a"
            " reader"
        )


def lead_remarks(options: Options) -> Iterator[str]:
    """Flags that do nothing here."""
    lead = options.lead
    if lead.teacher is not None or lead.reader_layer_num:
        return
    for each in flags_of(LeadOptions):
        value = getattr(lead, each.name)
        if each.name not in ("retriever_kind", "reader_layer_num") and value != each.default:
            yield f"{each.name} {value}: no effect without --teacher or --reader_layer_num"
