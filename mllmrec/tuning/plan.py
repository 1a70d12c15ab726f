"""A search as typed: what it varies, what it holds, and where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig

from mllmrec.config import CONFIG_DIR
from mllmrec.config.checks import check_config
from mllmrec.config.compose import VERSION_BASE, compose_checked
from mllmrec.config.launcher_rules import launcher_faults
from mllmrec.config.messages import readable
from mllmrec.config.places import further_places
from mllmrec.errors import ConfigError
from mllmrec.evaluation.metrics import objective_name
from mllmrec.sweeping.jobs import ELSEWHERE, ROOT
from mllmrec.tuning.space import Axis, axes, faults, first_value

OWN = ("trials", "jobs", "study")  # settings in conf/tune.yaml
# Test users choose nothing. What has finished is kept, and what has not goes on.
ALWAYS = ("eval.split=validation", "skip_finished=true", "overwrite=true", "share_stages=true", "resume=auto")
_NAMES = ("search", "experiment", "scale", "debug")  # choices that name the folder


@dataclass(frozen=True)
class Search:
    """A planned search.

    Attributes:
        folder: of the study and its trials.
        axes: what is varied.
        fixed: overrides of every trial.
        settings: `conf/tune.yaml` with what the command line changed.
        metric: the objective, of validation users.
        config_dir: as in Hydra's ``--config-dir``.
        accelerator: ``trainer.accelerator`` of the trials.
        launcher: Hydra's launcher, which runs each trial.
    """

    folder: Path
    axes: list[Axis]
    fixed: list[str]
    settings: DictConfig
    metric: str
    config_dir: str | None = None
    accelerator: str = "cpu"
    launcher: str = "basic"

    @property
    def here(self) -> bool:
        """Whether trials run on this machine, in processes of the search."""
        return self.launcher not in ELSEWHERE


def plan(overrides: Sequence[str], config_dir: str | None = None) -> Search:
    """Compose a search and check it.

    Args:
        overrides: as typed: settings of the search, axes, and settings of all trials.
        config_dir: an additional folder of configuration files.

    Raises:
        ConfigError: settings are wrong; it names all.
    """
    own = [text for text in overrides if text.lstrip("+~").split("=")[0].split(".")[0] in OWN]
    given = [text for text in overrides if text not in own]
    settings = compose_checked("tune", own, CONFIG_DIR)
    composed = compose_checked(ROOT, [*map(_one_value, given), *ALWAYS], CONFIG_DIR, config_dir)
    found = [*settings.faults, *composed.faults, *_own_faults(settings.config)]
    found += [
        f"{text}: a search ranks validation users, so that no test user chooses anything; leave it out"
        for text in given
        if text.startswith("eval.split=") and text != ALWAYS[0]
    ]
    if found:
        raise ConfigError(found)
    places = further_places(given, config_dir)
    # The command line replaces axes of the search's file.
    texts = {key: f"{key}={values}" for key, values in (composed.config.hydra.sweeper.params or {}).items()}
    with initialize_config_dir(str(CONFIG_DIR), job_name=ROOT, version_base=VERSION_BASE):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        try:
            typed = parser.parse_overrides(list(given))
            kept = [
                text for key, text in texts.items() if key not in {one.get_key_element() for one in typed}
            ]
            fixed = [text for text, one in zip(given, typed, strict=True) if not one.is_sweep_override()]
            plain = [*places.search, *(text for text in fixed if text in places.overrides)]
            varied = axes([*parser.parse_overrides(kept), *typed], compose(ROOT, plain))
        except HydraException as error:
            raise ConfigError([readable(error)]) from error
    found = faults(varied) + launcher_faults(composed.config)
    if found:
        raise ConfigError(found)
    check_config(composed.config)
    config: Any = composed.config
    return Search(
        _folder(fixed, config),
        varied,
        [text for text in fixed if text not in ALWAYS],
        settings.config,
        objective_name(config.eval.ks),
        config_dir,
        config.trainer.accelerator,
        config.hydra.runtime.choices["hydra/launcher"],
    )


def _one_value(text: str) -> str:
    """An interval's lower end in its place; other overrides, and malformed ones, as they are."""
    try:
        return first_value(OverridesParser.create().parse_override(text)) or text
    except HydraException:
        return text


def _own_faults(settings: DictConfig) -> list[str]:
    found = []
    for key in ("trials", "jobs"):
        value = settings[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            found.append(f"{key}={value}: must be a whole number of at least 1")
    for key in ("seed", "retries"):
        value = settings.study[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            found.append(f"study.{key}={value}: must be a whole number of at least 0")
    for key in ("sampler", "pruner"):
        target = settings.study[key]._target_
        try:
            get_class(target)
        except Exception as error:
            found.append(f"study.{key}._target_={target}: {readable(error)}")
    return found


def _folder(fixed: Sequence[str], config: DictConfig) -> Path:
    """``hydra.sweep.dir`` if given, else a folder named by the choices.

    Raises:
        ConfigError: there is no choice to name it.
    """
    if any(text.startswith("hydra.sweep.dir=") for text in fixed):
        return Path(config.hydra.sweep.dir)
    chosen = [text.split("=", 1)[1] for name in _NAMES for text in fixed if text.startswith(f"{name}=")]
    if not chosen:
        raise ConfigError(["the search has no name: add hydra.sweep.dir=FOLDER, where it is and goes on"])
    return Path("searches", "-".join(chosen))
