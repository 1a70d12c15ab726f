"""Items as tokens with input embeddings projected from vectors, as in LLaRA (Liao et al. 2024, arXiv 2312.02445).

I items, D numbers in a vector, V rows of the model's own embedding, model width h. The output head keeps its V columns, so
the model reads item tokens but never writes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import Tensor, nn

from mllmrec.cache import atomic_path
from mllmrec.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "item_tokens.safetensors"
PROJECTOR, VECTORS = "item_projector", "item_vectors"


class ItemVectorEmbedding(nn.Module):
    """A model's input embedding that reads ids from ``first`` on as items."""

    item_vectors: Tensor

    def __init__(self, base: Any, vectors: Tensor, first: int) -> None:
        """Put a new projector beside the model's embedding.

        Args:
            base: the model's own input embedding, for ids below ``first``.
            vectors: (I, D) item vectors, which do not train.
            first: id of the first item's token, V or more.
        """
        super().__init__()
        width = int(base.weight.shape[1])
        self.base, self.first = base, first
        self.register_buffer(VECTORS, vectors)
        self.item_projector = nn.Sequential(
            nn.Linear(vectors.shape[1], width), nn.GELU(), nn.Linear(width, width)
        )

    @property
    def weight(self) -> Tensor:
        """(V, h) weights of the model's own embedding."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids of any shape → the same shape with h added."""
        of_items = ids >= self.first
        embedded = self.base(ids.masked_fill(of_items, 0))
        if not bool(of_items.any()):
            return embedded
        projected = self.item_projector(self.item_vectors[ids[of_items] - self.first])
        return embedded.index_put((of_items,), projected.to(embedded.dtype))

    def item_state(self) -> dict[str, Tensor]:
        """Projector and vectors, without the model's own embedding."""
        return {name: part for name, part in self.state_dict().items() if not name.startswith("base.")}


def add_marks(tokenizer: PreTrainedTokenizerBase, marks: Sequence[str], vocabulary: int) -> int:
    """Make every mark one token, in order and beyond the model's vocabulary; a second call changes nothing.

    Args:
        tokenizer: the model's tokenizer.
        marks: the marks of the I items.
        vocabulary: V; if it exceeds the tokenizer's own size, the ids between become tokens that occur in no text.

    Returns:
        The id of the first mark.

    Raises:
        UserError: the tokenizer gives the marks other ids.
    """
    if marks[0] not in tokenizer.get_added_vocab():
        unused = [f"<|unused:{place}|>" for place in range(len(tokenizer), vocabulary)]
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*unused, *marks)])
    ids: Any = tokenizer.convert_tokens_to_ids(list(marks))
    first = int(ids[0])
    if first < vocabulary or ids != list(range(first, first + len(marks))):
        raise UserError(
            "prompt.item_tokens=vector: the backbone's tokenizer cannot give each item a token of its own; choose "
            "another backbone, or prompt.item_tokens=none"
        )
    return first


def write_item_tokens(folder: Path, embedding: ItemVectorEmbedding, marks: Sequence[str]) -> None:
    """Write projector, vectors and marks beside a phase's weights."""
    state = {name: part.detach().cpu().contiguous() for name, part in embedding.item_state().items()}
    with atomic_path(folder / NAME) as temporary:
        save_file(state, temporary, metadata={"marks": json.dumps(list(marks))})


def read_item_tokens(folder: Path) -> tuple[list[str], dict[str, Tensor]]:
    """The marks and the state that `write_item_tokens` wrote.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    path = folder / NAME
    try:
        with safe_open(path, framework="pt") as stored:
            marks = json.loads((stored.metadata() or {})["marks"])
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read as item tokens ({error}): train the run with this method again"
        ) from error
    return marks, state
