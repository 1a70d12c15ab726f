"""Whether a server can draw for a policy, asked before anything is trained: model, tokenizer, adapters, log-probabilities."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from mllmrec.endpoint.vllm import VllmServer
from mllmrec.errors import UserError
from mllmrec.models.joint_adapter import write_first_adapter
from mllmrec.models.policy import Policy
from mllmrec.rollout.written import Wanted
from mllmrec.step.served import Vllm

_TEXT = "Which item comes next?"
_TOKENS = 8  # drawn and compared


def check_server(
    settings: Vllm, policy: Policy, folder: Path, *, rank: int, temperature: float, top_p: float = 1.0
) -> None:
    """Let the server draw a few tokens with an adapter that changes nothing, and compare their probabilities with the policy's.

    Args:
        settings: those of the generator.
        policy: before its first phase.
        folder: for the adapter, unless the settings name another; nothing stays there.
        rank: of all adapters together.
        temperature: of the rollout.
        top_p: likewise.

    Raises:
        UserError: the server cannot be reached, takes no such adapters or does not see their folder, or it has another
            tokenizer, another model, or log-probabilities from before temperature and nucleus.
    """
    server = VllmServer(settings.connection)
    try:
        base = server.base()
        server.check_takes_adapters()
        text = policy.render(_TEXT)
        prompt = policy.encode_rendered([text])[0]
        _check_tokenizer(server, base.name, text, policy)
        wanted = Wanted([], _TOKENS, policy.end_token, temperature, top_p)
        with _first_adapter(server, settings, policy, folder, rank) as name:
            drawn = server.draw(name, prompt, 1, wanted, 0)
        (row,), (theirs,) = drawn.rows, drawn.logprobs
    finally:
        server.close()
    own, raw = _logprobs(policy, prompt, row, temperature, top_p)
    apart, apart_raw = (float((one - torch.tensor(theirs)).abs().mean()) for one in (own, raw))
    limit = settings.agreement.max_difference
    if apart_raw < apart and apart > 1e-3 + 0.1 * limit and apart_raw <= limit:
        raise UserError(
            f"{server.url} gives log-probabilities from before temperature and top_p, which rollout.temperature={temperature:g} and "
            f"top_p={top_p:g} change: start it with --logprobs-mode processed_logprobs"
        )
    if apart > limit:
        raise UserError(
            f"{server.url} has another model: the log-probabilities of {len(row)} tokens that {base.name} drew differ from the "
            f"policy's by {apart:.3f} nats per token (generator.max_difference allows {limit:g}); start it with the weights of "
            "backbone.path"
        )


@contextmanager
def _first_adapter(
    server: VllmServer, settings: Vllm, policy: Policy, folder: Path, rank: int
) -> Iterator[str]:
    """The name of an adapter on the server, as large as those that will go there, which changes nothing."""
    name = f"policy-{uuid4().hex[:8]}-check"
    place = settings.folder(folder)
    there, path = place.exists(), place / name
    path.mkdir(parents=True)
    try:
        write_first_adapter(policy, rank, path)
        server.load(name, settings.as_seen(path))
        yield name
        server.unload(name)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if not there:
            place.rmdir()


def _check_tokenizer(server: VllmServer, model: str, text: str, policy: Policy) -> None:
    theirs = server.tokens(model, text)
    ours = policy.encode_answers([text])[0]
    if theirs is not None and theirs != ours:
        raise UserError(
            f"{server.url} has another tokenizer: it makes {len(theirs)} tokens of a prompt of which the policy makes {len(ours)}, or "
            "others; start it with the model in backbone.path"
        )


@torch.no_grad()
def _logprobs(
    policy: Policy, prompt: list[int], row: list[int], temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """(T,) log-probabilities of a drawn row: as it was drawn, and before temperature and nucleus."""
    model = policy.model
    training = model.training
    model.eval()
    ids = torch.tensor([[*prompt, *row]], device=policy.device)
    try:
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().cpu()
    finally:
        model.train(training)
    drawn = torch.tensor(row)[:, None]
    raw = logits.log_softmax(-1)
    scaled = (logits / temperature).softmax(-1)
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    inside = ordered.cumsum(-1) - ordered < top_p
    kept = torch.zeros_like(inside).scatter(-1, order, inside)
    # What the server's rounding counts to the nucleus may lie just outside of ours.
    kept = kept.scatter(-1, drawn, True)
    own = (scaled / (scaled * kept).sum(-1, keepdim=True)).log()
    return own.gather(-1, drawn)[:, 0], raw.gather(-1, drawn)[:, 0]
