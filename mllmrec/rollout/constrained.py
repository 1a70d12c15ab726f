"""Constrained rollouts: only the candidates' answers can be said, with probabilities renormalised over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.prompts.trie import AnswerTrie
from mllmrec.rollout.base import Rollouts, Sampler
from mllmrec.rollout.decode import Decoder, draw


class Constrained(Sampler):
    """Walks each row down the trie of its prompt's answers.

    Where the trie leaves one token it is written without asking the model, once no choice remains below; such
    tokens have log-probability 0 and are no decisions, so they carry no loss.
    """

    constrained = True
    max_new_tokens = None

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature

    @torch.no_grad()
    def __call__(
        self,
        model: torch.nn.Module,
        prompts: TokenBatch,
        group_size: int,
        generator: torch.Generator,
        answers: Sequence[Sequence[Sequence[int]]],
        end_token: int,
    ) -> Rollouts:
        """Draw ``group_size`` completions for each prompt; see `Sampler`."""
        tries = [AnswerTrie(options) for options in answers]
        nodes = [trie.root for trie in tries for _ in range(group_size)]
        paths: list[list[int]] = [[] for _ in nodes]
        decoder: Decoder | None = None
        last = torch.zeros(len(nodes), dtype=torch.long)
        while any(node.decides for node in nodes):
            if decoder is None:
                decoder = Decoder(model, prompts, group_size)
            else:
                decoder.advance(last.to(prompts.ids.device))
            chosen = self._choose(decoder.logits, nodes, generator)
            for row, token in enumerate(chosen):
                if nodes[row].children:
                    nodes[row] = nodes[row].step(token)
                    paths[row].append(token)
                    last[row] = token
        for row, node in enumerate(nodes):
            while node.children:
                ((token, node),) = node.children.items()
                paths[row].append(token)
        completions = pad(paths, end_token, side="right").to(prompts.ids.device)
        allowed, decisions = allowed_tokens([tries[row // group_size] for row in range(len(paths))], paths)
        device = prompts.ids.device
        return Rollouts(
            prompts=prompts,
            completions=completions,
            prompt_of=torch.arange(len(tries), device=device).repeat_interleave(group_size),
            decisions=decisions.to(device),
            allowed=allowed.to(device),
            finished=torch.ones(len(paths), dtype=torch.bool, device=device),
        )

    def _choose(self, logits: torch.Tensor, nodes: list, generator: torch.Generator) -> list[int]:
        width = max(len(node.children) for node in nodes)
        options = torch.full((len(nodes), max(width, 1)), -1, dtype=torch.long)
        for row, node in enumerate(nodes):
            tokens = sorted(node.children) or [0]
            options[row, : len(tokens)] = torch.tensor(tokens)
        options = options.to(logits.device)
        competing = logits.gather(1, options.clamp_min(0)).masked_fill(options < 0, float("-inf"))
        picked = draw(competing, generator, self.temperature)
        return options.gather(1, picked[:, None])[:, 0].tolist()


def allowed_tokens(
    tries: Sequence[AnswerTrie], paths: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that competed at every place of every path, and which places were real choices.

    Returns:
        (R, T, A) int64, -1 filled, and (R, T) bool.

    Raises:
        UnknownPrefix: a path is no answer of its trie.
    """
    options: list[list[list[int]]] = []
    for trie, path in zip(tries, paths, strict=True):
        node, row = trie.root, []
        for token in path:
            row.append(sorted(node.children))
            node = node.step(token)
        options.append(row)
    length = max(map(len, paths))
    width = max(len(tokens) for row in options for tokens in row)
    allowed = torch.full((len(paths), length, width), -1, dtype=torch.long)
    for index, row in enumerate(options):
        for place, tokens in enumerate(row):
            allowed[index, place, : len(tokens)] = torch.tensor(tokens)
    return allowed, (allowed >= 0).sum(-1) > 1
