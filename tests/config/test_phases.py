"""What ``method.phases`` may say, what a phase sees of the configuration, and what classes say of themselves."""

from __future__ import annotations

import re

import pytest
from omegaconf import OmegaConf

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.capabilities import capability
from mllmrec.config.checks import plain_faults
from mllmrec.config.components import component_faults
from mllmrec.config.compose import compose_checked
from mllmrec.config.kinds import GRPO, KINDS, SFT, Kind, find_kind, stage_title
from mllmrec.config.phase_schema import Sft
from mllmrec.config.phases import Phase, phase_faults, phases_of

MINE = Kind("sft", "my SFT", Sft, "mine.fit")


def composed(*overrides):
    result = compose_checked("train", overrides, CONFIG_DIR)
    assert result.faults == []
    return result.config


def named(*phases):
    return phases_of({"method": {"phases": list(phases)}})


def test_a_phase_is_a_kind_or_a_kind_with_a_name_and_settings():
    first, second = named("sft", {"kind": "sft", "name": "again", "max_steps": 3})
    assert (first.name, first.kind, first.given) == ("sft", SFT, {})
    assert (second.name, second.kind, second.given) == ("again", SFT, {"max_steps": 3})
    # Runs of earlier versions name stages.
    assert [phase.kind for phase in phases_of({"method": {"stages": ["sft", "grpo"]}})] == [SFT, GRPO]


def test_a_kind_of_one_s_own_is_found_by_its_path():
    assert find_kind(f"{__name__}.MINE") is MINE
    (phase,) = named({"kind": f"{__name__}.MINE", "name": "first"})
    assert phase.kind is MINE
    for name in ("sfx", "nowhere.KIND", "os.path"):
        with pytest.raises(ValueError, match=r"no kind of phase: choose dpo, .* or give the path of a Kind"):
            find_kind(name)


def test_a_phase_sees_its_own_settings_and_the_others_do_not():
    cfg = {
        "sft": {"max_steps": 9, "learning_rate": 0.1},
        "reward": {"_target_": "a.A", "hit": 1.0, "miss": 0.0},
        "seed": 0,
    }
    changed = Phase("x", GRPO, {"reward": {"hit": 2.0}}).settings(cfg)
    assert changed["reward"] == {"_target_": "a.A", "hit": 2.0, "miss": 0.0}
    # Another class takes the place of the whole part.
    replaced = Phase("x", GRPO, {"reward": {"_target_": "b.B"}}).settings(cfg)
    assert replaced["reward"] == {"_target_": "b.B"}
    again = Phase("y", SFT, {"max_steps": 3}).settings(cfg)
    assert again["sft"] == {"max_steps": 3, "learning_rate": 0.1}
    assert again["reward"] is cfg["reward"]
    assert cfg["sft"]["max_steps"] == 9
    made = Phase("y", SFT, {"max_steps": 3}).config(OmegaConf.create(cfg))
    assert (made.sft.max_steps, made.sft.learning_rate) == (3, 0.1)


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        (["sft", "sft"], "two phases are called sft"),
        (["sfx"], "sfx is no kind of phase"),
        ([3], "3 is no phase"),
        ([{"name": "x"}], "is no phase: give a kind"),
        ([{"kind": "sft", "maxsteps": 3}], "maxsteps is no setting of sft; choose"),
        ([{"kind": "sft", "reward": {"hit_weight": 2}}], "reward is no setting of sft"),
        (["sft", {"kind": "warmup", "name": "late"}], "trains on item ids, so it comes first"),
        ([{"kind": "sft", "samples": [0.5, 0.2]}], "samples=[0.5, 0.2]: must be"),
        ([{"kind": "sft", "samples": [0, 2]}], "samples=[0, 2]: must be"),
        (["sft", {"kind": "sft", "name": "x", "answers_of": "sft"}], "no phase before it draws answers"),
        (["grpo", {"kind": "sft_more", "answers_of": "grpo"}], "only a phase of kind sft or dpo learns"),
        ([{"kind": "sft", "least_reward": 0.5}], "least_reward goes with answers_of"),
        ([{"kind": "sft", "name": "a.b"}], "the name a.b must be made of letters, digits"),
        ([{"kind": "sft", "name": "zero_shot"}], "zero_shot names other rankings of a run"),
        ([{"kind": "sft", "name": "sft_last"}], "sft_last names other rankings of a run"),
        ([{"kind": "warmup", "name": "pre"}], "warm-up has no other name than warmup"),
        ([{"kind": "pointwise", "samples": [0, 0.5]}], "samples goes with phases that train on prompts"),
        ([{"kind": "pointwise", "draw": "x"}], "draw goes with phases that train on prompts"),
        (["grpo", {"kind": "sft", "answers_of": "grpo", "samples": [0, 1]}], "samples with answers_of"),
        (None, "not set: name what is trained"),
    ],
)
def test_faults_of_phases_are_named(phases, words):
    faults = phase_faults({"method": {"phases": phases}})
    assert any(words in fault for fault in faults), faults


def test_the_earlier_name_of_phases_is_not_ignored_beside_them():
    faults = plain_faults(composed("+method.stages=[sft]"))
    assert faults == ["method.phases: method.stages is the earlier name of method.phases: set phases alone"]


def test_all_faults_of_phases_come_together_with_their_bounds():
    wrong = "method.phases=[{kind: sft, name: a, batch_size: 0},{kind: sft, name: b, maxsteps: 1}]"
    faults = plain_faults(composed(wrong))
    assert "method.phases, a: sft.batch_size=0: must be greater than or equal to 1" in faults
    assert any(fault.startswith("method.phases, b: maxsteps") for fault in faults)


