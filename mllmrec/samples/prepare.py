"""Builds everything that phases and evaluation read from the configuration: data, captions, prompts, candidates."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from mllmrec.cache import remove_abandoned
from mllmrec.captions import Joined, caption_items
from mllmrec.cot.assess.reference import OpenJudge
from mllmrec.cot.base import CotPolicy
from mllmrec.cot.mixing import Carriers, Mixing, Mixture
from mllmrec.cot.pipeline import CotPipeline
from mllmrec.cot.wording import load_cot_wording
from mllmrec.data.base import Dataset, Items
from mllmrec.data.candidates import CandidateSampler, CandidateSource, Catalogue
from mllmrec.data.cold_items import ColdItemInteractions
from mllmrec.data.splits import Samples
from mllmrec.data.summary import summarise
from mllmrec.errors import UserError
from mllmrec.prompts.builder import ItemTexts, PromptBuilder, first_words, load_template
from mllmrec.prompts.examples import CotUse, Examples
from mllmrec.prompts.questions import Questions, load_question_wording
from mllmrec.reasoners.base import HistoryItem
from mllmrec.samples.filtered import filtered
from mllmrec.samples.prepared import Prepared, counted
from mllmrec.screen.progress import StageProgress

log = logging.getLogger(__name__)

# Keys of the dataset's section that describe filtering, not the source.
_FILTER_KEYS = ("max_users", "filters")


def prepare(cfg: DictConfig, training: bool = True, open_judge: OpenJudge | None = None) -> Prepared:
    """Load, filter, caption and split the data; draw the frozen parts; describe everything in ``summary``.

    Args:
        cfg: the run's configuration.
        training: whether training samples should carry reasoning; missing reasoning is written.
        open_judge: opens the run of ``cot_policy.reference``; only settings with a reference need it.

    Raises:
        UserError: data and settings do not fit; it says in what way.
    """
    cache = Path(cfg.cache_dir)
    remove_abandoned(cache)
    source_settings = {key: value for key, value in cfg.dataset.items() if key not in _FILTER_KEYS}
    source: Dataset = instantiate(source_settings)
    found = filtered(cfg, source)
    items, interactions = found.items, found.interactions
    split = instantiate(cfg.split)
    given = (interactions, items) if getattr(split, "reads_items", False) else (interactions,)
    samples: dict[str, Samples] = split(*given)
    if len(samples["train"]) == 0:
        raise UserError(
            "no user has enough interactions to train on: loosen dataset.filters or lower split.min_history"
        )

    summary = summarise(found, items, interactions, found.funnel, samples, {}, "", "")
    sequences = samples["train"].interactions  # a split may have made its own
    if isinstance(sequences, ColdItemInteractions):
        summary["cold_items"] = len(sequences.cold)
    else:
        _warn_of_thin_subset(cfg.dataset.max_users, summary["samples"]["test"])

    captions, caption_counts = captions_of(cfg, items.only_kept(), cache)
    marked = marked_items(cfg.prompt.get("item_tokens", "none"), items)
    builder = PromptBuilder(
        ItemTexts(
            items.ids.tolist(), items.titles.tolist(), captions, marked, shown_details(cfg.prompt, items)
        ),
        load_template(cfg.prompt.template),
        domain=source.domain,
        answer=cfg.prompt.answer,
        label=cfg.prompt.get("label", "id"),
        places=cfg.prompt.get("places", 1),
        max_title_words=cfg.prompt.max_title_words,
        max_caption_words=cfg.prompt.max_caption_words,
    )
    cot = cot_policy(cfg, items, captions, source.domain, cache, open_judge)
    train_samples = samples["train"]
    negatives: CandidateSource = CandidateSampler(
        cfg.candidates.num_negatives, cfg.candidates.weighting, cfg.seed
    ).bind(Catalogue(sequences, items, known=train_samples), train_samples)
    negatives.check(train_samples)

    def drawn(draw: str, with_cot: np.ndarray | None = None) -> Examples:
        return Examples(
            train_samples,
            builder,
            lambda index: negatives.candidates_of(train_samples, index, draw),
            history_length=cfg.prompt.history_length,
            cot=CotUse(cot, with_cot, cfg.cot.placement),
        )

    carriers = carriers_of(cfg, cot if training else None, drawn("train"))
    mixture = Mixture(instantiate(cfg.mixing), len(train_samples), carriers.positions)
    with_cot = np.zeros(len(train_samples), dtype=bool)
    with_cot[mixture.chosen] = True
    train = drawn("train", with_cot)
    summary["captions"] = caption_counts
    summary["cot"] = cot_summary(cfg.mix_ratio if training else 0.0, cot, carriers, train)
    return Prepared(
        items=items,
        interactions=sequences,
        samples=samples,
        builder=builder,
        questions=Questions(builder, load_question_wording(cfg.prompt.question), cfg.prompt.history_length),
        cot=cot,
        train=train,
        mixture=mixture,
        asks=cfg.cot.placement != "prompt" and cot is not None and cfg.mix_ratio > 0,
        redraw=lambda draw: drawn(draw, with_cot),
        summary=summary,
        captions=captions,
        seed=cfg.protocol_seed,
        history_length=cfg.prompt.history_length,
        trained_list=cfg.candidates.num_negatives + 1,
        _cache=cache,
    )


def _warn_of_thin_subset(max_users: int | None, test: dict[str, Any]) -> None:
    """Warn if a subset of the users makes a different task, because training does not know most targets."""
    unseen, samples = test["targets_unseen_in_training"], test["samples"]
    if max_users is not None and unseen >= samples / 2:
        log.warning(
            "dataset.max_users=%d: %d of %d test targets occur in no training sequence of these users, so only their "
            "titles and images can help to find them; keep more users before you trust the numbers",
            max_users,
            unseen,
            samples,
        )


def marked_items(item_tokens: str, items: Items) -> list[str]:
    """The ids of the items that prompts also show by tokens other than text."""
    ids: list[str] = items.ids.tolist()
    return {"none": [], "vector": ids, "image": [item for item in ids if item in items.images]}[item_tokens]


def shown_details(settings: DictConfig, items: Items) -> dict[str, str]:
    """The details that prompts show, by item id; none without ``prompt.max_detail_words``."""
    most = settings.get("max_detail_words")
    if most is None:
        return {}
    if not any(items.details):
        log.warning(
            "prompt.max_detail_words=%d, but no item has details: tables name theirs by dataset.details_columns",
            most,
        )
    return {
        item: first_words(details, most)
        for item, details in zip(items.ids.tolist(), items.details.tolist(), strict=True)
    }


def captions_of(cfg: DictConfig, items: Items, cache: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Captions by item id, from the cache if they exist there, and their counts."""
    if cfg.caption._target_ is None:
        return {}, {"captioned": 0}
    captioner = instantiate(cfg.caption)
    passes = len(captioner.parts) if isinstance(captioner, Joined) else 1
    with StageProgress("captions", passes * len(items.images), "items") as progress:
        captions, counts = caption_items(captioner, items, cache, progress.advance)
    counts.pop("from_cache", None)
    return captions, counts


