"""What sentence-transformers looks for beside a model: how token states become one vector.

Without these files it takes the mean, whatever the model was trained with. The class names are the
ones every version of it understands.
"""

from __future__ import annotations

import json
from pathlib import Path

from gazetteer.errors import CheckpointError
from gazetteer.files import replace_json
from gazetteer.retriever.encoder import TextEncoder, TokenPooling
from gazetteer.retriever.head import HEAD_FOLDER

POOLING_FLAGS: dict[TokenPooling, str] = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "sqrt": "pooling_mode_mean_sqrt_len_tokens",
}
POOLING_FOLDER, NORMALIZE_FOLDER = "1_Pooling", "2_Normalize"


def describe_for_sentence_transformers(tower: TextEncoder, folder: Path) -> None:
    """Write modules, pooling and lengths beside the weights, and the head, of one tower.

    Of a T5's first decoder token nothing can be said: no module makes it.
    """
    if tower.pooling not in POOLING_FLAGS:
        return
    modules = [("Transformer", ""), ("Pooling", POOLING_FOLDER)]
    if tower.head is not None:
        modules.append(("Dense", HEAD_FOLDER))
    if tower.normalize:
        modules.append(("Normalize", NORMALIZE_FOLDER))
    documents = [
        {
            "idx": number,
            "name": str(number),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, (kind, path) in enumerate(modules)
    ]
    for _, path in modules:
        (folder / path).mkdir(exist_ok=True)
    pooling = {flag: name == tower.pooling for name, flag in POOLING_FLAGS.items()}
    replace_json(
        folder / POOLING_FOLDER / "config.json",
        {"word_embedding_dimension": tower.model.config.hidden_size} | pooling,
    )
    positions = getattr(tower.model.config, "max_position_embeddings", None)
    replace_json(
        folder / "sentence_bert_config.json", {"max_seq_length": positions, "do_lower_case": False}
    )
    replace_json(
        folder / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "dot"}
    )
    replace_json(folder / "modules.json", documents)


def read_sentence_way(folder: Path) -> tuple[TokenPooling, bool] | None:
    """How a folder of sentence-transformers makes vectors: pooling, and whether to length 1.

    Returns:
        None where the folder is none of that kind.

    Raises:
        CheckpointError: it is one, but pools in a way that there is not here.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return None
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
        config = json.loads(
            (folder / kinds.get("Pooling", POOLING_FOLDER) / "config.json").read_text("utf-8")
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from None
    more = kinds.keys() - {"Transformer", "Pooling", "Normalize"}
    if more:
        raise CheckpointError(f"{path}: has a module that is not known here ({min(more)})")
    # Newer versions name the one mode; older ones have a truth for each.
    named = config.get("pooling_mode")
    chosen: list[TokenPooling] = [
        mode for mode, flag in POOLING_FLAGS.items() if config.get(flag) or str(named) == mode
    ]
    on = [
        flag for flag, value in config.items() if flag.startswith("pooling_mode_") and value is True
    ]
    if len(chosen) != 1 or len(on) > 1:
        raise CheckpointError(f"{folder}: pools in another way than mean, cls or sqrt ({config})")
    return chosen[0], "Normalize" in kinds
