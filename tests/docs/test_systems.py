"""The pages of published systems are those of the files, and what they say to type can be typed."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.compose import compose_checked
from mllmrec.config.systems import pages, parts_of, read_file, systems

DOCS = Path(__file__).resolve().parents[2] / "docs"
COMMAND = "python -m mllmrec.config.systems docs"


@pytest.fixture(scope="module")
def made():
    return pages()


def test_the_pages_are_those_of_the_presets(made):
    for name, text in made.items():
        path = DOCS / name
        assert path.is_file(), f"{name} is missing: {COMMAND}"
        assert path.read_text(encoding="utf-8") == text, f"{name}: {COMMAND}"
    there = {f"systems/{path.name}" for path in (DOCS / "systems").iterdir()}
    assert there == made.keys() - {"systems.md"}, COMMAND


def test_all_systems_stand_in_the_index_once():
    listed = systems()
    assert [one.number for one in listed] == list(range(1, 63))
    assert Counter(one.kind for one in listed) == {"core": 37, "adapt": 16, "other": 9}
    for one in listed:
        assert one.note or one.kind != "other", one.name
        assert one.words or one.note or one.missing, one.name


def test_what_the_index_says_to_type_is_understood():
    for word in {word for one in systems() for word in one.words}:
        group, _, name = word.partition("=")
        if " " not in word and "." not in group:
            # That every file composes is a test of its own.
            assert (CONFIG_DIR / group / f"{name}.yaml").is_file(), word
            continue
        result = compose_checked("train", shlex.split(word), CONFIG_DIR)
        assert result.faults == []
        check_config(result.config)


def test_links_lead_somewhere(made):
    for name, text in made.items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert ((DOCS / name).parent / link).exists(), f"{name}: {link}"


def test_a_new_preset_is_found_by_its_header_and_has_a_page(tmp_path):
    assert {one.number: one for one in systems(tmp_path)}[12].missing
    presets = tmp_path / "also" / "variant"
    presets.mkdir(parents=True)
    (presets / "rounds.yaml").write_text(
        "# @package _global_\n"
        "# MOTIF (Mitra 2025): reasoning in rounds. The authors have three | here two. Uncertain: all.\n"
        "defaults:\n  - override /advantage: rloo\n\n"
        "shapers:\n  mine:\n    _target_: mllmrec.variants.lengths.Overlong\n    limit: 20 # tokens\n"
        "grpo:\n  beta: 0.0 # no KL | none\n"
    )
    motif = {one.number: one for one in systems(tmp_path / "also")}[12]
    assert (motif.missing, motif.words) == (False, ["variant=rounds"])
    made = pages(tmp_path / "also")
    assert "| 12 | MOTIF | core | [`variant=rounds`](systems/rounds.md) |  |\n" in made["systems.md"]
    page = made["systems/rounds.md"]
    assert "\nMOTIF (Mitra 2025): reasoning in rounds.\n" in page
    assert "\n- The authors have three | here two.\n- Uncertain: all.\n" in page
    assert "| `grpo.beta` | `0.0` | no KL \\| none |\n" in page
    assert "[Overlong](../../mllmrec/variants/lengths.py)" in page


def test_parts_are_those_of_the_files_that_a_preset_chooses():
    preset = read_file(CONFIG_DIR / "variant" / "riskpo.yaml")
    found = {part.key: part for part in parts_of(preset)}
    assert {part.name for part in found.values()} == {"BundleRisk", "Bundles"}
    bundle = found["sampler"].settings[0]
    assert (bundle.key, bundle.value) == ("sampler.bundle", "5")
    # The formula of the class, and the source that its module names.
    assert "arXiv 2510.00911" in found["advantage"].module_doc
    assert "CVaR = -(q_low - X)+ / low" in found["advantage"].doc


def test_what_stands_inside_of_a_rollout_is_a_part_too():
    found = {part.key: part for part in parts_of(read_file(CONFIG_DIR / "variant" / "xrpo.yaml"))}
    assert {key: part.name for key, part in found.items()} == {
        "rollout": "Seeded",
        "rollout.inner": "Allocated",
        "advantage": "Novelty",
    }
    assert found["rollout.inner"].settings[0].key == "rollout.inner.first"


# Presets whose formulas or numbers are not known for sure; written by hand from notes on the papers and their code.
UNCERTAIN = [
    "balanced_filter",
    "dapo_overlong",
    "de_grpo",
    "entropy_bonus",
    "gazal_r1",
    "group_rank",
    "grpo_lambda",
    "kdrl",
    "lifecycle",
    "llds",
    "m_grpo",
    "masa",
    "multi_objective",
    "one_shot",
    "r1_code_interpreter",
    "reg_grpo",
    "s_grpo",
    "seed_grpo",
    "stratified_grpo",
    "tar_tvg",
    "timemaster",
    "uav_vl_r1",
]


def test_what_is_uncertain_is_called_so_on_its_page(made):
    for name in UNCERTAIN:
        said = made[f"systems/{name}.md"].partition("## Parts")[0].lower().replace("what is uncertain", "")
        assert "uncertain" in said, name


# Group size, weight and estimator of the KL, and updates per rollout, where the authors' are known. Written by hand.
AUTHORS = {
    "asymre": (8, 0.0, None, None),
    "gigpo": (8, None, None, None),
    "grpo_care": (8, 0.0, None, None),
    "llds": (5, 1e-3, "k3", 4),
    "masa": (16, 0.0, None, None),
    "mm_upt": (10, 0.01, "k3", None),
    "one_shot": (8, 1e-3, None, None),
    "rank_grpo": (8, 1e-3, "k3", 1),
    "rapo": (5, None, None, None),
    "rec": (8, 0.0, None, None),
    "reinforce_ada": (4, 0.0, None, None),
    "red_drop": (8, 0.0, None, None),
    "rest_grpo": (8, None, None, None),
    "scaf_grpo": (8, 0.0, None, None),
    "step_grpo": (5, 0.0, None, None),
    "tempo": (7, 0.0, None, None),
    "timemaster": (5, 0.01, "k3", None),
    "unlikeliness": (32, 0.1, None, 2),
    "veripo": (8, None, None, None),
}


# The recipes' values, where a preset sets none.
RECIPE = {"grpo.group_size": "8", "grpo.kl": "k3", "grpo.iterations": "1"}


def test_presets_have_the_numbers_of_their_authors():
    for name, known in AUTHORS.items():
        preset = read_file(CONFIG_DIR / "variant" / f"{name}.yaml")
        own = RECIPE | {one.key: one.value for one in preset.settings}
        keys = ("grpo.group_size", "grpo.beta", "grpo.kl", "grpo.iterations")
        for key, value in zip(keys, known, strict=True):
            assert value is None or (
                own[key] == value if isinstance(value, str) else float(own[key]) == value
            ), (name, key)
