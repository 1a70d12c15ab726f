"""The shared-prefix engine equals the plain one, which runs every prompt and completion as a separate sequence."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GraniteConfig, MistralConfig, Qwen2Config

from mllmrec.engine.batches import TokenBatch, pad
from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.prompts.trie import AnswerTrie, choice_sets

ARCHITECTURES = ["qwen3", "qwen2", "llama"]
PROMPTS = [[11, 12, 13, 14, 15, 16, 17], [21], [31, 32, 33, 34]]
END = 2


def completions_of(size, prompts=3):
    """``size`` rows for each prompt, of one to six tokens; with only three words, many rows begin alike or are equal."""
    generator = torch.Generator().manual_seed(size)
    lengths = torch.randint(0, 6, (prompts * size,), generator=generator).tolist()
    return [[*torch.randint(41, 44, (length,), generator=generator).tolist(), END] for length in lengths]


def answers_of(size):
    """``size`` different answers, some of which begin alike."""
    every = [[41, 42, END], [41, 43, END], [44, END], [41, 42, 45, END], [46, 47, 48, END]]
    return [*every, [46, 47, 49, END], [44, 50, END], [51, END], [52, 53, 54, 55, END]][:size]


def problem(size, constrained=False):
    """Prompts, completions, their prompts, and the settings of `Engine.score`."""
    # The padding token also occurs in the rows: only the mask may tell them apart.
    prompts = pad(PROMPTS, 41, side="left")
    prompt_of = torch.arange(len(PROMPTS)).repeat_interleave(size)
    if not constrained:
        return prompts, pad(completions_of(size), 41, side="right"), prompt_of, {}
    rows = [answer for prompt in range(len(PROMPTS)) for answer in answers_of(size)]
    choices, decisions = choice_sets([AnswerTrie(answers_of(size))] * len(rows), rows)
    return prompts, pad(rows, 41, side="right"), prompt_of, {"choices": choices, "scored": decisions}


def score(engine, model, prompts, completions, prompt_of, **settings):
    return engine.score(model, engine.encode(model, prompts), completions, prompt_of, **settings)


def gradient(model, logprobs):
    """Gradients of a sum that gives every token its own coefficient."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    coefficients = torch.randn(logprobs.shape, generator=torch.Generator().manual_seed(0))
    parts = torch.autograd.grad((coefficients * logprobs).sum(), weights, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(weight).flatten() if part is None else part.flatten()
            for weight, part in zip(weights, parts, strict=True)
        ]
    )


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def make_adapted(make_pretrained, shake, make_double):
    """A policy with an adapter that is not zero."""

    def make(name="qwen3", dtype=torch.float32, **settings):
        policy = make_pretrained(name, **settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            policy.begin_phase("sft")
        shake(policy, "sft")
        if dtype == torch.float64:
            make_double(policy.model)
        return policy

    return make


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_and_gradients_equal_the_plain_engine(make_adapted, name, dtype, limit, constrained):
    model = make_adapted(name, dtype).model
    for size in range(1, 10):
        *inputs, settings = problem(size, constrained)
        settings["temperature"] = 0.7 if size % 2 else 1.0
        found = score(SharedPrefix(), model, *inputs, **settings)
        expected = score(Plain(), model, *inputs, **settings)
        assert_close(found.logprobs, expected.logprobs, atol=limit, rtol=0)
        assert_close(found.entropy, expected.entropy, atol=limit, rtol=0)
        if constrained and size == 1:
            assert (found.logprobs == 0).all()  # a single answer leaves no choice
            continue
        assert found.logprobs.dtype == dtype
        assert found.logprobs.std() > 0.1
        ours, theirs = gradient(model, found.logprobs), gradient(model, expected.logprobs)
        assert relative_error(ours, theirs) < limit


def test_weights_of_the_whole_model_get_the_same_gradient(make_pretrained):
    model = make_pretrained(lora=None).model
    *inputs, _ = problem(5)
    ours, theirs = (
        gradient(model, score(engine, model, *inputs).logprobs) for engine in (SharedPrefix(), Plain())
    )
    assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", ["qwen3", "llama"])  # with and without norms of queries and keys
def test_autocast_runs_as_in_the_plain_engine(make_adapted, name):
    model = make_adapted(name).model
    *inputs, _ = problem(5)
    whole = gradient(model, score(Plain(), model, *inputs).logprobs)
    errors = []
    for engine in (SharedPrefix(), Plain()):
        with torch.autocast("cpu", torch.bfloat16):
            found = score(engine, model, *inputs).logprobs
        errors.append(relative_error(gradient(model, found), whole))
    # Rounding to 8 bits changes gradients by some percent, in both engines alike.
    assert 1e-3 < errors[0] < 2 * errors[1] < 0.3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_positions_shifted_by_one_are_noticed(make_adapted, name):
    model, engine = make_adapted(name).model, SharedPrefix()
    prompts, completions, prompt_of, _ = problem(4)
    prefix = engine.encode(model, prompts)
    shifted = dataclasses.replace(prefix, places=prefix.places + 1)
    found = engine.score(model, shifted, completions, prompt_of).logprobs
    expected = score(engine, model, prompts, completions, prompt_of).logprobs
    assert (found - expected).abs().max() > 1e-2
    # Rotary positions are relative: without a prefix a shift has no effect.
    assert_close(found[4:8], expected[4:8], atol=1e-5, rtol=0)
    assert relative_error(gradient(model, found), gradient(model, expected)) > 1e-2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_detached_prefix_has_the_right_scores_and_the_wrong_gradient(make_adapted, name):
    model, engine = make_adapted(name).model, SharedPrefix()
    prompts, completions, prompt_of, _ = problem(4)
    prefix = engine.encode(model, prompts)
    detached = dataclasses.replace(
        prefix, keys=[key.detach() for key in prefix.keys], values=[value.detach() for value in prefix.values]
    )
    found = engine.score(model, detached, completions, prompt_of).logprobs
    expected = score(engine, model, prompts, completions, prompt_of).logprobs
    assert torch.equal(found, expected)
    assert relative_error(gradient(model, found), gradient(model, expected)) > 1e-2


@pytest.mark.parametrize("wanted", [[1], [0, 3], []])
def test_only_wanted_tokens_are_scored(make_adapted, wanted):
    model = make_adapted().model
    *inputs, _ = problem(6)
    scored = torch.zeros(inputs[1].mask.shape, dtype=torch.bool)
    scored[::2, wanted] = True
    found = score(SharedPrefix(), model, *inputs, scored=scored)
    expected = score(Plain(), model, *inputs, scored=scored)
    assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)
    assert (found.logprobs[~(scored & inputs[1].mask)] == 0).all()