def carriers_of(cfg: DictConfig, cot: CotPolicy | None, train: Examples) -> Carriers:
    """Which training samples carry reasoning. Missing reasoning is made here."""
    mixing: Mixing = instantiate(cfg.mixing)
    if cot is None:
        none = np.empty(0, dtype=np.int64)
        return Carriers(none, 0, none)
    ids = [train.samples.sample_id(index) for index in range(len(train))]
    return mixing.choose(ids, cfg.mix_ratio, cfg.seed, cot, train.cot_key)


def cot_summary(
    mix_ratio: float, cot: CotPolicy | None, carriers: Carriers, train: Examples
) -> dict[str, Any]:
    """How much reasoning was requested, how much exists, and why the rest has none; warns of too little."""
    coverage = (
        {} if cot is None else cot.coverage(train.cot_key(index) for index in carriers.looked_at.tolist())
    )
    share = len(carriers.positions) / len(train)
    if len(carriers.positions) < carriers.wanted or (mix_ratio > 0 and carriers.wanted == 0):
        found = counted(coverage)
        log.warning(
            "mix_ratio=%g asks for reasoning in %s of %s training samples, but %s carry it (a share of %.4g)%s: results "
            "are for that share; change mix_ratio, or let cot_policy keep more",
            *(mix_ratio, f"{carriers.wanted:,}", f"{len(train):,}", f"{len(carriers.positions):,}", share),
            f". Of {len(carriers.looked_at):,} samples considered: {found}" if found else "",
        )
    return {
        "policy": None if cot is None else type(cot).__name__,
        "mix_ratio": float(mix_ratio),
        "share": share,
        "wanted": carriers.wanted,
        "training_samples_chosen": len(carriers.positions),
        "looked_at": len(carriers.looked_at),
        "coverage": coverage,
        "stages": {} if cot is None else cot.report(),
    }


def cot_policy(
    cfg: DictConfig,
    items: Items,
    captions: dict[str, str],
    domain: str,
    cache: Path,
    open_judge: OpenJudge | None,
) -> CotPolicy | None:
    """The policy that gives reasoning, or None."""
    settings = cfg.cot_policy
    if settings._target_ is None:
        return None
    ids = items.ids.tolist()
    available: dict[str, Callable[[], Any]] = {
        "captions": lambda: captions,
        "details": lambda: dict(zip(ids, items.details.tolist(), strict=True)),
        "titles": lambda: dict(zip(ids, items.titles.tolist(), strict=True)),
        "pipeline": lambda: cot_pipeline(cfg, items, captions, domain, cache),
        "seed": lambda: cfg.seed,
        "open_judge": lambda: open_judge,
    }
    plain = {key: value for key, value in settings.items() if key != "mix_ratio"}
    policy_class: type[CotPolicy] = get_class(settings._target_)
    # Hydra would copy what it passes on, text by text.
    make = instantiate(plain, _partial_=True, _convert_="all")
    policy: CotPolicy = make(**{name: available[name]() for name in policy_class.wants})
    return policy


def cot_pipeline(
    cfg: DictConfig, items: Items, captions: dict[str, str], domain: str, cache: Path
) -> CotPipeline:
    """The reasoners that ``draft`` and ``refine`` name, and the parts of items that they may see."""
    shown = {
        item: HistoryItem(item, title, captions.get(item, ""), items.images.get(item))
        for item, title in zip(items.ids.tolist(), items.titles.tolist(), strict=True)
    }
    return CotPipeline(
        shown,
        domain,
        (instantiate(cfg.draft), load_cot_wording("cot.draft_wording", cfg.cot.draft_wording)),
        (instantiate(cfg.refine), load_cot_wording("cot.refine_wording", cfg.cot.refine_wording)),
        cache / "cot",
    )
