from __future__ import annotations

import pytest
from omegaconf import DictConfig

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.errors import ConfigError

TITLED = ("backbone=smollm2_135m",)


def composed(*overrides: str) -> DictConfig:
    result = compose_checked("train", overrides, CONFIG_DIR)
    assert result.faults == []
    return result.config


def faults_of(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_config(composed(*overrides))
    return raised.value.faults


def test_the_default_configuration_has_no_fault() -> None:
    check_config(composed())


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("mix_ratio=1.5", "mix_ratio=1.5: must be less than or equal to 1"),
        ("mix_ratio=-0.1", "mix_ratio=-0.1: must be greater than or equal to 0"),
        ("seed=abc", "seed=abc: must be a whole number"),
        ("seed=-1", "seed=-1: must be greater than or equal to 0"),
        (
            "grpo.group_size=1",
            "grpo.group_size=1: must be greater than or equal to 2 (one completion has no group to be compared with)",
        ),
        ("grpo.beta=-1", "grpo.beta=-1: must be greater than or equal to 0"),
        ("grpo.kl=k4", "grpo.kl=k4: must be 'k1', 'k2', 'k3', 'k1+' or 'k3+'"),
        ("sft.learning_rate=0", "sft.learning_rate=0: must be greater than 0"),
        ("sft.batch_size=0", "sft.batch_size=0: must be greater than or equal to 1"),
        ("sft.epochs=0", "sft.epochs=0: must be greater than 0"),
        ("sft.epochs=null", "sft.epochs=null: must be a number"),
        ("eval.cot=1", "eval.cot=1: must be true, false or auto"),
        ("eval.ks=[0]", "eval.ks.0=0: must be greater than or equal to 1"),
        ("eval.ks=[]", "eval.ks=[]: must be one or more different cut-offs, such as [1,3,5,10]"),
        ("eval.ks=[3,3]", "eval.ks=[3, 3]: must be one or more different cut-offs, such as [1,3,5,10]"),
        (
            "eval.ranking=sample",
            "eval.ranking=sample: must be 'likelihood', 'constrained', 'generate', 'pointwise' or 'reasoned'",
        ),
        (
            "eval.num_negatives=all",
            "eval.num_negatives=all: must be a whole number of at least 1, or full for the whole catalogue",
        ),
        (
            "method.phases=[sft,grpo,sft]",
            "method.phases: two phases are called sft: give one of them another name",
        ),
        ("rollout.temperature=0", "rollout.temperature=0: must be greater than 0"),
        ("dataset.max_users=0", "dataset.max_users=0: must be greater than or equal to 1"),
        ("backbone.num_heads=two", "backbone.num_heads=two: must be a whole number"),
        ("trainer.precision=8", "trainer.precision=8: must be '32-true', 'bf16-mixed' or 'bf16-true'"),
        (
            "+grpo.gruop_size=4",
            "grpo.gruop_size: no such setting (did you mean group_size?); choose aggregation, beta, entropy_share, epochs, "
            "group_size, iterations, kl, kl_ratio, learning_rate, log_kl, lora, max_generated_tokens, max_grad_norm, max_steps, "
            "micro_batch_size, new_negatives, off_policy_limit, prompts_per_step, rollouts_shown, schedule, "
            "skip_zero_variance, warmup_ratio or weight_decay",
        ),
        ("heldout=null", "heldout=null: must be a section with every, keep, patience or users"),
        ("heldout=5", "heldout=5: must be a section with every, keep, patience or users"),
        ("~sft.epochs", "sft.epochs is not set: add sft.epochs=VALUE"),
    ],
)
def test_types_and_bounds(override: str, expected: str) -> None:
    assert faults_of(override) == [expected]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cot_policy=none", "mix_ratio=0.1"], "mix_ratio=0.1 with cot_policy=none"),
        (["+baselines.sft_last._target_=mllmrec.baselines.popularity.Popularity"], "baselines.sft_last"),
        (["cot_policy=none", "eval.cot=true"], "eval.cot=true with cot_policy=none"),
        # 9 negatives and the target are 10 candidates.
        (["eval.ks=[1,11]"], "11 exceeds the 10 candidates"),
        (["eval.num_negatives=full", "eval.ranking=generate"], "cannot list the whole catalogue"),
        (["eval.num_negatives=full", "eval.listing=all"], "set eval.listing=trained or none"),
        (
            ["eval.num_negatives=10", "eval.ranking=generate"],
            "eval.listing=all (a longer list than the 10 of",
        ),
        (["eval.listing=none", "eval.ranking=generate"], "the prompt must list all candidates"),
        (["eval.ranking=constrained", "eval.num_negatives=10"], "renormalised within each list of 10"),
        (["reward=release"], "reward._target_=mllmrec.rewards.release.Release with prompt.answer=id"),
        (
            ["variant=rank_grpo", "reward=semantic"],
            "reward._target_=mllmrec.rewards.semantic.Semantic pays an answer as a whole",
        ),
        (["reward.require_title=true"], "reward.require_title=true with prompt.answer=id"),
        (["backbone=qwen3_0.6b", "sft=null"], "method.phases names sft"),
        (["split=given", "split.validation_share=0"], "heldout.users=500 with split.validation_share=0"),
        (
            ["split=given", "split.validation_share=0", "heldout.users=0", "eval.split=validation"],
            "eval.split",
        ),
        (
            ["dataset.filters.min_length=9", "dataset.filters.max_length=8"],
            "dataset.filters.min_length=9 exceeds",
        ),
        # 100 / 3 is no whole number; 36 / 4 = 9 is odd, and rotary positions come in pairs.
        (["backbone.hidden_size=100", "backbone.num_heads=3"], "backbone.num_heads=3"),
        (["backbone.hidden_size=36", "backbone.num_heads=4"], "backbone.hidden_size=36"),
        (["split.min_history=0"], "min_history=0"),
        (["advantage.scale=max"], "'max' is none of"),
        (["+reward.hitweight=2"], "reward.hitweight: no such setting here (did you mean hit_weight?)"),
        (
            ["reward._target_=mllmrec.rewards.release.Relase"],
            "no such class: mllmrec.rewards.release has no Relase (did you mean Release?)",
        ),
        (
            ["reward._target_=mllmrec.rewards.relase.Release"],
            "no such class: mllmrec.rewards has no relase (did you mean release?)",
        ),
        (
            ["reward._target_=our_lab.rewards.Release"],
            "no package our_lab is found; start python -m in the folder that holds our_lab/",
        ),
        (["reward._target_=Release"], "give its full path, as in package.module.Class"),
        (["reward._target_=torch.zeros"], "it is a builtin_function_or_method, not a class"),
        (["~reward._target_"], "reward names no class: its file begins with _target_: package.module.Class"),
        (["+shapers.mine.weight=2"], "shapers.mine names no class"),
        (["mix_ratio=${nothing}"], "mix_ratio: Interpolation key 'nothing' not found"),
        (["mixing.select=confidence"], "this cot_policy gives no confidence"),
        (
            ["cot.placement=completion", "eval.ranking=reasoned"],
            "the policy cannot reason; choose rollout=reasoned, rollout=free or method=sft",
        ),
        (
            ["cot.placement=completion", "method=sft"],
            "scored right after the prompt without any; set eval.ranking=reasoned",
        ),
        (["rollout=lists"], "prompts ask for one item: set task=ranked_list"),
        (
            ["task=ranked_list", "eval.num_negatives=19"],
            "set eval.listing=all (a longer list than the 10 of training",
        ),
        (["task=ranked_list", "eval.listing=none"], "set eval.listing=all, or eval.num_negatives=9"),
        (
            ["task=ranked_list", "eval.num_negatives=full"],
            "whole catalogue; set eval.num_negatives to a number",
        ),
        (["eval.ranking=reasoned"], "no prompt asks for reasoning before the answer"),
        (["rollout=reasoned"], "set cot.placement=completion and mix_ratio=1"),
        (
            ["task=reasoned", "mix_ratio=0"],
            "Reasoned and eval.ranking=reasoned with cot.placement=completion",
        ),
        (["task=reasoned", "eval.cot=false"], "set eval.cot=auto"),
        (["rollout=profiled"], "no prompt asks for a profile; set task=profiled"),
        (
            ["task=profiled", "mix_ratio=0"],
            "mix_ratio=0: no prompt asks for reasoning before the answer; set mix_ratio=1",
        ),
        (["task=profiled", "rollout=reasoned"], "answers right after the prompt; set rollout=profiled"),
        (["task=profiled", "eval.ranking=generate"], "after the profile; set eval.ranking=reasoned"),
        (["task=profiled", "variant=remax"], "greedy answer right after the prompt"),
        (
            ["task=profiled", "inference=majority"],
            "draws several profiles), or choose a run of task=reasoned",
        ),
        (
            ["task=profiled", "variant=grpo_sft_grpo"],
            "phase sft_on_grpo, which learns the answers that grpo drew",
        ),
        (["task=profiled", "method=dpo"], "which learns answers without reasoning"),
        (["task=profiled", "method=expert_iteration"], "learns drawn answers and no profiles"),
        (
            [
                "task=profiled",
                "variant=scaf_grpo",
                "rollout.inner._target_=mllmrec.rollout.profiled.Profiled",
            ],
            "Scaffold around profiles",
        ),
        (["task=reasoned", "rollout.max_reasoning_tokens=65"], "set eval.max_reasoning_tokens=65"),
        (
            ["cot.placement=completion", "method=sft", "eval.cot=true"],
            "prompts cannot show it; set eval.cot=auto",
        ),
        (
            ["cot.placement=completion", "method=sft", "eval.cot=false", "eval.ranking=generate"],
            "evaluation prompts would not; set eval.cot=auto",
        ),
        ([*TITLED, "prompt.label=letter", "candidates.num_negatives=26"], "26 letters for 27 candidates"),
        ([*TITLED, "prompt.label=letter", "eval.listing=none"], "no prompt lists have no letters"),
        (
            [*TITLED, "prompt.label=number", "eval.num_negatives=full"],
            "set prompt.label=id or none, or eval.num_negatives to a number",
        ),
        (
            [*TITLED, "prompt.label=letter", "eval.listing=all", "eval.num_negatives=26"],
            "set eval.listing=trained, or prompt.label=number",
        ),
        (
            ["prompt.label=letter", "prompt.template=instruct"],
            "leave the phase out (method.phases=[sft,grpo])",
        ),
        ([*TITLED, "prompt.label=none", "prompt.answer=id"], "an answer would say nothing"),
        ([*TITLED, "prompt.label=none", "prompt.template=compact"], "set prompt.template=instruct"),
        (
            [*TITLED, "prompt.label=none", "task=ranked_list"],
            "set prompt.label=id or letter, or rollout=lines and eval.ranking=generate",
        ),
        ([*TITLED, "prompt.label=number", "reward=release"], "does not name items by their ids"),
        (["loss=reinforce", "grpo.iterations=2"], "set grpo.iterations=1, or choose loss=grpo"),
        (["prompt.system=hello"], "prompt.system with a policy from scratch"),
        (["eval.calibrate=history", "eval.ranking=generate"], "only likelihoods can be corrected"),
        (["eval.normalise=tokens", "eval.ranking=constrained"], "whose probabilities add up to 1"),
        (["eval.calibrate=permute", "eval.listing=none"], "set eval.calibrate=history"),
        (["eval.calibrate=permute", "eval.orders=1"], "set eval.orders to 2 or more"),
        (
            [
                *TITLED,
                "prompt.label=number",
                "task=ranked_list",
                "candidates.num_negatives=8",
                "eval.ranking=constrained",
                "eval.listing=all",
                "eval.num_negatives=20",
            ],
            "one number may be the beginning of another",
        ),
        (["eval.calibrate=permute", "task=ranked_list"], "ranked lists are written, not scored"),
        (["heldout.users=0", "heldout.patience=3"], "heldout.patience=3 with heldout.users=0"),
        (["cot_policy=refined", "draft=precomputed"], "draft.path is not set: add draft.path=VALUE"),
        (["cot_policy=refined", "refine=hf", "refine.max_new_tokens=0"], "max_new_tokens"),
    ],
)
def test_contradictions_and_components(overrides: list[str], words: str) -> None:
    (fault,) = faults_of(*overrides)
    assert words in fault


