from __future__ import annotations

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mllmrec.config import CONFIG_DIR
from mllmrec.data.candidates import Catalogue
from mllmrec.samples.prepare import prepare
from mllmrec.samples.prepared import Prepared


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    overrides = [
        f"cache_dir={tmp_path_factory.mktemp('cache')}",
        "dataset.num_users=30",
        "dataset.num_items=40",
        "mix_ratio=0.5",
    ]
    return prepare(composed(*overrides))


def test_another_draw_has_other_negatives_for_the_same_samples(prepared):
    first, other, again = prepared.train, prepared.redraw("other"), prepared.redraw("other")
    assert len(other) == len(first)
    differing = 0
    for index in range(len(first)):
        one, two, three = first[index], other[index], again[index]
        assert (one.sample_id, one.target, one.has_reasoning) == (
            two.sample_id,
            two.target,
            two.has_reasoning,
        )
        assert two.candidates[two.target_column] == two.target
        assert np.array_equal(two.candidates, three.candidates)
        differing += set(one.candidates.tolist()) != set(two.candidates.tolist())
    # Two equal draws of nine from some thirty unseen items: a chance of one in millions each.
    assert differing == len(first)


def test_no_draw_has_an_item_that_training_shows_of_the_user(prepared):
    for index in range(len(prepared.train)):
        user = prepared.train.samples.users[index]
        start, end = prepared.interactions.offsets[user : user + 2]
        trained = set(prepared.interactions.items[start : end - 2].tolist())  # the last two are held out
        example = prepared.redraw("other")[index]
        assert set(example.candidates.tolist()) & trained == {example.target}


def test_other_data_under_the_same_settings_has_its_own_candidates(tmp_path):
    # Sample ids and settings of candidates are the same: all 40 users must be ranked with their own targets.
    for seed in (0, 1):
        overrides = [
            f"cache_dir={tmp_path}",
            "dataset.num_users=40",
            "dataset.num_items=60",
            f"dataset.seed={seed}",
            "dataset.min_length=8",
            "dataset.max_length=8",
            "caption=none",
            "cot_policy=none",
            "eval.weighting=uniform",
        ]
        cfg = composed(*overrides)
        examples, positions, _ = prepare(cfg).evaluation(cfg.eval)
        ranked = [examples.candidates_of(position) for position in positions]
        own = [examples.samples.target(position) for position in positions]
        assert [candidates[column] for candidates, column in ranked] == own


def test_never_being_listed_as_wrong_does_not_give_the_target_away(tmp_path):
    # Rank the ten test candidates by "was not listed to this user as a negative in twelve draws of training". Each
    # draw lists an item with a chance of about 9/92, so twelve draws list some 70 % of all items. A target that can never
    # be listed would come first at least once in 1 + 9 x 0.3 = 3.7 cases (HR@1 0.33). By chance it is 0.1 +- 0.008.
    overrides = [
        f"cache_dir={tmp_path}",
        "dataset.num_users=400",
        "dataset.num_items=100",
        "split.windows=last",
        "caption=none",
        "cot_policy=none",
        "eval.weighting=uniform",
    ]
    cfg = composed(*overrides)
    prepared = prepare(cfg)
    listed: dict[str, set[int]] = {}
    for draw in range(12):
        train = prepared.redraw(f"draw {draw}")
        for index in range(len(train)):
            candidates, column = train.candidates_of(index)
            listed.setdefault(train.samples.user_id(index), set()).update(np.delete(candidates, column))
    test, positions, _ = prepared.evaluation(cfg.eval)
    hits, targets_listed, others_listed = 0.0, 0, 0
    for position in positions:
        candidates, column = test.candidates_of(position)
        was_listed = np.isin(candidates, list(listed[test.samples.user_id(position)]))
        best = was_listed == was_listed.min()  # tied candidates share the first place
        hits += best[column] / best.sum()
        targets_listed += was_listed[column]
        others_listed += was_listed.sum() - was_listed[column]
    assert abs(hits / len(positions) - 0.1) < 0.035
    assert abs(targets_listed - others_listed / 9) / len(positions) < 0.1


def test_a_subset_of_users_ranks_and_trains_on_their_items_alone(tmp_path, caplog):
    # Twelve of 300 users have some 120 interactions, which cover a part of 300 items; in the whole every item has a user.
    overrides = [
        f"cache_dir={tmp_path}",
        "dataset.num_users=300",
        "dataset.num_items=300",
        "dataset.max_users=12",
        "cot_policy=none",
    ]
    cfg = composed(*overrides)
    prepared = prepare(cfg)
    held = np.unique(prepared.interactions.items)
    assert len(held) < 150
    # A captioner may cost money for each item.
    assert set(prepared.captions) == set(prepared.items.ids[held].tolist())
    for weighting, num_negatives in (("uniform", 9), ("popularity", 9), ("uniform", "full")):
        cfg.eval.weighting, cfg.eval.num_negatives = weighting, num_negatives
        examples, positions, _ = prepared.evaluation(cfg.eval)
        for position in positions:
            assert np.isin(examples.candidates_of(position)[0], held).all()
    for index in range(len(prepared.train)):
        assert np.isin(prepared.train.candidates_of(index)[0], held).all()
    trained = np.concatenate(prepared.samples["train"].parts())
    unseen = int((~np.isin(prepared.samples["test"].targets, trained)).sum())
    assert unseen >= 6
    assert prepared.summary["samples"]["test"]["targets_unseen_in_training"] == unseen
    assert prepared.summary["catalogue"]["possible_negatives"] == len(held)
    assert prepared.summary["whole"]["users"] == 300
    assert f"dataset.max_users=12: {unseen} of 12 test targets occur in no training sequence" in caplog.text