def test_prompts_may_have_any_number_of_completions_in_any_order(make_adapted):
    model = make_adapted().model
    prompts, completions, _, _ = problem(2)
    prompt_of = torch.tensor([2, 0, 0, 2, 0, 0])  # four, none, two
    found, expected = (
        score(engine, model, prompts, completions, prompt_of).logprobs for engine in (SharedPrefix(), Plain())
    )
    assert_close(found, expected, atol=1e-5, rtol=0)
    assert relative_error(gradient(model, found), gradient(model, expected)) < 1e-5


def test_each_token_runs_once(make_adapted):
    # PROMPTS have 6 + 0 + 3 tokens before their last ones. Of prompt 0's rows the first two are equal up to their
    # last token, which is no input: 17 41 42, then 17 43; prompt 1's row has 21 alone.
    model, seen = make_adapted().model, []
    model.get_base_model().model.layers[0].mlp.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[:-1].numel())
    )
    completions = pad([[41, 42, END], [41, 42, 50], [43, END], [END]], 41, side="right")
    score(SharedPrefix(), model, pad(PROMPTS, 0, side="left"), completions, torch.tensor([0, 0, 0, 1]))
    # 9 and 6 tokens, rounded up to recurring numbers.
    assert seen == [16, 8]


def test_padding_may_stand_on_either_side(make_adapted):
    model = make_adapted().model
    _, completions, prompt_of, _ = problem(3)
    left, right = (
        score(SharedPrefix(), model, pad(PROMPTS, 41, side=side), completions, prompt_of).logprobs
        for side in ("left", "right")
    )
    assert torch.equal(left, right)