def test_4bit_weights_need_adapters() -> None:
    faults = faults_of("backbone=qwen3_0.6b", "backbone.quantization=4bit", "backbone.lora.rank=0")
    assert any("backbone.lora.rank=0: 4-bit weights cannot train" in fault for fault in faults)


def test_weights_of_gguf_files_are_not_packed_again(monkeypatch) -> None:
    asked = (*TITLED, "backbone.gguf_file=a.gguf")
    monkeypatch.setattr("mllmrec.config.model_rules.find_spec", lambda name: name)
    faults = faults_of(*asked, "backbone.quantization=4bit")
    assert any("set one of the two to null" in fault for fault in faults)
    monkeypatch.setattr("mllmrec.config.model_rules.find_spec", lambda name: None if name == "gguf" else name)
    assert faults_of(*asked) == ["backbone.gguf_file=a.gguf needs: pip install 'mllmrec[gguf]'"]


def test_parts_that_are_used_say_which_packages_they_need(monkeypatch) -> None:
    absent = ("sklearn", "openai")
    monkeypatch.setattr("mllmrec.config.model_rules.find_spec", lambda name: None if name in absent else name)
    check_config(composed())  # text_encoder=tfidf is set, and read by no part
    needed = "; ".join(faults_of("cot_policy=refined", "refine=openai", "refine.model=m", "reward=semantic"))
    assert "refine (OpenAIReasoner) needs openai: pip install 'mllmrec[endpoint]'" in needed
    assert "reward.encoder (Tfidf) needs sklearn: pip install 'mllmrec[text]'" in needed


