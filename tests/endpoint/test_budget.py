from __future__ import annotations

import pytest

from mllmrec.endpoint import Budget, Chat, Tally
from mllmrec.endpoint.budget import Usage, tokens_in
from mllmrec.errors import UserError


def run_out(endpoint, chats) -> tuple[list[str], str]:
    """The keys that were answered before the budget ended the run, and the message at the end."""
    answers = []
    with pytest.raises(UserError, match="the budget is spent") as caught:
        answers.extend(endpoint.complete(chats))
    return sorted(key for key, answer in answers if answer.text), str(caught.value)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_limit_of_requests(server, make_endpoint, chats, concurrency):
    endpoint = make_endpoint(budget=Budget(max_requests=3), concurrency=concurrency)
    answered, message = run_out(endpoint, chats(10))
    assert answered == ["k0", "k1", "k2"]
    assert len(server.calls) == 3
    assert "3 requests with 15 tokens spent" in message
    assert "max_requests=3" in message
    assert "start again" in message


def test_limit_that_is_just_enough_is_no_failure(make_endpoint, chats):
    endpoint = make_endpoint(budget=Budget(max_requests=3, max_tokens_total=18), max_tokens=5)
    assert len(list(endpoint.complete(chats(3)))) == 3


@pytest.mark.parametrize("concurrency", [1, 8])
def test_limit_of_tokens_holds_with_many_under_way(server, make_endpoint, chats, concurrency):
    # A request may cost 1 + 5 and costs 1 + 4. Before the third request 10 are spent, and after it 16 at most. The
    # fourth might end at 21.
    endpoint = make_endpoint(budget=Budget(max_tokens_total=20), max_tokens=5, concurrency=concurrency)
    answered, message = run_out(endpoint, chats(10))
    assert len(answered) == len(server.calls) == 3
    assert "max_tokens_total=20" in message
    assert endpoint.budget.spent == Tally(3, 3, 12)


def test_limit_of_money(server, make_endpoint, chats):
    # At 2 and 10 per million a request may cost 52 millionths and costs 42. Before the third request 84 are spent, and
    # it might end at 136.
    budget = Budget(max_money=100e-6, price_in=2.0, price_out=10.0)
    answered, message = run_out(make_endpoint(budget=budget, max_tokens=5), chats(10))
    assert len(answered) == len(server.calls) == 2
    assert "0.0001 in money" in message
    assert "max_money=0.0001" in message
    assert budget.spent.money == pytest.approx(84e-6)


def test_limit_too_small_for_one_request_sends_nothing(server, make_endpoint, chats):
    answered, message = run_out(make_endpoint(budget=Budget(max_tokens_total=5), max_tokens=5), chats(2))
    assert (answered, server.calls) == ([], [])
    assert message.startswith("the budget is spent: 0 requests with 0 tokens spent")


def test_second_start_with_the_same_endpoint_goes_on_counting(server, make_endpoint, chats):
    endpoint = make_endpoint(budget=Budget(max_requests=3))
    list(endpoint.complete(chats(2)))
    assert run_out(endpoint, chats(5))[0] == ["k0"]


@pytest.mark.parametrize("failure", [{"delay": 0.6}, {"cut": True}, {"body": b"{"}])
def test_try_without_a_report_counts_at_its_most_and_may_end_the_tries(
    server, make_endpoint, reply, complete, failure
):
    # A try costs 6 at most. 6 lost and 6 reserved fit; 12 lost and 6 reserved do not, so there is no third try.
    server.reply = lambda call: reply(**{"body": complete("text"), **failure})
    endpoint = make_endpoint(
        budget=Budget(max_tokens_total=12), max_tokens=5, attempts=5, timeout_seconds=0.3
    )
    answers = list(endpoint.complete([("k", Chat("0"))]))
    assert answers[0][1].problem.startswith("no answer")
    assert len(server.calls) == 2
    assert endpoint.budget.spent == Tally(1, 2, 10)


def test_refused_requests_cost_nothing(server, make_endpoint, chats, reply):
    server.reply = lambda call: reply({}, status=400)
    endpoint = make_endpoint(budget=Budget(max_tokens_total=20), max_tokens=5)
    assert len(list(endpoint.complete(chats(10)))) == 10
    assert endpoint.budget.spent == Tally(10, 0, 0)


def test_tokens_are_guessed_where_the_server_reports_none(server, make_endpoint, reply, complete):
    server.reply = lambda call: reply(complete("nine char", usage=None, reasoning_content="abc"))
    endpoint = make_endpoint()
    list(endpoint.complete([("k", Chat("12345678", system="1234"))]))
    # 8 / 4 + 4 / 4 asked; 12 / 4 answered, reasoning included.
    assert endpoint.budget.spent == Tally(1, 3, 3)


def test_estimate_counts_and_sends_nothing(server, make_endpoint, tmp_path):
    endpoint = make_endpoint(
        max_tokens=100, image_tokens=400, budget=Budget(price_in=1.0, price_out=10.0, max_requests=1)
    )
    asked = [Chat("12345", system="1234"), Chat("1", images=(tmp_path / "none.png",) * 2)]
    # 2 + 1 and 1 + 2 · 400 prompt tokens, 2 · 100 of completions: 804 + 2000 millionths.
    assert endpoint.estimate(iter(asked)) == Tally(2, 804, 200, pytest.approx(2804e-6))
    assert server.calls == []
    assert endpoint.budget.spent.requests == 0
    assert make_endpoint().estimate(asked).money is None


def test_tokens_of_other_scripts_are_counted_by_bytes():
    assert [tokens_in(text) for text in ("", "a", "abcd", "abcde", "红灯")] == [0, 1, 1, 2, 2]


def test_room_comes_back_when_a_request_used_less():
    budget = Budget(max_tokens_total=10)
    assert budget.reserve(Usage(1, 8))
    assert not budget.reserve(Usage(1, 1))
    budget.settle(Usage(1, 8), Usage(1, 2))
    assert budget.reserve(Usage(1, 6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_requests": 0}, "max_requests=0"),
        ({"max_tokens_total": -1}, "max_tokens_total=-1"),
        ({"max_money": 1.0}, "max_money=1.0 needs prices"),
        ({"price_in": 1.0}, "give both prices"),
        ({"price_in": -1.0, "price_out": 1.0}, "price_in=-1.0"),
        ({"max_money": float("nan"), "price_in": 1.0, "price_out": 1.0}, "max_money=nan"),
    ],
)
def test_limits_that_make_no_sense_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        Budget(**settings)
