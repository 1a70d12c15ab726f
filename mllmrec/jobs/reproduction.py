"""Runs a finished run's job again: the settings as they were typed, composed by this version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import compose_checked
from mllmrec.config.places import SEARCH_PATH
from mllmrec.config.trust import VARIABLE, refuse_strangers
from mllmrec.config.typed import quoted
from mllmrec.errors import ConfigError, UserError
from mllmrec.jobs.compared_runs import leaves
from mllmrec.run.environment import read_environment
from mllmrec.run.folder import RunFolder
from mllmrec.run.job_folder import unfinished
from mllmrec.run.settings import OF_THE_JOB, read_settings
from mllmrec.stopping import CHILDREN_SECONDS

# Overrides of the second run: it sends nothing to a service and trains every phase itself.
_OF_ITS_OWN = ("logger=none", "share_stages=false")
_KEPT = "cache_dir"  # of the settings that change no results: downloads take long
_MOST_SHOWN = 5  # settings that differ


@dataclass(frozen=True)
class Typed:
    """What was typed to start a run.

    Attributes:
        overrides: those of the job; in a sweep, of this one job.
        flags: Hydra's flags that name configuration files.
        search: Hydra's override that names further folders of configuration files; empty if there is none.
    """

    overrides: list[str]
    flags: dict[str, str]
    search: list[str]

    def composed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The resolved settings that this version composes.

        Args:
            given: values in place of those composed, by name, for settings that others repeat, such as
                ``dataset.cache_dir: ${cache_dir}``.

        Raises:
            ConfigError: this version refuses some of the overrides.
        """
        name = self.flags.get("--config-name", "train")
        with _another_hydra():
            composed = compose_checked(
                name, [*self.search, *self.overrides], CONFIG_DIR, self.flags.get("--config-dir")
            )
        if composed.faults:
            raise ConfigError(composed.faults)
        with open_dict(composed.config):
            composed.config.pop("hydra", None)
            composed.config.update(given)
        plain: Any = OmegaConf.to_container(composed.config, resolve=True)
        return plain

    def command(self, folder: Path) -> list[str]:
        """The command that runs the job into ``folder``."""
        flags = [text for pair in self.flags.items() for text in pair]
        given = [*self.search, *self.overrides, f"hydra.run.dir={quoted(str(folder))}"]
        return [sys.executable, "-m", "mllmrec.train", *flags, *given]


def finished_run(path: str, role: str) -> RunFolder:
    """The folder of a run of `mllmrec.train` that finished.

    Args:
        path: the folder.
        role: the setting that names it.

    Raises:
        UserError: there is no such run, or it did not finish.
    """
    folder = RunFolder.of_finished_run(path)
    if (why := unfinished(folder)) is not None:
        raise UserError(f"{role}={path}: {why}; name a run that finished")
    if not folder.resolved_config_path.is_file():
        raise UserError(
            f"{role}={path} has no {folder.resolved_config_path.name}: name a run of mllmrec.train"
        )
    return folder


def typed_for(folder: RunFolder, more: Sequence[str], trust: Sequence[str] = ()) -> Typed:
    """What to type for the same results, from the files that Hydra's settings were kept in.

    Args:
        folder: a finished run.
        more: overrides that come after the run's own.
        trust: as `mllmrec.config.trust.trusted` returned it.

    Raises:
        UserError: the run kept no overrides, a file cannot be read, or what was typed reaches beyond the job's settings.
    """
    path = folder.hydra_path / "overrides.yaml"
    if not path.is_file():
        raise UserError(f"{folder.path} has no .hydra/{path.name}: what was typed for the run is unknown")
    stored: Any = OmegaConf.to_container(read_settings(path))
    dropped = {name for name in OF_THE_JOB if name != _KEPT}
    own = [str(text) for text in stored or [] if _root(str(text)) not in dropped]
    for text in own:
        if text.startswith("-") or _root(text) == "hydra":
            raise UserError(
                f"{path}: {text} is no setting of a job: remove the line, or put a copy of the file in its place"
            )
    described_path = folder.hydra_path / "hydra.yaml"
    described = read_settings(described_path) if described_path.is_file() else OmegaConf.create()
    flags = {}
    if (name := OmegaConf.select(described, "hydra.job.config_name")) not in (None, "train"):
        flags["--config-name"] = _file_name(str(name), described_path)
    for source in OmegaConf.select(described, "hydra.runtime.config_sources") or []:
        if source.provider == "command-line":
            flags["--config-dir"] = str(source.path)
    of_hydra = OmegaConf.select(described, "hydra.overrides.hydra") or []
    search = [text for text in of_hydra if text.startswith(f"{SEARCH_PATH}=")]
    _refuse_places(described_path, flags.get("--config-dir"), search, trust)
    return Typed([*own, *more, *_OF_ITS_OWN], flags, search)