@pytest.mark.parametrize(
    "overrides",
    [
        ["eval.ks=[10]"],  # as many as candidates: trivial but no contradiction
        ["eval.num_negatives=full", "eval.ks=[100]"],
        ["cot_policy=none"],
        ["reward=release", "prompt.answer=id_title"],
        ["reward=release", "method=sft"],  # no phase reads the reward
        ["grpo.micro_batch_size=100000"],  # a cap
        ["caption=palette", "dataset=amazon_beauty"],  # no images
        ["backbone=qwen3_0.6b", "backbone.lora.rank=0"],
        ["backbone=qwen3_0.6b", "debug=fast"],  # limits a warm-up that this recipe lacks
        ["sft.epochs=0.5"],
        ["grpo.beta=0"],
        ["cot_policy=confident", "mixing.select=confidence", "mixing=augment"],
        ["cot.placement=completion", "method=sft", "eval.ranking=reasoned"],
        ["task=reasoned"],
        ["task=reasoned", "rollout.answer=sampled", "mix_ratio=0.5"],
        ["cot.placement=completion", "method=sft", "eval.ranking=generate"],
        ["cot.placement=completion", "method=sft", "eval.cot=false"],  # answers are scored, not generated
        ["sft.loss_on=candidates"],
        [*TITLED, "prompt.label=none", "eval.listing=none"],
        [*TITLED, "prompt.label=letter", "prompt.answer=id", "eval.num_negatives=99"],  # ten lists
        [*TITLED, "prompt.label=number", "prompt.system=hello"],
        ["prompt.label=letter", "method=sasrec"],  # reads no prompt
        [*TITLED, "prompt.label=letter", "task=ranked_list"],
        [*TITLED, "prompt.label=number", "task=ranked_list", "candidates.num_negatives=8"],
        [*TITLED, "prompt.label=none", "task=ranked_list", "rollout=lines", "eval.ranking=generate"],
    ],
)
def test_what_is_allowed(overrides: list[str]) -> None:
    check_config(composed(*overrides))


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["text_encoder.size=0"], "text_encoder.size=0 must be above 0"),
        (
            ["text_encoder=sentence", "text_encoder.max_tokens=0"],
            "text_encoder.max_tokens=0 must be above 0, or null for the model's own limit",
        ),
        (
            ["text_encoder.siez=8"],
            "text_encoder.siez: no such setting here (did you mean size?); choose size",
        ),
    ],
)
def test_a_fault_of_the_text_encoder_is_told_once(overrides: list[str], fault: str) -> None:
    # Both the reward and the recommender refer to it.
    plus = [f"+{text}" if "siez" in text else text for text in overrides]
    assert faults_of("method=sasrec_text", "reward=semantic", *plus) == [fault]


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["reward=semantic", "reward.encoder=sentence"], "reward.encoder"),
        (["method=sasrec_text", "method.recommender.encoder=sentence"], "method.recommender.encoder"),
        (["method=llara_text", "method.item_vectors.encoder=sentence"], "method.item_vectors.encoder"),
    ],
)
def test_a_word_is_no_text_encoder(overrides: list[str], setting: str) -> None:
    (fault,) = faults_of(*overrides)
    assert fault.startswith(f"{setting}=sentence is no encoder of texts: set text_encoder=sentence")


