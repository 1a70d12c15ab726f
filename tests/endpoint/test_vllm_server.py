"""The client of vLLM's server, against a real model on loopback that also misbehaves."""

from __future__ import annotations

import pytest
import torch
from loopback_vllm import LoopbackVllm
from torch.testing import assert_close

from mllmrec.endpoint.settings import ConnectionSettings
from mllmrec.endpoint.vllm import NoSuchModel, VllmServer
from mllmrec.errors import UserError
from mllmrec.rollout.written import Wanted

PROMPT = [5, 6, 7, 8]
WANTED = Wanted([], limit=6, end=1, temperature=0.7, top_p=0.9)


@pytest.fixture(scope="module")
def loopback(checkpoints):
    server = LoopbackVllm(checkpoints("qwen3"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def connect(loopback):
    """A client that waits no time between tries; the server has no plan and no calls."""
    loopback.calls.clear()
    loopback.plan = lambda path, body: None
    clients = []

    def make(**settings):
        own = {"attempts": 2, "backoff_seconds": 0.01, "timeout_seconds": 20.0, **settings}
        clients.append(VllmServer(ConnectionSettings(loopback.url, "VLLM_API_KEY", **own)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def completions(server):
    return [body for path, body in server.calls if path == "/v1/completions"]


def test_tokens_come_with_the_log_probabilities_they_were_drawn_with(loopback, connect):
    drawn = connect().draw(loopback.name, PROMPT, 3, WANTED, seed=4)
    assert drawn.model == loopback.name
    assert len(drawn.rows) == 3
    assert all(len(row) == 6 or row[-1] == 1 for row in drawn.rows)
    row = torch.tensor(drawn.rows[0])
    with torch.no_grad():
        logits = loopback.model(torch.tensor([[*PROMPT, *row.tolist()]])).logits[0, 3:-1] / 0.7
    whole = logits.log_softmax(-1).gather(-1, row[:, None])[:, 0]
    # The nucleus has at least 0.9 of the probability.
    apart = torch.tensor(drawn.logprobs[0]) - whole
    assert bool(((apart > -1e-4) & (apart < 0.106)).all())
    again = connect().draw(loopback.name, PROMPT, 3, WANTED, seed=4)
    assert again.rows == drawn.rows
    assert_close(torch.tensor(again.logprobs[0]), torch.tensor(drawn.logprobs[0]))


def test_nothing_is_left_to_the_servers_generation_config(loopback, connect):
    connect().draw(loopback.name, PROMPT, 2, WANTED, seed=4)
    (body,) = completions(loopback)
    said = {
        name: body[name] for name in ("top_k", "min_p", "repetition_penalty", "ignore_eos", "n", "logprobs")
    }
    assert said == {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "ignore_eos": True,
        "n": 2,
        "logprobs": 0,
    }
    assert body["stop_token_ids"] == [1]


def test_missing_completions_are_asked_for_again_with_other_seeds(loopback, connect):
    loopback.plan = lambda path, body: "fewer" if body["n"] == 3 else None
    drawn = connect().draw(loopback.name, PROMPT, 3, WANTED, seed=4)
    assert len(drawn.rows) == 3
    assert [(body["n"], body["seed"]) for body in completions(loopback)] == [(3, 4), (1, 6)]


@pytest.mark.parametrize(
    ("fault", "calls", "words"),
    [
        ("fewer", 3, "gave 2 of 3 completions of a prompt, in 3 requests"),
        ("500", 2, "came to nothing in 2 tries, the last with HTTP 500: InternalServerError"),
        ("hang up", 2, "came to nothing in 2 tries, the last with no connection"),
        ("silence", 2, "silence for generator.timeout_seconds=0.3"),
        ("no ids", 1, "gives no token ids"),
    ],
)
def test_a_server_that_fails_for_good_is_named(loopback, connect, fault, calls, words):
    loopback.plan = lambda path, body: fault
    with pytest.raises(UserError, match=words) as raised:
        connect(timeout_seconds=0.3 if fault == "silence" else 20.0).draw(
            loopback.name, PROMPT, 3, WANTED, seed=0
        )
    assert loopback.url in str(raised.value)
    assert len(completions(loopback)) == calls


def test_a_failure_that_passes_is_not_noticed(loopback, connect):
    loopback.plan = lambda path, body: "hang up" if len(loopback.calls) == 1 else None
    assert len(connect().draw(loopback.name, PROMPT, 2, WANTED, seed=0).rows) == 2


def test_an_answer_that_the_context_cuts_off_is_no_short_answer(loopback, connect):
    long = PROMPT * 127  # of 512 tokens, 4 are left
    with pytest.raises(UserError, match=r"after 4 of 6 tokens.*--max-model-len"):
        connect().draw(loopback.name, long, 8, Wanted([], 6, 10_000, 1.0), seed=0)


def test_a_prompt_that_is_too_long_is_refused_in_the_servers_words(loopback, connect):
    with pytest.raises(
        UserError, match=r"refuses a prompt of 516 tokens and 6 behind it \(HTTP 400.*too many"
    ):
        connect().draw(loopback.name, PROMPT * 129, 1, WANTED, seed=0)
    assert len(completions(loopback)) == 1


def test_a_model_that_is_not_there(loopback, connect):
    with pytest.raises(NoSuchModel, match="policy-1"):
        connect().draw("policy-1", PROMPT, 1, WANTED, seed=0)


def test_what_the_server_says_of_itself(loopback, connect):
    client = connect()
    base = client.base()
    assert (base.name, base.longest) == (loopback.name, 512)
    client.check_takes_adapters()
    assert client.tokens(base.name, "Red Lamp") == loopback.tokenizer("Red Lamp")["input_ids"]


def test_adapters_need_a_server_that_allows_them(loopback, connect, monkeypatch):
    monkeypatch.setattr(loopback, "updating", False)
    with pytest.raises(
        UserError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora"
    ):
        connect().check_takes_adapters()


def test_an_adapter_that_the_server_does_not_see_or_take(loopback, connect, tmp_path):
    with pytest.raises(UserError, match=r"No adapter found.*generator.seen_as"):
        connect().load("policy-1", str(tmp_path))
    (tmp_path / "adapter_config.json").write_text('{"r": 65}')
    with pytest.raises(UserError, match=r"rank 65 is greater than max_lora_rank 64.*--max-lora-rank"):
        connect().load("policy-1", str(tmp_path))
    assert len(loopback.loaded()) == 2  # tries again of neither
