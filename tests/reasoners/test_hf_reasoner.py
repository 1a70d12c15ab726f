from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from importlib.util import find_spec
from itertools import chain, permutations
from pathlib import Path

import pytest
import torch
from tiny_models import LIMIT, TEMPLATE
from transformers import AutoTokenizer

from mllmrec.errors import UserError
from mllmrec.reasoners import hf_model
from mllmrec.reasoners.base import Written
from mllmrec.reasoners.hf import HfReasoner

OPENING = TEMPLATE + "{{ '<think>\\n' }}"
THINKING = ["<think>", "red", " again", "</think>", " lamp", " star"]


def reasoner(path, **settings):
    return HfReasoner(path, **{"dtype": "float32", "device": "cpu", "max_new_tokens": 10, **settings})


def answers(model, requests):
    """Sample id → what was written; asserts that each text came with its own request."""
    pairs = list(model.write(iter(requests)))
    assert {request.sample_id: request for request, _ in pairs} == {
        request.sample_id: request for request in requests
    }
    return {request.sample_id: written for request, written in pairs}


@pytest.fixture
def texts(ask):
    """Five requests of different lengths, three with a system message."""
    return [ask(str(n), "red lamp " * (3 * n + 1), system="blue" if n % 2 == 0 else "") for n in range(5)]


@pytest.mark.parametrize("decoding", [{}, {"temperature": 1.0, "top_p": 0.9}], ids=["greedy", "sampled"])
def test_batches_write_what_single_requests_are_answered(text_model, texts, decoding):
    alone = answers(reasoner(text_model, batch_size=1, **decoding), texts)
    assert len({written.text for written in alone.values()}) == 5
    assert answers(reasoner(text_model, batch_size=3, **decoding), texts) == alone


@pytest.mark.parametrize("decoding", [{}, {"temperature": 1.0, "top_p": 0.9}], ids=["greedy", "sampled"])
def test_what_all_prompts_begin_with_is_encoded_once_and_changes_no_text(
    text_model, ask, monkeypatch, decoding
):
    requests = [
        dataclasses.replace(
            ask(str(n), "star " + "red lamp " * (3 * n + 1), system="blue star"),
            examples=(("red red lamp", "star star"),),
        )
        for n in range(4)
    ]
    alone = answers(reasoner(text_model, batch_size=1, **decoding), requests)
    assert len({written.text for written in alone.values()}) == 4
    monkeypatch.setattr(hf_model, "WORTH_SHARING", 8)
    loaded = hf_model.HfModel(reasoner(text_model, batch_size=4, **decoding).settings)
    prompts = [loaded._prompt(request) for request in requests]
    inputs = loaded._share_beginning(loaded._encode(prompts))
    shared = inputs[hf_model.CACHE].get_seq_length()
    beginning = loaded.tokenizer.decode(inputs["input_ids"][0, :shared])
    # The system message, the example's two turns and the first words of the message.
    assert "star star" in beginning
    assert beginning.split()[-2:] == ["red", "lamp"]
    assert {request.sample_id: written for request, written in loaded.write(requests)} == alone


def test_examples_are_turns_before_the_message(text_model, ask):
    request = dataclasses.replace(ask("1", "red lamp"), examples=(("blue", "star"), ("red", "again")))
    text = hf_model.HfModel(reasoner(text_model).settings)._prompt(request).text
    said = re.findall(r"<\|im_start\|>(\w+)\n([^<]*)<", text)
    assert said == [
        ("user", "blue"),
        ("assistant", "star"),
        ("user", "red"),
        ("assistant", "again"),
        ("user", "red lamp"),
    ]


@pytest.mark.parametrize("decoding", [{}, {"temperature": 1.0}], ids=["greedy", "sampled"])
def test_answers_belong_to_their_requests_in_any_order(text_model, texts, decoding):
    wanted = answers(reasoner(text_model, batch_size=2, **decoding), texts[:3])
    for order in permutations(texts[:3]):
        assert answers(reasoner(text_model, batch_size=2, **decoding), order) == wanted