def test_kinds_of_negatives_share_what_they_do_not_change(prepared, monkeypatch):
    built = []
    monkeypatch.setattr(
        "mllmrec.samples.prepared.Catalogue", lambda *given: built.append(given) or Catalogue(*given)
    )
    hashes = set()
    for weighting, num_negatives in (("uniform", 9), ("popularity", 9), ("uniform", 5), ("uniform", "full")):
        settings = OmegaConf.create(
            {
                "split": "test",
                "num_negatives": num_negatives,
                "weighting": weighting,
                "max_users": None,
                "ranking": "likelihood",
                "cot": False,
            }
        )
        hashes |= {prepared.evaluation(settings)[2] for _ in range(2)}
    assert len(hashes) == 4
    assert len(built) == 1


def toy_dataset(folder, split):
    """Overrides for sixty users with twelve of forty items each; the split decides the layout."""
    generator = np.random.default_rng(0)
    rows = [generator.choice(40, 12, replace=False).tolist() for _ in range(60)]
    if split == "given":
        for name, users in (("train", range(50)), ("test", range(40, 60))):
            lines = [f"u{user}\t{' '.join(map(str, rows[user]))}" for user in users]
            (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n")
        titles = folder / f"{folder.name}_titles.csv"
        titles.write_text("item,title\n" + "".join(f"{item},Title {item}\n" for item in range(40)))
        return ["dataset=movielens", f"dataset.root={folder}"]
    interactions, items = folder / "interactions.csv", folder / "items.csv"
    lines = [f"u{user},{item},{when}" for user, row in enumerate(rows) for when, item in enumerate(row)]
    interactions.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
    items.write_text(
        "item_id,title,brand\n" + "".join(f"{item},Title {item},Of brand {item % 3}\n" for item in range(40))
    )
    return ["dataset=tabular", f"dataset.interactions={interactions}", f"dataset.items={items}"]


@pytest.mark.parametrize(
    ("most", "shown"),
    [("null", "Title 4 ["), ("0", "Title 4 Of brand 1 ["), ("2", "Title 4 Of brand ["), ("3", "Title 4 [")],
)
def test_prompts_show_the_details_that_are_asked_for(tmp_path, caplog, most, shown):
    columns = "[]" if most == "3" else "[brand]"
    data = [*toy_dataset(tmp_path, "leave_one_out"), f"dataset.details_columns={columns}", "caption=none"]
    shown_words = [f"cache_dir={tmp_path / 'cache'}", f"prompt.max_detail_words={most}"]
    builder = prepare(composed(*data, *shown_words, "cot_policy=none", "mix_ratio=0")).builder
    assert shown in builder.prompt([4, 5], None)
    assert ("no item has details" in caplog.text) == (most == "3")


@pytest.mark.parametrize("split", sorted(path.stem for path in (CONFIG_DIR / "split").glob("*.yaml")))
def test_the_training_seed_decides_nothing_of_what_is_evaluated(tmp_path, split):
    # Candidates by popularity depend on which users train, so that choice must not depend on the seed either.
    data = toy_dataset(tmp_path, split)
    if split == "cold_items":
        data.append("split.share=0.5")  # twenty of forty items: nine negatives among them
    found = []
    for seed in (0, 1):
        cfg = composed(
            *data,
            f"cache_dir={tmp_path / f'cache {seed}'}",
            f"split={split}",
            f"seed={seed}",
            "caption=none",
            "cot_policy=none",
            "dataset.max_users=50",
            "eval.max_users=5",
        )
        prepared = prepare(cfg)
        evaluated = []
        for part in ("test", "validation"):
            for weighting in ("uniform", "popularity"):
                cfg.eval.split, cfg.eval.weighting = part, weighting
                examples, positions, candidates_hash = prepared.evaluation(cfg.eval)
                users = [examples.samples.user_id(position) for position in positions]
                evaluated.append(
                    (candidates_hash, users, [examples[position].prompt for position in positions])
                )
        found.append(evaluated)
        training = [prepared.train.candidates_of(index)[0].tolist() for index in range(len(prepared.train))]
        found[-1].append(training)
    assert found[0][:-1] == found[1][:-1]
    assert len({part[0] for part in found[0][:-1]}) == 4  # two splits, two kinds of negatives
    assert found[0][-1] != found[1][-1]  # while training draws its negatives from the seed
