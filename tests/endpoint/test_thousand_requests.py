"""A whole build against a server that lets every fifth request meet a fault."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest
from faulty_server import PASSING, WITH_TEXT, WITHOUT_TEXT, FaultyServer, tokens, written
from killed_build import build, samples

COUNT, ATTEMPTS, TIMEOUT = 520, 4, 2.0
SETTINGS = {"concurrency": 32, "attempts": ATTEMPTS, "timeout_seconds": TIMEOUT, "backoff_seconds": 0.05}
DEAD = ("500",) * ATTEMPTS  # all tries of a request in one run
KINDS = (*WITH_TEXT[1:], *WITHOUT_TEXT, *PASSING, "dead")


def plan(text: str) -> tuple[str, ...]:
    """What happens to the calls about a text: the same in every run of this test."""
    draw = random.Random(f"faults {text}")
    if draw.random() >= 0.2:
        return ("plain",)
    kind = draw.choice(KINDS)
    if kind in PASSING:
        return (*(kind,) * draw.randint(1, 2), draw.choice(WITH_TEXT))
    if kind in WITHOUT_TEXT:
        return (kind, "plain")
    return (*DEAD, "plain") if kind == "dead" else (kind,)


def first_outcome(text: str) -> tuple[str, str]:
    """(answer, problem) of the first run."""
    met = plan(text)
    if met[0] in WITHOUT_TEXT:
        return "", WITHOUT_TEXT[met[0]]
    if met[: len(DEAD)] == DEAD:
        return "", "no answer (HTTP 500)"
    return written(text, met[-1]), ""


@pytest.fixture
def server():
    server = FaultyServer(plan)
    yield server
    server.shutdown()
    server.server_close()


def test_a_fifth_of_a_thousand_requests_fails_and_nothing_is_lost_or_paid_for_twice(server, tmp_path):
    def run():
        before = len(server.asked)
        policy = build(server.url, str(tmp_path), COUNT, **SETTINGS)
        return policy, set(server.asked[before:])

    policy, asked = run()
    pipeline, keys = policy.pipeline, samples(COUNT)
    drafting = {key: pipeline.draft_request(key).message for key in keys}
    drafts = {key: first_outcome(text)[0] for key, text in drafting.items()}
    refining = {key: pipeline.refine_request(key, draft).message for key, draft in drafts.items() if draft}
    texts = [*drafting.values(), *refining.values()]
    assert asked == set(texts)
    assert len(asked) == len(texts) >= 1000
    # Every kind of fault has occurred.
    assert {kind for text in texts for kind in plan(text)} == {"plain", *KINDS} - {"dead"}

    # Each sample has the answers to its own requests, or the reason why it has none.
    for sample, record in policy.records.items():
        assert record.draft == drafts[sample]
        text = first_outcome(refining[sample])[0] if drafts[sample] else ""
        assert record.text == text
        assert (record.dropped == "no draft") == (not drafts[sample])
        assert (record.dropped == "no text") == bool(drafts[sample] and not text)
        other = text and plan(refining[sample])[-1] == "other language"
        assert (record.dropped == "form: language") == bool(other)
    for stage, requests in (("draft", drafting), ("refined", refining)):
        problems = Counter(problem for text in requests.values() if (problem := first_outcome(text)[1]))
        assert pipeline.reports[stage].problems == problems
        assert set(problems) == {*WITHOUT_TEXT.values(), "no answer (HTTP 500)"}
        billed = [tokens(text) for text in requests.values() if server.billed[text]]
        report = pipeline.reports[stage]
        assert (report.prompt_tokens, report.completion_tokens) == tuple(map(sum, zip(*billed, strict=True)))

    # An answered request is paid for once; one that no try got an answer to is not paid for.
    assert server.billed == Counter({text: 1 for text in texts if plan(text)[: len(DEAD)] != DEAD})
    for text in texts:
        if plan(text)[0] == "429":
            assert all(later - earlier >= 1 for earlier, later in pairwise(server.came[text]))

    # The second run asks for what failed, and for refinements of the drafts that it then gets.
    failed = {text for text in texts if first_outcome(text)[1]}
    again, asked = run()
    late = {sample: drafts[sample] or again.records[sample].draft for sample in drafts}
    new = {pipeline.refine_request(key, draft).message for key, draft in late.items() if draft} - set(texts)
    assert asked == failed | new
    assert len(new) == sum(not draft for draft in drafts.values()) > 0
    paid = Counter(server.billed.values())
    assert paid[2] == sum(plan(text)[0] in WITHOUT_TEXT for text in texts)
    assert set(paid) == {1, 2}

    # After the third run everything has its text, except requests that failed in the second for the first time.
    failed = {text for text in new if first_outcome(text)[1]}
    last, asked = run()
    assert asked == failed
    assert all(record.text for record in last.records.values())
    assert run()[1] == set()
