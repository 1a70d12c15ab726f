"""Tokenizers such as SmolLM2's pad with the token that ends an answer, so only masks tell the two apart."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from mllmrec.engine.batches import pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.phases.base import Learner
from mllmrec.phases.sft import supervised_shares
from mllmrec.rollout.base import Spelling
from mllmrec.rollout.free import Free


def ending_pads(policy):
    """The policy with its end token as padding."""
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    assert policy.padding_token == policy.end_token
    return policy


def logprobs(policy, prompt, answer):
    """Of an answer's tokens, one row by itself."""
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def test_training_learns_the_end_once_and_no_padding(make_pretrained):
    policy = ending_pads(make_pretrained(lora=None))
    policy.model.eval()
    end = policy.end_token
    prompts, answers = [[11, 12, 13, 14], [21, 22]], [[31, end], [32, 33, 34, 35, end]]
    each = torch.cat([logprobs(policy, *row) for row in zip(prompts, answers, strict=True)])
    assert len(each) == 7
    for engine in (SharedPrefix(), Plain()):
        shares = supervised_shares(Learner(policy, engine, micro_batch_size=2), prompts, answers)
        assert_close(sum(shares).item(), float(-each.mean()), rtol=1e-4, atol=1e-4)


def test_generation_ends_at_the_end_and_not_at_padding(make_pretrained, monkeypatch):
    policy = ending_pads(make_pretrained(lora=None))
    end = policy.end_token
    # Prompts of different lengths, so that the shorter one is padded with the end token on the left.
    prompts = policy.prompt_batch(["Which?", "Which one of them?"])
    assert int(prompts.ids[0, 0]) == end
    said = iter([[40, 41], [end, 42], [end]])
    monkeypatch.setattr("mllmrec.rollout.free.draw", lambda *_: torch.tensor(next(said)))
    generators = [torch.Generator(), torch.Generator()]
    engine = SharedPrefix()
    with torch.no_grad():
        drawn = Free(max_new_tokens=5).draw(
            engine, policy.model, engine.encode(policy.model, prompts), 1, generators, Spelling(end)
        )
    assert drawn.tokens.mask.tolist() == [[True, True, False], [True, True, True]]
    assert drawn.tokens.ids[drawn.tokens.mask].tolist() == [40, end, 41, 42, end]
    assert drawn.finished.tolist() == [True, True]
    texts = policy.tokenizer.batch_decode([[40], [41, 42]])
    assert policy.decode(drawn.tokens) == texts


def test_an_id_without_text_at_the_end_is_no_end(make_pretrained):
    policy = ending_pads(make_pretrained())
    (label,) = policy.encode_answers(["[ITEM_1]"])
    unknown, end = len(policy.tokenizer) + 5, policy.end_token
    rows = pad([[*label, end], [*label, unknown]], policy.padding_token, side="right")
    assert policy.decode(rows) == ["[ITEM_1]", "[ITEM_1]<|end|>"]