def test_rules_look_at_what_each_phase_sees():
    free = "{kind: grpo, name: free, rollout: {_target_: mllmrec.rollout.free.Free, max_new_tokens: 8}}"
    assert plain_faults(composed(f"method.phases=[sft,grpo,{free}]")) == []
    faults = plain_faults(composed("method.phases=[sft,{kind: dpo, name: later, negatives: 12}]"))
    assert any("dpo.negatives=12" in fault for fault in faults), faults
    faults = plain_faults(composed("method.phases=[sft,{kind: grpo, reward: {require_title: true}}]"))
    assert any("this reward never pays an answer without a title" in fault for fault in faults), faults


class Others:
    off_policy = True


class NoRatio:
    on_policy_only = True


OTHERS, NO_RATIO = f"rollout._target_={__name__}.Others", f"loss._target_={__name__}.NoRatio"


@pytest.mark.parametrize(
    ("changes", "refused"), [([OTHERS, NO_RATIO], True), ([OTHERS], False), ([NO_RATIO], False)]
)
def test_rows_of_another_policy_need_a_loss_with_a_ratio(changes, refused):
    faults = plain_faults(composed(*changes))
    assert any("NoRatio has no ratio to correct for it" in fault for fault in faults) is refused, faults


def test_the_settings_of_a_run_that_named_stages_still_pass():
    cfg = composed()
    old = OmegaConf.to_container(
        OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), resolve=True
    )
    old["method"]["stages"] = old["method"].pop("phases")
    for later in ("shapers", "regularizers", "teacher", "reference", "sampler"):
        del old[later]
    del old["prompt"]["places"]
    check_config(OmegaConf.create(old))


def test_titles_are_those_of_the_kinds():
    assert stage_title("grpo") == "GRPO"
    assert stage_title("zero_shot") == "zero-shot"
    assert stage_title("grpo_2") == "grpo_2"
    assert all(kind.title for kind in KINDS.values())


class Says:
    constrained = True
    accepts = frozenset({"token", "segment"})

    @property
    def off_policy(self):
        return True


class Inherits(Says):
    every_answer: bool = True


@pytest.mark.parametrize(
    ("name", "attribute", "expected"),
    [
        ("Says", "constrained", True),
        ("Says", "accepts", frozenset({"token", "segment"})),
        ("Inherits", "constrained", True),
        ("Inherits", "every_answer", True),
        ("Says", "every_answer", "default"),
    ],
)
def test_a_class_says_what_it_is_without_being_imported(tmp_path, import_from, name, attribute, expected):
    assert capability({"_target_": f"{__name__}.{name}"}, attribute, "default") == expected
    # A module that fails when imported can still be read.
    source = "raise RuntimeError\n\nclass Base:\n    constrained = True\n\nclass Mine(Base):\n    varies = 'token'\n"
    (tmp_path / "unimportable.py").write_text(source)
    import_from(tmp_path)
    assert capability({"_target_": "unimportable.Mine"}, "constrained", False) is True
    assert capability({"_target_": "unimportable.Mine"}, "varies", "sequence") == "token"
    # One whose source says nothing of it is left to the check of the classes, which says why it fails.
    assert capability({"_target_": "unimportable.Other"}, "varies", "sequence") == "sequence"
    (fault,) = component_faults({"loss": {"_target_": "unimportable.Other"}})
    assert fault.startswith(
        "loss._target_=unimportable.Other: its module fails when imported (unimportable - "
    )
    # A constructor that fails in any other way than by refusing a setting.
    (tmp_path / "breaking.py").write_text(
        "class Mine:\n    def __init__(self):\n        self.share = 1 / 0\n"
    )
    assert component_faults({"loss": {"_target_": "breaking.Mine"}}) == [
        "loss._target_=breaking.Mine: it cannot be built (ZeroDivisionError: division by zero; breaking.py, line 3)"
    ]


def test_what_python_brings_is_not_imported_to_be_asked(monkeypatch):
    asked = []
    monkeypatch.setattr("pydoc.locate", asked.append)
    assert capability({"_target_": "antigravity.fly"}, "constrained", "none") == "none"
    with pytest.raises(ValueError, match="no kind of phase"):
        find_kind("antigravity.KIND")
    assert asked == []


def test_a_wrapping_part_answers_for_the_part_inside():
    inner = {"_target_": "mllmrec.rollout.constrained.Constrained"}
    around = {"_target_": "mllmrec.variants.rank_grpo.Lined", "inner": inner}
    assert capability(around, "constrained", False) is True
    assert capability(None, "constrained", "none") == "none"
    assert capability({"_target_": None}, "constrained", "none") == "none"


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (
            ("rollout=enumerate",),
            "rollout._target_=.* with phase training_free, which compares drawn answers: choose",
        ),
        (
            ("eval.ranking=pointwise",),
            "eval.ranking=pointwise with phase training_free, whose experience stands in",
        ),
        (
            ("variant=grpo_care", "method=training_free"),
            "_target_=.* with phase training_free, which changes no weights",
        ),
    ],
)
def test_experience_needs_drawn_answers_a_prompt_and_no_second_policy(overrides, fault):
    faults = plain_faults(composed("method=training_free", *overrides))
    assert any(re.match(f".*{fault}", one) for one in faults), faults
