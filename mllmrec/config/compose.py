"""Checks the overrides of a command line before Hydra runs the job; reports all faults at once, with valid choices."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from mllmrec.config.messages import nearest, readable
from mllmrec.config.places import Groups, further_places
from mllmrec.config.secrets import secrets_in_files, without_secrets
from mllmrec.errors import choices

VERSION_BASE = "1.3"
# Hydra raises ValueError for GROUP=null if the group is mandatory.
_REFUSED = (HydraException, ValueError)


@dataclass(frozen=True)
class Composed:
    """The configuration that the correct overrides give, and the faults of the others."""

    config: DictConfig
    faults: list[str]


def compose_checked(
    config_name: str, overrides: Sequence[str], config_dir: Path, extra_dir: str | None = None
) -> Composed:
    """Compose with every override that can be applied. An override with several values applies its first.

    Args:
        config_name: the root file.
        overrides: the overrides as typed.
        config_dir: folder of the root file.
        extra_dir: folder given by Hydra's ``--config-dir``.

    Raises:
        HydraException: the files themselves do not compose.
    """
    overrides, secrets = without_secrets(overrides)
    places = further_places(overrides, extra_dir)
    search = places.search
    with initialize_config_dir(str(config_dir), job_name=config_name, version_base=VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        groups = Groups(loader, config_name, search)
        variants, faults = _parse(places.overrides, groups)
        faults = [*secrets, *places.faults, *faults]
        roots = _roots(config_name, config_dir, tuple(search))
        variants, strangers = _without_new_roots(variants, {*roots, *loader.list_groups("")}, groups)
        faults += strangers
        variants, missing = _without_missing_files(variants, groups)
        faults += missing
        accepted = [*search, *(texts[0] for texts in variants)]
        if all(len(texts) == 1 for texts in variants):
            try:
                config = compose(config_name, accepted, return_hydra_config=True)
                return Composed(config, faults + _removed(roots, config) + secrets_in_files(config))
            except _REFUSED:
                if not variants:
                    raise
        accepted = list(search)
        config = compose(config_name, accepted, return_hydra_config=True)
        # Groups first: they decide which keys exist.
        for texts in sorted(variants, key=lambda texts: not _group_choices(texts[0], groups)):
            applied = False
            for text in texts:
                try:
                    composed = compose(config_name, [*accepted, text], return_hydra_config=True)
                except _REFUSED as error:
                    faults.append(_fault(text, error, config, groups))
                    continue
                if not applied:
                    kept, config, applied = text, composed, True
            if applied:
                accepted.append(kept)
    return Composed(config, faults + _removed(roots, config) + secrets_in_files(config))


def sweeps(overrides: Sequence[str]) -> list[str]:
    """The overrides that give several values, as ``seed=0,1`` does; malformed ones are left out."""
    parser, found = OverridesParser.create(), []
    for text in overrides:
        with suppress(HydraException):
            found += [text] if parser.parse_override(text).is_sweep_override() else []
    return found


@cache
def _roots(config_name: str, config_dir: Path, search: tuple[str, ...]) -> frozenset[str]:
    """The keys at the top. Kept, since a sweep composes hundreds of jobs and each composition takes a sixth of a second."""
    return frozenset(str(key) for key in compose(config_name, [*search]))


def _parse(overrides: Sequence[str], groups: Groups) -> tuple[list[list[str]], list[str]]:
    """Each override as a list of overrides with a single value (several in a sweep), and faults of malformed ones."""
    parser = OverridesParser.create()
    variants, faults = [], []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            faults.append(f"{text}: {readable(error)}")
            continue
        values = _sweep_values(override, groups)
        variants.append([text] if values is None else [f"{_left_side(text)}={value}" for value in values])
    return [texts for texts in variants if texts], faults


def _without_new_roots(
    variants: list[list[str]], known: set[str], groups: Groups
) -> tuple[list[list[str]], list[str]]:
    """Drop ``+name=value`` if it adds a root key, which nothing would read; give a fault for each."""
    kept, faults = [], []
    for texts in variants:
        name = _left_side(texts[0]).lstrip("+").split("@")[0].split("/")[0]
        new = texts[0].startswith("+") and "." not in name and name not in known | {"hydra"}
        if new and not groups.options(name):
            faults.append(
                f"{texts[0]}: no such setting{nearest(name, known)}; nothing would read it, leave it out"
            )
        else:
            kept.append(texts)
    return kept, faults


def _without_missing_files(variants: list[list[str]], groups: Groups) -> tuple[list[list[str]], list[str]]:
    """Drop choices that name no file; give a fault for each. In an optional group Hydra would ignore them silently."""
    parser = OverridesParser.create()
    kept, faults = [], []
    for texts in variants:
        there = []
        for text in texts:
            override = parser.parse_override(text)
            chosen = override.value()
            for value in chosen if isinstance(chosen, list) else [chosen]:
                group, _, name = f"{override.key_or_group}/{value}".rpartition("/")
                names = groups.choices(group)
                if names and value is not None and name.removesuffix(".yaml") not in groups.options(group):
                    faults.append(f"{text}: no such {group}{nearest(name, names)}; choose {choices(names)}")
                    break
            else:
                there.append(text)
        if there:
            kept.append(there)
    return kept, faults


def _removed(roots: Collection[str], config: DictConfig) -> list[str]:
    # `in` is False for a mandatory value that is not set yet.
    there = set(map(str, config))
    return [
        f"{name}: removed, but it is needed; keep it, or choose another value"
        for name in sorted({*roots} - there)
    ]


def _left_side(text: str) -> str:
    return text.split("=", 1)[0]


def _sweep_values(override: Override, groups: Groups) -> list[str] | None:
    if not override.is_sweep_override():
        return None
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        glob: Any = override.value()
        return glob.filter(groups.options(override.key_or_group))
    if override.value_type is ValueType.INTERVAL_SWEEP:
        interval: Any = override.value()
        return [str(interval.start)]
    return list(override.sweep_string_iterator())


def _group_choices(text: str, groups: Groups) -> list[str]:
    return groups.choices(OverridesParser.create().parse_override(text).key_or_group)


def _fault(text: str, error: Exception, config: DictConfig, groups: Groups) -> str:
    override = OverridesParser.create().parse_override(text)
    name = override.key_or_group
    valid = groups.choices(name)
    unknown = OmegaConf.select(config, name, throw_on_missing=False) is None
    if not valid and unknown and text[0] not in "+~":
        return f"{text}: no such setting{nearest(name, [*_paths(config, name.startswith('hydra.'))])}"
    return f"{text}: {readable(error)}"


def _paths(config: DictConfig, of_hydra: bool) -> Iterator[str]:
    """The path of every key: Hydra's keys if ``of_hydra``, else ours."""

    def walk(values: dict[str, Any], prefix: str) -> Iterator[str]:
        for key, value in values.items():
            path = f"{prefix}{key}"
            yield path
            if isinstance(value, dict):
                yield from walk(value, f"{path}.")

    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key, value in plain.items():
        if (key == "hydra") == of_hydra:
            yield from walk({key: value}, "")
