"""The inference half of RepExp (Tuyls et al. 2025, arXiv 2510.11686): of n drawn answers, k that are unlike each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from hydra.utils import instantiate
from sklearn.random_projection import SparseRandomProjection

from mllmrec.engine.base import positions_of
from mllmrec.engine.batches import TokenBatch
from mllmrec.errors import UserError
from mllmrec.evaluation.ranking import Ranker
from mllmrec.inference.base import InferenceInputs
from mllmrec.inference.drawn import Drawn, columns_of, read
from mllmrec.inference.sampled import Rest, Sampled
from mllmrec.prompts.examples import Example
from mllmrec.randomness import numpy_generator
from mllmrec.rl.batch import RolloutBatch
from mllmrec.rollout.base import Turn
from mllmrec.samples.item_texts import described_items
from mllmrec.step.speaker import Speaker
from mllmrec.text_encoders.base import require_encoder


class RepExpCoreset(Sampled):
    """Ranks by k of n drawn answers, in the order in which they are chosen: each time the one least like those before.

    A pool of n answers has representations ``h``, minus their mean. From ``S = ridge * I`` on, the answer with the largest
    ``h' S^-1 h`` is chosen, and ``h h'`` is added to S. So HR@K of the ranking says whether K such answers hold the target.

    The authors represent an answer by the mean of the policy's last hidden states over its tokens, projected at random
    (``vectors=states``). ``vectors=items`` takes the texts of the items that it names, as the reward of this system here does.
    """

    needs_package = ("sklearn", "'mllmrec[text]'")

    def __init__(
        self,
        n: int,
        k: int,
        temperature: float = 1.0,
        vectors: Literal["states", "items"] = "states",
        dimensions: int = 512,
        ridge: float = 0.01,
        rest: Rest = "greedy",
    ) -> None:
        """Set how to draw and choose.

        Args:
            n: answers drawn for each user.
            k: answers chosen.
            temperature: of draws.
            vectors: what represents an answer.
            dimensions: of projected hidden states; smaller states are not projected.
            ridge: what is on the diagonal of S at first.
            rest: what happens to candidates that no chosen answer names.

        Raises:
            ValueError: ``k`` is not from 1 to ``n``, or another number is not above 0.
        """
        super().__init__(n, temperature, "frequency", rest=rest)
        if not 1 <= k <= n:
            raise ValueError(f"k={k}: must be from 1 to the n={n} answers that are drawn")
        if dimensions < 1:
            raise ValueError(f"dimensions={dimensions}: must be 1 or more")
        if ridge <= 0:
            raise ValueError(f"ridge={ridge:g}: must be above 0")
        self.k, self.vectors, self.dimensions, self.ridge = k, vectors, dimensions, ridge
        self._of_items: np.ndarray | None = None  # (I, D)

    def ranker(self, inputs: InferenceInputs) -> Ranker:
        """See `Inference`.

        Raises:
            UserError: the items' texts are wanted, and the run has no encoder or it fails.
        """
        if self.vectors == "items" and self._of_items is None:
            if inputs.cfg.get("text_encoder") is None:
                raise UserError(
                    "inference.vectors=items and the run has no text_encoder: set inference.vectors=states"
                )
            encoder = instantiate(inputs.cfg.text_encoder)
            require_encoder(encoder, "text_encoder")
            items = described_items(inputs.cfg, inputs.protocol.prepared)
            self._of_items = items.vectors(encoder)
        return super().ranker(inputs)

    def draw(self, examples: Sequence[Example], speaker: Speaker, inputs: InferenceInputs) -> list[Drawn]:
        """See `Sampled`."""
        batch = speaker.complete(examples, Turn(step=0, group_size=self.n))
        if self.vectors == "items":
            drawn = read(batch, self.score)
            return [self._with_items(one, example) for one, example in zip(drawn, examples, strict=True)]
        states = mean_states(batch, speaker).double().cpu().numpy()
        for place, example in enumerate(examples):
            seed = int(numpy_generator(speaker.seed, "projection", example.sample_id).integers(1 << 31))
            rows = np.flatnonzero(batch.example_of.cpu().numpy() == place)
            states[rows, : self.dimensions] = projected(states[rows], self.dimensions, seed)
        return read(batch, self.score, vectors=states[:, : self.dimensions])

    def _with_items(self, drawn: Drawn, example: Example) -> Drawn:
        assert self._of_items is not None
        table = self._of_items[example.candidates]
        means = [table[list(named)].mean(0) if named else np.zeros(table.shape[1]) for named in drawn.named]
        return Drawn(
            drawn.named, drawn.scores, drawn.texts, np.stack(means), drawn.duplicates, drawn.off_candidate
        )

    def order(self, drawn: Drawn) -> list[int]:
        """See `Sampled`; answers that name no candidate take no part."""
        assert drawn.vectors is not None
        rows = np.array([row for row, named in enumerate(drawn.named) if named], dtype=np.int64)
        if len(rows) == 0:
            return []
        table = drawn.vectors[rows]
        chosen = coreset(table - table.mean(0), self.k, self.ridge)
        return columns_of(drawn, rows[chosen].tolist())


def coreset(rows: np.ndarray, k: int, ridge: float) -> list[int]:
    """The positions of k rows, each with the largest ``h' S^-1 h`` when it is chosen; the first of equal ones.

    Args:
        rows: (N, D).
        k: fewer are chosen if there are fewer.
        ridge: S begins as ``ridge * I``, and gains ``h h'`` of each row that is chosen.

    >>> coreset(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-2.0, -1.0]]), 4, 0.01)
    [3, 2, 0, 1]
    """
    rows = rows.astype(np.float64)
    inverse = np.eye(rows.shape[1]) / ridge
    chosen: list[int] = []
    while len(chosen) < min(k, len(rows)):
        gains = np.einsum("nd,de,ne->n", rows, inverse, rows)
        gains[chosen] = -np.inf
        # Equal up to rounding is equal: a pool of two is symmetric, and the batch must not decide.
        chosen.append(int(np.argmax(gains > gains.max() * (1 - 1e-6) - 1e-12)))
        along = inverse @ rows[chosen[-1]]
        inverse -= np.outer(along, along) / (1 + gains[chosen[-1]])
    return chosen


def projected(rows: np.ndarray, dimensions: int, seed: int) -> np.ndarray:
    """(N, D) rows in at most so many dimensions, by a random sparse matrix that keeps distances about as they are."""
    if rows.shape[1] <= dimensions:
        return rows
    return SparseRandomProjection(dimensions, dense_output=True, random_state=seed).fit_transform(rows)


@torch.no_grad()
def mean_states(batch: RolloutBatch, speaker: Speaker) -> torch.Tensor:
    """(R, h) the mean of the last layer's hidden states over each completion's tokens, in single precision."""
    model, found = speaker.policy.model, []
    for rows in torch.arange(len(batch), device=batch.prompt_of.device).split(speaker.micro_batch_size):
        prompts, said = batch.prompts, batch.completions
        before = batch.prompt_of[rows]
        both = TokenBatch(
            torch.cat([prompts.ids[before], said.ids[rows]], 1),
            torch.cat([prompts.mask[before], said.mask[rows]], 1),
        )
        states = model(
            input_ids=both.ids,
            attention_mask=both.mask.long(),
            position_ids=positions_of(model, both.ids, both.mask),
            use_cache=False,
            logits_to_keep=1,
            output_hidden_states=True,
        ).hidden_states[-1][:, prompts.ids.shape[1] :]
        weights = said.mask[rows].float()
        found.append((states.float() * weights[..., None]).sum(1) / weights.sum(1, keepdim=True).clamp_min(1))
    return torch.cat(found)