def test_prompts_of_a_single_token_alone(make_adapted):
    policy = make_adapted()
    prompts = pad([[21], [22]], 0, side="left")
    completions = pad(completions_of(3, prompts=2), 0, side="right")
    prompt_of = torch.tensor([0, 0, 0, 1, 1, 1])
    found, expected = (
        score(engine, policy.model, prompts, completions, prompt_of).logprobs
        for engine in (SharedPrefix(), Plain())
    )
    assert_close(found, expected, atol=1e-5, rtol=0)
    assert relative_error(gradient(policy.model, found), gradient(policy.model, expected)) < 1e-5
    follow(policy.model, prompts, 3, steps=3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_activation_checkpointing_keeps_the_prefix(make_adapted, name):
    model = make_adapted(name, gradient_checkpointing=True).model.train()
    runs = []
    model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(
        lambda module, inputs: runs.append(inputs[0].shape)
    )
    *inputs, _ = problem(4)
    found = score(SharedPrefix(), model, *inputs).logprobs
    assert len(runs) == 2
    ours = gradient(model, found)
    assert len(runs) == 4  # prompts and completions, each once more
    expected = score(Plain(), model.eval(), *inputs).logprobs  # without checkpointing
    assert_close(found, expected, atol=1e-5, rtol=0)
    assert relative_error(ours, gradient(model, expected)) < 1e-5


def test_the_reference_is_that_of_the_plain_engine(make_adapted, shake):
    policy = make_adapted()
    policy.begin_phase("grpo")
    shake(policy, "grpo")
    *inputs, _ = problem(3)
    before = score(SharedPrefix(), policy.model, *inputs).logprobs
    with torch.no_grad(), policy.reference() as model:
        found, expected = (score(engine, model, *inputs).logprobs for engine in (SharedPrefix(), Plain()))
    assert_close(found, expected, atol=1e-5, rtol=0)
    assert (found - before).abs().max() > 0.1
    assert torch.equal(score(SharedPrefix(), policy.model, *inputs).logprobs, before)


@pytest.mark.parametrize("size", [1, 4, 7])
def test_micro_batches_add_up_to_the_whole_gradient(make_adapted, size):
    model = make_adapted().model
    prompts, completions, prompt_of, _ = problem(4)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    coefficients = torch.randn(completions.ids.shape, generator=torch.Generator().manual_seed(0))
    for part in torch.arange(12).split(size):
        rows = TokenBatch(completions.ids[part], completions.mask[part])
        scores = score(SharedPrefix(), model, prompts, rows, prompt_of[part])
        (coefficients[part] * scores.logprobs).sum().backward()
    found = torch.cat([weight.grad.flatten() for weight in weights])
    expected = gradient(model, score(Plain(), model, prompts, completions, prompt_of).logprobs)
    assert relative_error(found, expected) < 1e-5


def follow(model, prompts, group, steps, keep=None):
    """Give both engines' decoders the same random tokens and compare their logits after each."""
    generator = torch.Generator().manual_seed(group)
    shared, plain = SharedPrefix(), Plain()
    with torch.no_grad():
        ours = shared.decoder(model, shared.encode(model, prompts), group)
        theirs = plain.decoder(model, plain.encode(model, prompts), group)
    for step in range(steps):
        assert ours.logits.shape == theirs.logits.shape
        assert_close(ours.logits, theirs.logits, atol=2e-5, rtol=0)
        if keep and step in keep:
            for decoder in (ours, theirs):
                decoder.keep(torch.tensor(keep[step]))
        tokens = torch.randint(40, 60, (len(ours.logits),), generator=generator)
        ours.advance(tokens)
        theirs.advance(tokens)
    assert_close(ours.logits, theirs.logits, atol=2e-5, rtol=0)
    return ours


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("group", [1, 3, 9])
def test_decoding_equals_the_plain_decoder(make_adapted, name, group):
    model = make_adapted(name).model.eval()
    follow(model, pad(PROMPTS, 41, side="left"), group, steps=6)


def test_rows_leave_the_decoder_at_any_time(make_adapted):
    model = make_adapted().model.eval()
    # From nine rows, prompt 1 loses one, then prompt 0 all but its last; prompt 1 ends, and one row is left.
    keep = {0: [0, 1, 2, 3, 5, 6, 7, 8], 2: [2, 3, 4, 5, 6, 7], 3: [0, 3, 5], 7: [2]}
    decoder = follow(model, pad(PROMPTS, 41, side="left"), 3, steps=40, keep=keep)
    assert len(decoder.logits) == 1


def test_decoding_leaves_the_gradient_of_its_prompts_alone(make_adapted):
    model, engine = make_adapted().model, SharedPrefix()
    prompts, completions, prompt_of, _ = problem(3)
    prefix = engine.encode(model, prompts)
    decoder = engine.decoder(model, prefix, 3)
    decoder.advance(torch.tensor([41] * 9))
    assert not decoder.logits.requires_grad
    found = gradient(model, engine.score(model, prefix, completions, prompt_of).logprobs)
    expected = gradient(model, score(Plain(), model, prompts, completions, prompt_of).logprobs)
    assert relative_error(found, expected) < 1e-5


def test_a_model_is_what_it_was_after_the_engine_used_it(make_pretrained, tmp_path):
    model = make_pretrained(lora=None).model.eval()
    prompts, completions, prompt_of, _ = problem(3)
    inputs = {"input_ids": prompts.ids, "attention_mask": prompts.mask.long()}
    with torch.no_grad():
        logits = model(**inputs).logits
        said = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        score(SharedPrefix(), model, prompts, completions, prompt_of)
        assert_close(model(**inputs).logits, logits, atol=1e-6, rtol=0)
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), said)
        model.save_pretrained(tmp_path)
        assert "mllmrec" not in (tmp_path / "config.json").read_text()
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert loaded.config._attn_implementation == "sdpa"
        assert_close(loaded(**inputs).logits, logits, atol=1e-6, rtol=0)


HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SMALL = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
BOTH = {"layer_types": ["sliding_attention", "full_attention"]}
WINDOWED = {
    "gemma3": (Gemma3TextConfig, {**BOTH, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "qwen2": (Qwen2Config, {**BOTH, "use_sliding_window": True}),
    "mistral": (MistralConfig, {}),  # a config that names no layer types
}


@pytest.fixture
def make_windowed():
    """A small random model with a sliding window of so many tokens; all of its weights train."""

    def make(name, window):
        config_class, own = WINDOWED[name]
        # Weights so large that log-probabilities differ by whole nats.
        config = config_class(**SMALL, **HEADS, **own, sliding_window=window, initializer_range=0.25)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()

    return make


# The longest prompt has 7 tokens and its longest answer 6, of which the last one is no input.
@pytest.mark.parametrize("window", [64, 12])
@pytest.mark.parametrize("name", WINDOWED)
def test_inside_a_sliding_window_scores_and_gradients_equal_the_plain_engine(make_windowed, name, window):
    model = make_windowed(name, window)
    *inputs, _ = problem(4)
    assert int(inputs[1].mask.sum(1)[:4].max()) == 6
    found, expected = (score(engine, model, *inputs).logprobs for engine in (SharedPrefix(), Plain()))
    assert_close(found, expected, atol=1e-5, rtol=0)
    assert found.std() > 0.1
    assert relative_error(gradient(model, found), gradient(model, expected)) < 1e-5
    follow(model, inputs[0], 3, steps=window - 7 if window < 64 else 40)


@pytest.mark.parametrize("name", WINDOWED)
def test_what_outgrows_a_sliding_window_is_refused(make_windowed, name):
    model, engine = make_windowed(name, 11), SharedPrefix()
    prompts, completions, prompt_of, _ = problem(4)
    prefix = engine.encode(model, prompts)
    with pytest.raises(UserError, match=r"12 tokens .* with sliding_window=11: use engine=plain"):
        engine.score(model, prefix, completions, prompt_of)
    decoder = engine.decoder(model, prefix, 1)
    for _ in range(4):
        decoder.advance(torch.tensor([41] * 3))
    with pytest.raises(UserError, match=r"12 tokens"):
        decoder.advance(torch.tensor([41] * 3))
    with pytest.raises(UserError, match=r"12 tokens"):
        engine.encode(model, pad([[21] * 13], 0, side="left"))
    # The plain engine lets the window slide.
    slid = score(Plain(), model, prompts, completions, prompt_of).logprobs
    whole = score(Plain(), make_windowed(name, 12), prompts, completions, prompt_of).logprobs
    assert (slid - whole).abs().max() > 1e-3


def test_the_engine_takes_as_much_as_slides_at_once(make_windowed, make_pretrained):
    assert SharedPrefix().longest(make_windowed("gemma3", 11)) == 11
    assert SharedPrefix().longest(make_pretrained().model) is None
    assert Plain().longest(make_windowed("gemma3", 11)) is None


@pytest.mark.parametrize(
    ("config_class", "strange"),
    [
        (Gemma3TextConfig, {"use_bidirectional_attention": True}),
        (Gemma3TextConfig, {"final_logit_softcapping": 30.0}),
        (GraniteConfig, {"logits_scaling": 8.0}),
    ],
)
def test_models_that_compute_something_else_are_refused(config_class, strange):
    config = config_class(**SMALL, **HEADS, **strange)
    with pytest.raises(UserError, match="engine=plain"):
        SharedPrefix().encode(AutoModelForCausalLM.from_config(config), pad([[1, 2, 3]], 0, side="left"))