def test_greedy_takes_the_most_likely_token_whatever_the_checkpoint_says_of_sampling(
    text_model, texts, tmp_path
):
    sampling = shutil.copytree(text_model, tmp_path / "sampling")
    (sampling / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 5.0, "top_k": 20, "top_p": 0.8}'
    )
    first = answers(reasoner(text_model), texts)
    assert answers(reasoner(str(sampling)), texts) == first
    # Compared with a plain forward pass, one token at a time, without padding or cache.
    loaded = hf_model.HfModel(reasoner(text_model).settings)
    prompt = "<|im_start|>system\nblue<|end|>\n<|im_start|>user\nred lamp <|end|>\n<|im_start|>assistant\n"
    ids = loaded.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    assert first["0"].prompt_tokens == ids.shape[1]
    with torch.no_grad():
        for _ in range(10):
            ids = torch.cat([ids, loaded.model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    assert loaded.tokenizer.decode(ids[0, -10:]).strip() == first["0"].text


def test_a_seed_and_a_sample_id_name_the_draws(text_model, texts, ask):
    def drawn(requests, **settings):
        return answers(reasoner(text_model, temperature=1.5, **settings), requests)

    torch.manual_seed(1)
    first = drawn(texts)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert drawn(texts) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert all(drawn(texts, seed=1)[name] != first[name] for name in first)
    twins = drawn([ask("a", "star"), ask("b", "star")])
    assert twins["a"].text != twins["b"].text


@pytest.mark.parametrize("special_tags", [False, True])
def test_a_thought_is_split_from_the_text(speaker, ask, special_tags):
    written = answers(reasoner(speaker(*THINKING, special_tags=special_tags)), [ask("1", "chair")])["1"]
    assert (written.reasoning, written.text, written.problem) == ("red again", "lamp star", "")
    # The two tags, two words twice, the end.
    assert written.completion_tokens == 7


def test_a_thought_that_the_template_opens_is_split_too(speaker, ask):
    written = answers(reasoner(speaker(*THINKING[1:], template=OPENING)), [ask("1", "chair")])["1"]
    assert (written.reasoning, written.text, written.problem) == ("red again", "lamp star", "")
    assert written.completion_tokens == 6


@pytest.mark.parametrize("opened", [False, True])
def test_an_answer_cut_off_while_thinking_is_a_problem(speaker, ask, opened):
    path = speaker(*THINKING[1:], template=OPENING) if opened else speaker(*THINKING)
    # Token 4 closes the thought, or token 3 if the template opens it.
    closed = 3 if opened else 4
    for most, text, problem in ((closed - 1, "", "cut off while thinking"), (closed + 1, "lamp", "")):
        written = answers(reasoner(path, max_new_tokens=most), [ask("1", "chair")])["1"]
        assert written.completion_tokens == most
        assert (written.reasoning, written.text, written.problem) == ("red again", text, problem)


def test_control_tokens_are_no_part_of_a_text(speaker, ask):
    assert answers(reasoner(speaker("red", "<|im_start|>", " lamp")), [ask("1", "x")])["1"].text == "red lamp"


def test_the_ends_of_tokenizer_and_generation_config_both_end_a_text(speaker, ask):
    path = speaker("red", " lamp", "<|im_start|>", " star")
    assert answers(reasoner(path), [ask("1", "x")])["1"].text == "red lamp star"
    start = AutoTokenizer.from_pretrained(path).convert_tokens_to_ids("<|im_start|>")
    Path(path, "generation_config.json").write_text(json.dumps({"eos_token_id": [start]}))
    ended = answers(reasoner(path), [ask("1", "x")])["1"]
    assert (ended.text, ended.completion_tokens) == ("red lamp", 3)
    path = speaker("red", " lamp")
    Path(path, "generation_config.json").write_text(json.dumps({"eos_token_id": start}))
    assert answers(reasoner(path), [ask("1", "x")])["1"].completion_tokens == 3


def test_a_tokenizer_without_padding_serves_too(text_model, texts, tmp_path):
    bare = shutil.copytree(text_model, tmp_path / "bare")
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(bare)
    assert AutoTokenizer.from_pretrained(bare).pad_token is None
    assert answers(reasoner(str(bare), batch_size=3), texts) == answers(reasoner(text_model), texts)


@pytest.mark.parametrize("words", [["<think>", "red", "</think>"], ["<think>", "red"], [" "]])
def test_a_text_without_words_is_the_problem_empty(speaker, ask, words):
    written = answers(reasoner(speaker(*words)), [ask("1", "chair")])["1"]
    assert (written.text, written.problem) == ("", "empty")
    assert written.reasoning == ("red" if "red" in words else "")


def test_no_more_than_max_new_tokens_are_written(speaker, text_model, texts, ask):
    for most in (1, 4):
        assert {
            written.completion_tokens
            for written in answers(reasoner(text_model, max_new_tokens=most), texts).values()
        } == {most}
    assert (
        answers(reasoner(speaker("red", " lamp", "…"), max_new_tokens=7), [ask("1", "x")])["1"].text
        == "red" + " lamp" * 6
    )


def test_thinking_is_switched_by_the_template(text_model, ask):
    def prompt_tokens(thinking):
        return answers(reasoner(text_model, enable_thinking=thinking), [ask("1", "x")])["1"].prompt_tokens

    # If thinking is switched off, the template adds <think>, </think> and two double line ends.
    assert prompt_tokens(None) == prompt_tokens(True) == prompt_tokens(False) - 6


def test_a_prompt_that_leaves_no_room_for_the_answer_is_a_problem_and_the_others_go_on(text_model, ask):
    # "a" and "x" are one token each, and the rest of the prompt has as many tokens as with one of them.
    frame = answers(reasoner(text_model), [ask("0", "x")])["0"].prompt_tokens - 1
    room = LIMIT - 10 - frame
    requests = [ask("fits", "x" * room), ask("long", "x" * (room + 1)), ask("short", "x")]
    written = answers(reasoner(text_model, batch_size=3), requests)
    assert written["long"] == Written("", prompt_tokens=LIMIT - 9, problem="prompt too long")
    assert written["fits"].prompt_tokens == LIMIT - 10
    assert written["fits"].problem == ""
    assert written["short"] == answers(reasoner(text_model), requests[2:])["short"]


def test_control_tokens_in_a_message_are_text(text_model, ask):
    written = answers(
        reasoner(text_model),
        [ask("1", "a<|end|>b", system="<|im_start|>"), ask("2", "a‹|end|›b", system="‹|im_start|›")],
    )
    assert written["1"] == written["2"]


def test_a_batch_that_does_not_fit_in_memory_is_halved(text_model, texts, monkeypatch):
    wanted = answers(reasoner(text_model, batch_size=1), texts)
    sizes, generate = [], hf_model.HfModel._generate

    def crowded(self, batch):
        sizes.append(len(batch))
        if len(batch) > 2 or any(prompt.request.sample_id == "1" for prompt in batch):
            raise torch.cuda.OutOfMemoryError
        return generate(self, batch)

    monkeypatch.setattr(hf_model.HfModel, "_generate", crowded)
    written = answers(reasoner(text_model, batch_size=5), texts)
    # Five is halved into two and three, three into one and two. Request 1 is the shortest, so it comes last.
    assert sizes == [5, 2, 3, 1, 2, 1, 1]
    assert written.pop("1") == Written("", problem="out of memory")
    assert written == {name: answer for name, answer in wanted.items() if name != "1"}


def test_batches_hold_prompts_of_similar_length(text_model, texts, monkeypatch):
    batches, generate = [], hf_model.HfModel._generate

    def noted(self, batch):
        batches.append([prompt.request.sample_id for prompt in batch])
        return generate(self, batch)

    monkeypatch.setattr(hf_model.HfModel, "_generate", noted)
    written = answers(reasoner(text_model, batch_size=2), [texts[n] for n in (4, 0, 3, 1, 2)])
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert list(chain(*batches)) == sorted(written, key=lambda name: -written[name].prompt_tokens)
    assert written["2"].prompt_tokens > written["3"].prompt_tokens, "the system message counts too"


def test_requests_are_read_as_they_can_be_served(text_model, ask):
    read = []

    def endless():
        while True:
            read.append(len(read))
            yield ask(str(len(read)), "star")

    stream = reasoner(text_model, batch_size=1, max_new_tokens=1).write(endless())
    next(stream)
    assert len(read) == 16
    for _ in range(16):
        next(stream)
    assert len(read) == 32


def test_nothing_is_loaded_before_the_first_request(tmp_path, ask):
    for sees_images in (False, True):
        missing = reasoner(str(tmp_path / "none"), sees_images=sees_images)
        missing.identity()
        assert list(missing.write([])) == []
        with pytest.raises(UserError, match=r"none cannot be loaded: .*save_pretrained"):
            list(missing.write([ask("1", "x")]))


def test_what_is_no_chat_model_is_refused(text_model, tmp_path, ask):
    plain = shutil.copytree(text_model, tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    refused = [
        (reasoner(str(plain)), "no chat template"),
        (reasoner(text_model, max_new_tokens=LIMIT), "takes 200 tokens in all"),
        (reasoner(text_model, sees_images=True), "image-text-to-text"),
    ]
    if not torch.cuda.is_available():
        refused.append((reasoner(text_model, device="cuda"), "device=cuda"))
    if find_spec("flash_attn") is None and find_spec("kernels") is None:
        refused.append((reasoner(text_model, attn_implementation="flash_attention_2"), "not installed"))
    for model, message in refused:
        with pytest.raises(UserError, match=message):
            list(model.write([ask("1", "x")]))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 0),
        ("max_new_tokens", 0),
        ("max_side", -1),
        ("temperature", -0.1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("dtype", "int8"),
        ("device", "tpu"),
    ],
)
def test_parameters_without_meaning_are_refused_at_once(setting, value):
    with pytest.raises(UserError, match=f"{setting}={value}"):
        HfReasoner("none", **{setting: value})


def test_the_identity_holds_what_determines_a_text_and_nothing_else():
    plain = HfReasoner("org/model")
    base = plain.identity()
    assert base["model"] == {"path": "org/model", "revision": "main"}
    drawn, seeing = HfReasoner("org/model", temperature=0.6), HfReasoner("org/model", sees_images=True)
    changed = [
        HfReasoner("org/other"),
        HfReasoner("org/model", revision="v2"),
        HfReasoner("org/model", dtype="float32"),
        HfReasoner("org/model", max_new_tokens=100),
        HfReasoner("org/model", enable_thinking=False),
        HfReasoner("org/model", enable_thinking=True),
        drawn,
        HfReasoner("org/model", temperature=0.7),
        HfReasoner("org/model", temperature=0.6, top_p=0.9),
        HfReasoner("org/model", temperature=0.6, seed=1),
        seeing,
        HfReasoner("org/model", sees_images=True, max_side=512),
    ]
    identities = [str(one.identity()) for one in (plain, *changed)]
    assert len(set(identities)) == len(identities)
    for same in (
        {"batch_size": 64},
        {"device": "cpu"},
        {"attn_implementation": "eager"},
        {"revision": "main"},
        {"seed": 1},  # nothing is drawn
        {"top_p": 0.9},
        {"max_side": 512},  # no image is seen
    ):
        assert HfReasoner("org/model", **same).identity() == base


def test_a_folder_is_known_by_its_files(text_model, tmp_path):
    before = reasoner(text_model).identity()
    copy = shutil.copytree(text_model, tmp_path / "copy")
    assert reasoner(str(copy)).identity() == before
    template = copy / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert reasoner(str(copy)).identity() != before


def test_weights_of_any_size_are_known_by_their_content(text_model, tmp_path):
    # More than 50 MB; the size and the time of the last change stay the same.
    copy = shutil.copytree(text_model, tmp_path / "copy")
    weights = copy / "large.bin"
    with weights.open("wb") as stream:
        stream.truncate(60 * 2**20)
    before, times = reasoner(str(copy)).identity(), (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    os.utime(weights, ns=(times[0], times[1] + 10**9))
    assert reasoner(str(copy)).identity() == before
    with weights.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"1")
    os.utime(weights, ns=times)
    assert reasoner(str(copy)).identity() != before
