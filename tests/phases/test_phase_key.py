"""Everything that made a phase's weights is part of its key: tests change one ingredient, and the key must change."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from mllmrec.config import CONFIG_DIR
from mllmrec.config.kinds import DPO, GRPO, KINDS, PARTS, POINTWISE, SFT, WARMUP, Kind
from mllmrec.config.phases import Phase
from mllmrec.jobs.main import held_out_protocol
from mllmrec.phases import key as key_module
from mllmrec.phases.key import BY_CONTENT, NOT_IN_WARMUP, OF_OTHERS, OF_REPORTS, OF_THE_JOB, PhaseKey
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.prompts.builder import ItemTexts, PromptBuilder, load_template
from mllmrec.prompts.examples import Example
from mllmrec.prompts.profiles import SecondPrompt
from mllmrec.samples.prepare import prepare
from mllmrec.store import fingerprints
from mllmrec.store.fingerprints import (
    code_fingerprint,
    examples_fingerprint,
    measure_fingerprint,
    model_fingerprint,
)
from mllmrec.store.trained_once import place_of

USERS, ITEMS, LENGTH = 12, 16, 6
WARM, FIRST = Phase("warmup", WARMUP), Phase("sft", SFT)
BOTH = (WARM, FIRST)


class World:
    """Tables of twelve users, an image of every item, and the key of a job that reads them.

    User u has the items u, u + 1, ... u + 5 (mod 16): the training target is u + 3, after u, u + 1 and u + 2.
    """

    def __init__(self, folder: Path, make_pretrained: Callable[..., Any]) -> None:
        self.folder, self.make_pretrained = folder, make_pretrained
        self.write_ratings()
        self.write_titles("Thing")
        (folder / "images").mkdir()
        for item in range(ITEMS):
            Image.new("RGB", (8, 8), (item, 0, 0)).save(folder / "images" / f"i{item}.png")
        self.write_texts("captions", "red")
        self.write_texts("reasoning", "They like red.")
        self.write_texts("refinements", "They like dark red.")

    def write_ratings(self, hidden: int = 0) -> None:
        """``hidden``: the number of earlier interactions of each user, with ratings too low to be used."""
        rows = [
            f"u{user},i{(user + step) % ITEMS},{step},{5 if step >= 0 else 1}"
            for user in range(USERS)
            for step in range(-hidden, LENGTH)
        ]
        (self.folder / "ratings.csv").write_text("\n".join(["user_id,item_id,timestamp,rating", *rows]))

    def write_titles(self, word: str) -> None:
        titles = [f"i{item},{word} {chr(65 + item)}" for item in range(ITEMS)]
        (self.folder / "items.csv").write_text("\n".join(["item_id,title", *titles]))

    def write_texts(self, kind: str, text: str) -> None:
        """``captions`` of every item, or ``reasoning`` or ``refinements`` about every training sample."""
        content: Any = {f"i{item}": text for item in range(ITEMS)}
        if kind != "captions":
            content = [
                {
                    "user_id": f"u{user}",
                    "history_items": [f"i{(user + step) % ITEMS}" for step in range(3)],
                    "target_item": f"i{(user + 3) % ITEMS}",
                    "reasoning": text,
                }
                for user in range(USERS)
            ]
        (self.folder / f"{kind}.json").write_text(json.dumps(content))

    def configure(self, *overrides: str) -> DictConfig:
        folder = self.folder
        reasoning = ("cot_policy=precomputed", f"cot_policy.path={folder / 'reasoning.json'}")
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose(
                "train",
                overrides=[
                    f"cache_dir={folder / 'cache'}",
                    "dataset=tabular",
                    f"dataset.interactions={folder / 'ratings.csv'}",
                    f"dataset.items={folder / 'items.csv'}",
                    f"dataset.images={folder / 'images'}",
                    "dataset.rating_column=rating",
                    "dataset.filters.min_rating=3",
                    "split.windows=last",
                    "caption=precomputed",
                    f"caption.path={folder / 'captions.json'}",
                    *(() if "cot_policy=pseudo" in overrides else reasoning),
                    "mix_ratio=0.5",
                    "prompt.template=instruct",
                    "prompt.item_tokens=image",
                    "candidates.num_negatives=3",
                    "eval.num_negatives=3",
                    "eval.weighting=uniform",
                    "eval.ks=[1,3]",
                    "heldout.users=4",
                    *overrides,
                ],
            )

    def key(self, *overrides: str, before: Callable[[Any], None] | None = None) -> PhaseKey:
        """The key of a job whose policy and tokenizer do not depend on its prompts.

        Args:
            overrides: of the configuration.
            before: told of ``policy``, ``answers`` and ``prepared`` before the key is made.
        """
        cfg = self.configure(*overrides)
        prepared = prepare(cfg)
        policy = self.make_pretrained(lora=None)
        answers = AnswerTokens(prepared.builder, policy.encode_answers, policy.end_token)
        made = {"policy": policy, "answers": answers, "prepared": prepared}
        if before is not None:
            before(made)
        return PhaseKey(cfg, prepared, policy, made["answers"], held_out_protocol(cfg, prepared))


@pytest.fixture
def world(tmp_path: Path, make_pretrained) -> World:
    return World(tmp_path, make_pretrained)


def changed(first: dict[str, Any], second: dict[str, Any]) -> set[str]:
    """The names of the parts that differ; the places must differ exactly if some part does."""
    names = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    assert (place_of(Path(), first) != place_of(Path(), second)) == bool(names)
    return names


# One change for each part of a key that changes no other part: without the part, the two keys would be equal.


def other_weights(made: dict[str, Any]) -> None:
    with torch.no_grad():
        made["policy"].model.model.norm.weight[0] += 1e-3


def other_chat_template(made: dict[str, Any]) -> None:
    made["policy"].tokenizer.chat_template += " "


def other_ends_of_answers(made: dict[str, Any]) -> None:
    policy = made["policy"]
    made["answers"] = AnswerTokens(made["prepared"].builder, policy.encode_answers, policy.end_token + 1)


def other_first_tokens(made: dict[str, Any]) -> None:
    policy = made["policy"]

    def encode(texts: list[str]) -> list[list[int]]:
        return [[first + 1, *rest] for first, *rest in policy.encode_answers(texts)]

    made["answers"] = AnswerTokens(made["prepared"].builder, encode, policy.end_token)


def other_sequence(made: dict[str, Any]) -> None:
    items = made["prepared"].interactions.items
    items[:2] = items[:2][::-1].copy()


def other_image(world: World) -> None:
    Image.new("RGB", (8, 8), (0, 0, 9)).save(world.folder / "images" / "i5.png")


INGREDIENTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    # part: (stages, what is changed)
    "settings": (BOTH, {"overrides": ["trainer.precision=bf16-mixed"]}),
    "phases": (BOTH, {"overrides": ["sft.learning_rate=0.1"]}),
    "code": (BOTH, {"patch": (fingerprints, "library_version", lambda package: "0.0.0")}),
    "model": (BOTH, {"before": other_weights}),
    "reader": (BOTH, {"before": other_chat_template}),
    "answers": (BOTH, {"before": other_ends_of_answers}),
    "images": (BOTH, {"world": other_image}),
    "held out": (BOTH, {"overrides": ["eval.num_negatives=4"]}),
    "warmup: first tokens": ((WARM,), {"before": other_first_tokens}),
    "warmup: sequences": ((WARM,), {"before": other_sequence}),
    "sft: order": (
        BOTH,
        {"patch": (key_module, "plan_of", lambda *args, **others: [[3, 1, 4], [5]])},
    ),
    "sft: examples": (BOTH, {"overrides": ["candidates.num_negatives=4"]}),
}


def test_every_part_of_the_key_is_listed_here(world):
    # The names and order of the phases stand for themselves.
    assert set(world.key().parts(BOTH)) == {"stages", *INGREDIENTS}
    assert set(world.key().parts([WARM])) < {"stages", *INGREDIENTS}
    assert world.key().parts(BOTH)["stages"] == ["warmup", "sft"]


@pytest.mark.parametrize("part", INGREDIENTS)
def test_each_part_alone_makes_another_key(world, monkeypatch, part):
    stages, change = INGREDIENTS[part]
    # A fixed order of the same samples, to distinguish another order from other samples.
    monkeypatch.setattr(key_module, "plan_of", lambda *args, **others: [[1, 3], [4, 5]])
    before = world.key()
    first = before.parts(stages)
    assert changed(first, world.key().parts(stages)) == set()
    if "patch" in change:
        monkeypatch.setattr(*change["patch"])
    if "world" in change:
        change["world"](world)
    after = world.key(*change.get("overrides", ()), before=change.get("before"))
    assert changed(first, after.parts(change.get("stages", stages))) == {part}


@pytest.mark.parametrize("place", [1, 3, 4, 5])
def test_every_example_that_is_trained_on_counts(world, monkeypatch, place):
    monkeypatch.setattr(key_module, "plan_of", lambda *args, **others: [[1, 3], [4, 5]])

    def reverse_one(made: dict[str, Any]) -> None:
        train = made["prepared"].train
        candidates_of = train.candidates_of

        def changed_candidates(index: int) -> tuple[np.ndarray, int]:
            candidates, column = candidates_of(index)
            return (
                (candidates[::-1], len(candidates) - 1 - column) if index == place else (candidates, column)
            )

        train.candidates_of = changed_candidates

    first = world.key().parts(BOTH)
    assert changed(first, world.key(before=reverse_one).parts(BOTH)) == {"sft: examples"}


def test_a_backbone_of_the_user_s_own_is_known_by_its_source(world, import_from):
    source = world.folder / "own_backbone_for_keys.py"
    source.write_text("class Own:\n    pass\n")
    import_from(world.folder)
    key = world.key()
    key.settings["backbone"] = {"_target_": "own_backbone_for_keys.Own"}
    for stages in ([WARM], BOTH):
        first = key.parts(stages)
        source.write_text(source.read_text() + "    pass\n")
        assert changed(first, key.parts(stages)) == {"code"}


@pytest.mark.parametrize(
    "override",
    [
        "prompt.history_length=2",
        "prompt.template=compact",
        "engine=plain",
        "heldout.every=7",
        "method=dpo",
        "candidates.num_negatives=4",
        "mix_ratio=0",
        "eval.ks=[1]",
        "sft.learning_rate=0.1",
    ],
)
def test_a_warm_up_is_shared_by_jobs_that_differ_in_what_it_does_not_read(world, override):
    assert changed(world.key().parts([WARM]), world.key(override).parts([WARM])) == set()


def pseudo(world: World, stage: str) -> list[str]:
    return [
        "cot_policy=pseudo",
        f"cot_policy.stage={stage}",
        "draft=precomputed",
        f"draft.path={world.folder / 'reasoning.json'}",
        "refine=precomputed",
        f"refine.path={world.folder / 'refinements.json'}",
    ]


# Settings about the data enter the key only through the data that is read in the end. (section, how it is changed:
# overrides of both jobs, overrides of the second, what is edited in place between the two)
CONTENT: dict[str, tuple[str, Callable[[World], list[str]], list[str], Callable[[World], None]]] = {
    "another domain": ("dataset", lambda world: [], ["dataset.domain=restaurant"], lambda world: None),
    "other titles": ("dataset", lambda world: [], [], lambda world: world.write_titles("Object")),
    "other hidden interactions": ("dataset", lambda world: [], [], lambda world: world.write_ratings(5)),
    "other targets": ("split", lambda world: [], ["split.windows=sliding"], lambda world: None),
    "other captions": ("caption", lambda world: [], [], lambda world: world.write_texts("captions", "blue")),
    "other reasoning": (
        "cot_policy",
        lambda world: [],
        [],
        lambda world: world.write_texts("reasoning", "They like blue."),
    ),
    "other drafts": (
        "draft",
        lambda world: pseudo(world, "draft"),
        [],
        lambda world: world.write_texts("reasoning", "They like blue."),
    ),
    "other refinements": (
        "refine",
        lambda world: pseudo(world, "refined"),
        [],
        lambda world: world.write_texts("refinements", "They like blue."),
    ),
    "reasoning elsewhere": ("cot", lambda world: [], ["cot.placement=completion"], lambda world: None),
    "reasoning as a profile": (
        "cot",
        lambda world: ["cot.placement=completion"],
        ["cot.placement=profile"],
        lambda world: None,
    ),
    "reasoning beside": ("mixing", lambda world: [], ["mixing=augment"], lambda world: None),
    "more with reasoning": ("mix_ratio", lambda world: [], ["mix_ratio=0.75"], lambda world: None),
    "other negatives": (
        "candidates",
        lambda world: [],
        ["candidates.weighting=popularity"],
        lambda world: None,
    ),
    "other held-out users": ("protocol_seed", lambda world: [], ["protocol_seed=1"], lambda world: None),
    "another metric": ("eval", lambda world: [], ["eval.ks=[1,2]"], lambda world: None),
}
MEASURED_ONLY = ("protocol_seed", "eval")


def test_every_section_that_speaks_through_the_data_is_listed_here():
    assert {section for section, *_ in CONTENT.values()} == set(BY_CONTENT)


@pytest.mark.parametrize("name", CONTENT)
def test_what_the_data_says_makes_another_key(world, name):
    section, both, second, edit = CONTENT[name]
    first = world.key(*both(world)).parts([FIRST])
    edit(world)
    found = changed(first, world.key(*both(world), *second).parts([FIRST]))
    assert ("held out" if section in MEASURED_ONLY else "sft: examples") in found


def test_the_text_of_a_template_makes_another_key(world):
    template = world.folder / "words.yaml"
    template.write_text((CONFIG_DIR.parent / "mllmrec/prompts/templates/compact.yaml").read_text())
    first = world.key(f"prompt.template={template}").parts(BOTH)
    template.write_text(template.read_text().replace("History", "Earlier"))
    assert changed(first, world.key(f"prompt.template={template}").parts(BOTH)) == {
        "sft: examples",
        "held out",
    }


def test_other_chosen_samples_make_another_key(world):
    key, other = world.key(), world.key()
    mixture = other.prepared.mixture
    mixture.chosen = mixture.chosen[::-1].copy()
    mixture.chosen[0] = next(place for place in range(USERS) if place not in mixture.chosen)
    mixture._place = {int(position): place for place, position in enumerate(mixture.chosen)}
    assert changed(key.parts([FIRST]), other.parts([FIRST])) == {"sft: order", "sft: examples"}


# Sections that the key of SFT holds as they are.
READ = ("seed", "backbone", "trainer", "prompt", "engine", "heldout", "method")


def test_every_section_of_the_configuration_is_read_or_named_as_one_that_plays_no_part(world):
    sections = set(world.configure())
    named = [READ, OF_THE_JOB, OF_OTHERS, OF_REPORTS, BY_CONTENT, KINDS, PARTS]
    assert sections == set().union(*map(set, named))
    assert len(sections) == sum(map(len, named))  # no section is in two of the lists
    assert set(NOT_IN_WARMUP) < set(READ)


@pytest.mark.parametrize("section", [*READ, "warmup", "sft"])
def test_every_setting_of_a_section_that_is_read_makes_another_key(world, section):
    key = world.key()
    first = place_of(Path(), key.parts(BOTH))
    places = {first}
    for path in leaves(key.settings[section]):
        other = copy.copy(key)
        other.settings = replaced(key.settings, (section, *path))
        places.add(place_of(Path(), other.parts(BOTH)))
        alone = place_of(Path(), other.parts([WARM])) != place_of(Path(), key.parts([WARM]))
        assert alone == (section not in (*NOT_IN_WARMUP, "sft"))
    assert len(places) == 1 + len(list(leaves(key.settings[section])))


@pytest.mark.parametrize(
    "section", [*OF_THE_JOB, *OF_OTHERS, *OF_REPORTS, *PARTS, *sorted(set(KINDS) - {"warmup", "sft"})]
)
def test_a_setting_that_plays_no_part_is_shared(world, section):
    key = world.key()
    other = copy.copy(key)
    other.settings = replaced(key.settings, (section,))
    assert changed(key.parts(BOTH), other.parts(BOTH)) == set()


def leaves(value: Any, path: tuple = ()):
    if isinstance(value, dict) and value:
        for name, entry in value.items():
            yield from leaves(entry, (*path, name))
    else:
        yield path


def replaced(settings: dict[str, Any], path: tuple) -> dict[str, Any]:
    made = copy.deepcopy(settings)
    place = made
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = "json.JSONDecoder" if path[-1] == "_target_" else "another"
    return made


def test_the_method_s_name_and_its_later_stages_are_shared(world):
    first = world.key("method=sft").parts(BOTH)
    assert changed(first, world.key("method=mllmrec_r1").parts(BOTH)) == set()


def test_a_stage_whose_data_is_unknown_is_refused(world):
    after = [*BOTH, Phase("asked", POINTWISE), Phase("sft_2", SFT)]
    assert not world.key().knows(after)
    with pytest.raises(ValueError, match="asked"):
        world.key().parts(after)


# SFT that goes on from a policy which GRPO has changed. Everything that GRPO read has made its weights too.
AGAIN = (WARM, FIRST, Phase("grpo", GRPO), Phase("sft_2", SFT))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("reward.hit_weight=2.0", {"phases"}),
        ("reward=release", {"phases"}),
        ("rollout=free", {"phases"}),
        ("rollout.temperature=0.7", {"phases"}),
        ("advantage=rloo", {"phases"}),
        ("loss.epsilon_high=0.3", {"phases"}),
        ("reference=ema", {"phases"}),
        ("grpo.learning_rate=0.1", {"phases"}),
        ("grpo.group_size=3", {"phases"}),
        ("grpo.new_negatives=false", {"phases", "grpo: examples"}),
    ],
)
def test_sft_after_grpo_is_known_by_all_that_grpo_read(world, override, parts):
    key, other = world.key(), world.key(override)
    # Another class may lie in another file of the package.
    assert changed(key.parts(AGAIN), other.parts(AGAIN)) - {"code"} == parts
    # The first SFT has read none of it.
    assert changed(key.parts(BOTH), other.parts(BOTH)) == set()


def test_what_a_reward_reads_of_the_items_counts_where_grpo_came_before(world):
    words = ("reward=semantic", "text_encoder=sentence", f"text_encoder.path={world.folder / 'words'}")
    (world.folder / "words").mkdir()
    (world.folder / "words" / "weights").write_text("one")
    first = world.key(*words)
    early, late = first.parts(BOTH), first.parts(AGAIN)
    assert changed(late, world.key(*words, "text_encoder.max_tokens=9").parts(AGAIN)) == {"phases"}
    other = world.key(*words)
    other.prepared.items.details[0] = "unlike any other"  # no prompt shows details
    assert changed(late, other.parts(AGAIN)) == {"grpo: texts"}
    assert changed(early, other.parts(BOTH)) == set()
    (world.folder / "words" / "weights").write_text("two")
    assert changed(late, world.key(*words).parts(AGAIN)) == {"grpo: files"}


def test_what_a_phase_sets_for_itself_counts(world):
    key = world.key()
    plain = key.parts([FIRST])
    assert changed(plain, key.parts([Phase("sft", SFT, {"learning_rate": 0.1})])) == {"phases"}
    half = key.parts([Phase("sft", SFT, {"samples": [0.0, 0.5]})])
    assert changed(plain, half) == {"phases", "sft: order", "sft: examples"}
    drawn = key.parts([Phase("sft", SFT, {"draw": "others"})])
    assert changed(plain, drawn) == {"phases", "sft: examples"}
    paid = key.parts([FIRST, Phase("grpo", GRPO, {"reward": {"hit_weight": 2.0}}), Phase("sft_2", SFT)])
    assert changed(key.parts([FIRST, Phase("grpo", GRPO), Phase("sft_2", SFT)]), paid) == {"phases"}


def test_two_kinds_of_phases_with_one_name_are_told_apart(world):
    key = world.key()
    first = key.parts([FIRST, Phase("second", GRPO)])
    assert "phases" in changed(first, copy.copy(world.key()).parts([FIRST, Phase("second", DPO)]))


@pytest.mark.parametrize("reads_prompts", [True, False])
def test_a_ranking_is_known_by_its_users_its_ties_and_its_metric(world, reads_prompts):
    measured = world.key("prompt.item_tokens=none").held_out
    first = measure_fingerprint(measured, reads_prompts)
    assert measure_fingerprint(measured, reads_prompts) == first
    for name, value in (
        ("positions", measured.positions[1:]),
        ("seed", measured.seed + 1),
        ("settings", OmegaConf.merge(measured.settings, {"ks": [1]})),
        ("settings", OmegaConf.merge(measured.settings, {"batch_size": 1})),
    ):
        other = copy.copy(measured)
        setattr(other, name, value)
        assert measure_fingerprint(other, reads_prompts) != first, name
    # The way of ranking and the listing play no part for a ranker that reads no prompt.
    for changed_setting in ({"ranking": "constrained"}, {"listing": "none"}):
        other = copy.copy(measured)
        other.settings = OmegaConf.merge(measured.settings, changed_setting)
        assert (measure_fingerprint(other, reads_prompts) == first) == (not reads_prompts)
    assert measure_fingerprint(None) is None


TRAINS = "mllmrec.jobs.language_model"


def test_a_gpu_is_other_code_than_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    first = code_fingerprint({}, TRAINS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert changed(first, code_fingerprint({}, TRAINS)) == {"device"}


def test_other_source_of_the_package_is_other_code(monkeypatch):
    first = code_fingerprint({}, TRAINS)
    monkeypatch.setattr(fingerprints, "package_fingerprint", lambda entries: "another")
    assert changed(first, code_fingerprint({}, TRAINS)) == {"package"}


EXAMPLE = Example(
    "u0:3", "u0", "History A", 3, np.array([3, 7]), 0, True, "<think>red</think>A", np.array([1])
)
OTHER = {
    "sample_id": "u1:3",
    "user_id": "u1",
    "prompt": "History B",
    "target": 7,
    "candidates": np.array([7, 3]),
    "target_column": 1,
    "has_reasoning": False,
    "reasoned_answer": "A",
    "reasoning": "red",
    "history": np.array([1, 2]),
    "hint": "blue",
    "places": 2,
    "second": SecondPrompt(
        PromptBuilder(ItemTexts(list("01234567"), list("abcdefgh")), load_template("compact")),
        np.array([3, 7]),
    ),
    "profile_only": True,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Example)])
def test_everything_that_an_example_says_counts(name):
    first = examples_fingerprint([EXAMPLE])
    assert examples_fingerprint([dataclasses.replace(EXAMPLE)]) == first
    assert examples_fingerprint([dataclasses.replace(EXAMPLE, **{name: OTHER[name]})]) != first
    assert examples_fingerprint([EXAMPLE], without=[name]) == examples_fingerprint(
        [dataclasses.replace(EXAMPLE, **{name: OTHER[name]})], without=[name]
    )


def test_the_order_of_examples_counts():
    other = dataclasses.replace(EXAMPLE, prompt="History B")
    assert examples_fingerprint([EXAMPLE, other]) != examples_fingerprint([other, EXAMPLE])


def test_a_field_of_a_new_kind_is_refused_instead_of_left_out():
    with pytest.raises(TypeError, match="dict is not hashed"):
        examples_fingerprint([dataclasses.replace(EXAMPLE, target={})])


def test_a_model_is_known_by_its_weights_and_settings_and_not_by_its_path(make_pretrained):
    model = make_pretrained(lora=None).model
    first = model_fingerprint(model)
    model.config._name_or_path = "elsewhere"
    assert model_fingerprint(model) == first
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 5.0}
    second = model_fingerprint(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    assert len({first, second, model_fingerprint(model)}) == 3
    # The same bits in two formats.
    models = [make_pretrained(lora=None).model for _ in range(2)]
    with torch.no_grad():
        for weight in (*models[0].parameters(), *models[1].parameters()):
            weight.zero_()
    assert model_fingerprint(models[0]) == model_fingerprint(models[1])
    assert model_fingerprint(models[0].bfloat16()) != model_fingerprint(models[1].half())


def test_a_class_of_the_user_s_own_is_known_by_its_source(tmp_path, import_from):
    source = tmp_path / "own_engine_for_keys.py"
    source.write_text("class Own:\n    pass\n")
    import_from(tmp_path)
    settings = {
        "engine": {"_target_": "own_engine_for_keys.Own"},
        "loss": [{"_target_": "mllmrec.rl.losses.X"}],
    }
    first = code_fingerprint(settings, TRAINS)
    assert list(first["own"]) == ["own_engine_for_keys.Own"]
    source.write_text("class Own:\n    faster = True\n")
    assert code_fingerprint(settings, TRAINS)["own"] != first["own"]


@pytest.mark.parametrize("library", ["torch", "transformers", "peft", "numpy", "scikit-learn"])
def test_another_version_of_a_library_is_other_code(monkeypatch, library):
    first = code_fingerprint({}, TRAINS)
    versions = dict(first["libraries"])
    monkeypatch.setattr(
        fingerprints, "library_version", lambda name: "0" if name == library else versions[name]
    )
    assert changed(first, code_fingerprint({}, TRAINS)) == {"libraries"}


def test_a_setting_that_refers_to_another_counts_with_its_value(world):
    # GRPO's rate is no part of SFT's key, unless SFT takes it.
    linked = "sft.learning_rate=${grpo.learning_rate}"
    first = world.key(linked, "grpo.learning_rate=0.1").parts([FIRST])
    assert changed(first, world.key(linked, "grpo.learning_rate=0.2").parts([FIRST])) == {"phases"}
    first = world.key("heldout.every=${grpo.group_size}", "grpo.group_size=4").parts([FIRST])
    other = world.key("heldout.every=${grpo.group_size}", "grpo.group_size=5").parts([FIRST])
    assert changed(first, other) == {"settings"}


def test_what_a_method_says_besides_its_phases_counts(world):
    key = world.key("+method.item_vectors={_target_: mllmrec.baselines.popularity.Popularity}")
    assert key.settings["method"] == {"item_vectors": {"_target_": "mllmrec.baselines.popularity.Popularity"}}
    # The class that the settings name is code that the phase uses.
    assert changed(world.key().parts([FIRST]), key.parts([FIRST])) == {"settings", "code"}


def test_a_kind_of_the_user_s_own_is_known_by_its_source(world, import_from):
    source = world.folder / "own_kind_for_keys.py"
    source.write_text("def fit(inputs, loggers, measure):\n    pass\n")
    import_from(world.folder)
    own = Phase("mine", Kind("sft", "mine", KINDS["sft"].settings, "own_kind_for_keys.fit"))
    key = world.key()
    first = key.parts([own, FIRST])
    assert list(first["code"]["own"]) == ["own_kind_for_keys.fit"]
    source.write_text(source.read_text() + "    return 1\n")
    assert changed(first, key.parts([own, FIRST])) == {"code"}