def test_a_whole_catalogue_is_refused_where_numbers_name_the_places_of_lists() -> None:
    faults = faults_of(*TITLED, "prompt.label=number", "task=ranked_list", "eval.num_negatives=full")
    assert any("set prompt.label=id or none, or eval.num_negatives to a number" in fault for fault in faults)


def test_all_faults_come_together() -> None:
    faults = faults_of("mix_ratio=2", "grpo.group_size=0", "dataset=netflix", "eval.ks=[99]", "backbone=hf")
    assert [fault.split(":")[0].split("=")[0] for fault in faults] == [
        "backbone.path is not set",
        "mix_ratio",
        "grpo.group_size",
        "eval.ks",
        "dataset.root not set",
    ]


def test_what_depends_on_the_run_is_checked_with_the_run() -> None:
    check_config(compose_checked("evaluate", ["run=folder", "eval.calibrate=history"], CONFIG_DIR).config)


def test_commands_on_a_finished_run_check_what_is_given() -> None:
    result = compose_checked("evaluate", ["run=folder", "eval.num_negatives=0", "eval.ks=[1,1]"], CONFIG_DIR)
    assert result.faults == []
    with pytest.raises(ConfigError) as raised:
        check_config(result.config)
    assert [fault.split("=")[0] for fault in raised.value.faults] == ["eval.num_negatives", "eval.ks"]
    check_config(compose_checked("evaluate", ["run=folder", "eval.num_negatives=full"], CONFIG_DIR).config)
    check_config(compose_checked("recommend", ["run=folder", "history=[1,2]"], CONFIG_DIR).config)