def _file_name(name: str, file: Path) -> str:
    if re.fullmatch(r"\w[\w.-]*", name) is None:
        raise UserError(
            f"{file}: hydra.job.config_name={name}: no name of a file: put a copy of the file in its place"
        )
    return name


def _refuse_places(file: Path, folder: str | None, search: Sequence[str], trust: Sequence[str]) -> None:
    """Refuse configuration files from places that nobody trusts: they may come with the run, and can do anything.

    Raises:
        UserError: a folder or package is not trusted.
    """
    parser = OverridesParser.create()
    listed = [place for text in search for place in parser.parse_override(text).value()]  # type: ignore[union-attr]
    for place in [*([folder] if folder else []), *map(str, listed)]:
        scheme, _, name = place.rpartition("://")
        if scheme == "pkg":
            known, asked = re.split("[./]", name)[0] in trust, re.split("[./]", name)[0]
        else:
            here = Path(name).resolve()
            known, asked = any(here.is_relative_to(Path(one).resolve()) for one in trust), name
        if not known:
            raise UserError(
                f"{file}: the run took configuration files from {place}, and those can run anything: if you know them, add "
                f"trust=[{asked}], or export {VARIABLE}={asked}"
            )


def refuse_other_settings(folder: RunFolder, typed: Typed, trust: Sequence[str] = ()) -> None:
    """Compare the settings of a run with those that its overrides give in this version.

    Settings that change no results do not count (`run.settings.OF_THE_JOB`).

    Raises:
        UserError: some differ, and it names them; or they name code or servers that nobody trusts.
        ConfigError: this version refuses some of the overrides.
    """
    stored: Any = OmegaConf.to_container(read_settings(folder.resolved_config_path))
    if not isinstance(stored, dict):
        raise UserError(f"{folder.resolved_config_path} does not hold the settings of a run")
    composed = typed.composed({name: stored[name] for name in OF_THE_JOB if name in stored})
    refuse_strangers(composed, folder.hydra_path / "overrides.yaml", trust)
    before, now = (
        dict(leaves({name: value for name, value in settings.items() if name not in OF_THE_JOB}))
        for settings in (stored, composed)
    )
    differing = [
        f"{name} ({_told(before, name)} in the run, {_told(now, name)} here)"
        for name in dict.fromkeys([*before, *now])
        if _told(before, name) != _told(now, name)
    ]
    if differing:
        left = len(differing) - _MOST_SHOWN
        shown = ", ".join(differing[:_MOST_SHOWN]) + (f" and {left} more" if left > 0 else "")
        known = (read_environment(folder.environment_path) or {}).get("code") or {}
        commit = known.get("commit") or "the version that made the run"
        raise UserError(
            f"{folder.resolved_config_path}: this version composes other settings than the run had: {shown}. Check out "
            f"{commit} and start again there, or give the run's values: 'more=[\"KEY=VALUE\"]'"
        )


def run_again(typed: Typed, folder: Path, threads: int | None) -> None:
    """Run the job in a process of its own and wait for its end.

    Args:
        typed: what to type.
        folder: the new run's folder.
        threads: of the arithmetic on the CPU; None: as the environment says.

    Raises:
        UserError: the job did not finish.
    """
    # If the two numbers differ, torch takes the larger one.
    counts = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    process = subprocess.Popen(typed.command(folder), env={**os.environ, **counts})
    try:
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(2 * CHILDREN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    if status:
        raise UserError(f"the second run ended with status {status}; its message is above")


@contextmanager
def _another_hydra() -> Iterator[None]:
    """Let the block compose a configuration beside that of the command."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def _root(text: str) -> str:
    return re.split(r"[=./@]", text.lstrip("+~"), maxsplit=1)[0]


def _told(settings: Mapping[str, Any], name: str) -> str:
    return f"{settings[name]!r}" if name in settings else "not there"
