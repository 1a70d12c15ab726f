"""For notebooks and scripts: train, load, rank and report on the objects that the commands use.

>>> from mllmrec import load_run, train
>>> run = train(["debug=fast", "seed=1"])  # doctest: +SKIP
>>> run.metrics["stages"]["grpo"]["NDCG@3"]  # doctest: +SKIP
>>> load_run(run.path).recommender().rank(["12", "7"], k=3)  # doctest: +SKIP

Wrong settings and wrong input raise `mllmrec.UserError`, with the message that the commands print.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllmrec.errors import ConfigError, UserError

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

    from mllmrec.exporting.folder import Exported
    from mllmrec.jobs.recommendation import Recommender
    from mllmrec.reporting.runs import Run


@dataclass(frozen=True)
class LoadedRun:
    """A run's results; its model is loaded only by `recommender` and `export`.

    Args:
        path: the run's folder.
        record: the run as reports read it.
        trust: packages outside of mllmrec, and servers, that the run's settings may name.
    """

    path: Path
    record: Run
    trust: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"LoadedRun({str(self.path)!r}, stages={self.stages})"

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json holds, such as ``protocol``, ``stages``, ``intervals`` and ``baselines``."""
        return self.record.metrics

    @cached_property
    def settings(self) -> DictConfig:
        """The resolved configuration, such as ``run.settings.grpo.group_size``."""
        from omegaconf import OmegaConf

        return OmegaConf.create(self.record.config)

    @property
    def stages(self) -> list[str]:
        """The evaluated phases, in order."""
        return self.record.stages

    @property
    def unfinished(self) -> str | None:
        """Why the run has not come to its end, in words; None for a finished run."""
        from mllmrec.run.folder import RunFolder
        from mllmrec.run.job_folder import unfinished

        return unfinished(RunFolder(self.path))

    def per_user(self, stage: str | None = None) -> pd.DataFrame:
        """One row for each test user: ``user_id, target_id, rank, num_candidates, ranking``.

        ``rank`` counts from 1 and is nan where the target was not ranked; ``ranking`` lists item ids, best first. If answers
        were generated, ``text`` has them; if the policy wrote reasoning or a profile first, ``text`` has that. ``scores`` has
        a number for each item of ``ranking``, a language model's log-probability, where the way to rank gives some.

        Args:
            stage: an evaluated phase; None: the last.

        Raises:
            UserError: there is no such phase.
        """
        import pandas as pd

        records = self.record.records(self._stage(stage))
        columns: dict[str, Any] = {
            "user_id": records.user_ids,
            "target_id": records.target_ids,
            "rank": records.ranks,
            "num_candidates": records.num_candidates,
            "ranking": list(records.rankings),
        }
        if records.texts is not None:
            columns["text"] = list(records.texts)
        if records.scores is not None:
            columns["scores"] = list(records.scores)
        return pd.DataFrame(columns)

    def recommender(self, stage: str | None = None) -> Recommender:
        """The model after a phase, ready to rank; loads it and the data.

        Args:
            stage: a trained phase; None: the last.

        Raises:
            UserError: nothing was trained, or there is no such phase.
        """
        from mllmrec.jobs.recommendation import Recommender

        return Recommender.load(self.path, stage, self.trust)

    def export(
        self,
        out: str | Path,
        *,
        stage: str | None = None,
        merge: bool = True,
        dtype: str | None = None,
        check: bool = True,
        overwrite: bool = False,
    ) -> Exported:
        """Write the model as a folder that transformers or peft loads, as ``python -m mllmrec.export`` does.

        Args:
            out: the folder to write.
            stage: a trained phase; None: the last.
            merge: whether adapters are merged; else one adapter stands for all.
            dtype: float32, bfloat16 or float16; None: the run's own.
            check: whether to load the folder again and compare log-probabilities.
            overwrite: whether an earlier export there is replaced.

        Raises:
            UserError: the run cannot be exported so, or ``out`` is taken.
        """
        from mllmrec.exporting.folder import Form, export_run

        return export_run(str(self.path), out, stage, Form(merge, dtype, check), overwrite, self.trust)

    def _stage(self, stage: str | None) -> str:
        from mllmrec.errors import choices

        if stage is not None and stage not in self.stages:
            raise UserError(f"{self.path} has no phase {stage}; it has {choices(self.stages)}")
        return stage or self.stages[-1]


def load_run(folder: str | Path, *, trust: str | Sequence[str] = ()) -> LoadedRun:
    """The results of ``mllmrec.train`` or ``mllmrec.evaluate`` in a folder (its hydra.run.dir).

    Args:
        folder: the run's folder. Reading results runs nothing that it names; `LoadedRun.recommender` builds its classes.
        trust: your own packages, and servers, that the run's settings may name.

    Raises:
        UserError: there is no such run, or its files are damaged.
    """
    from mllmrec.config.trust import trusted
    from mllmrec.reporting.runs import read_run
    from mllmrec.run.folder import RunFolder

    path = RunFolder.of_finished_run(folder).path
    return LoadedRun(path, read_run(path), trusted(trust))


def train(
    overrides: str | Sequence[str] = (),
    *,
    folder: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> LoadedRun:
    """Run the main job in this process, as ``python -m mllmrec.train`` does, and load the run.

    Args:
        overrides: what one types behind the command: ``["method=sft", "seed=1"]``, or one line.
        folder: the run folder; None: ``outputs/DATE/TIME``.
        config_dir: a folder with configuration files of one's own.

    Raises:
        ConfigError: wrong settings, all of them together.
        UserError: wrong input, or ``folder`` holds a finished run.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict, read_write

    from mllmrec.config import CONFIG_DIR, check_config
    from mllmrec.config.checks import plain_faults
    from mllmrec.config.compose import compose_checked, sweeps
    from mllmrec.config.trust import named_in
    from mllmrec.config.typed import quoted
    from mllmrec.jobs.main import run
    from mllmrec.testing.trials import trial_faults

    texts = shlex.split(overrides) if isinstance(overrides, str) else list(map(str, overrides))
    several = sweeps(texts)
    if several:
        raise UserError(f"{several[0]}: gives several values, and this trains one run: call it once for each")
    if folder is not None:
        texts.append(f"hydra.run.dir={quoted(str(folder))}")
    # The caller may use Hydra, too.
    before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        extra = None if config_dir is None else str(config_dir)
        composed = compose_checked("train", texts, CONFIG_DIR, extra)
        cfg = composed.config
        HydraConfig.instance().set_config(cfg)
        if composed.faults:
            raise ConfigError(composed.faults + plain_faults(cfg))
        check_config(cfg, trial_faults)
        place = Path(cfg.hydra.run.dir).absolute()
        with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
            cfg.hydra.runtime.output_dir = str(place)
        HydraConfig.instance().set_config(cfg)
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        typed = named_in(OmegaConf.to_container(cfg, resolve=True))
        run(cfg)
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = before
    return load_run(place, trust=typed)


def report(
    folders: str | Path | Sequence[str | Path], out: str | Path, *, name: str | None = None, **asked: Any
) -> Path:
    """Write tables with intervals, paired tests, pictures and a page over runs, as ``python -m mllmrec.report`` does.

    Args:
        folders: folders that hold runs at any depth, a section each.
        out: the folder to write.
        name: the title; None: names the folders.
        asked: what ``mllmrec.report`` takes besides: ``stage, weights, metrics, metric, baseline, seed, resamples``.

    Returns:
        The HTML page.

    Raises:
        UserError: a folder holds no finished run, its runs cannot be compared, or nothing of that name can be asked.
    """
    from mllmrec.errors import choices
    from mllmrec.reporting.experiment import Question
    from mllmrec.reporting.whole import make_report

    known = [field.name for field in fields(Question)]
    unknown = sorted(asked.keys() - set(known))
    if unknown:
        raise UserError(f"{unknown[0]}: a report cannot be asked this; it can be asked {choices(known)}")
    several = [folders] if isinstance(folders, (str, Path)) else list(folders)
    return make_report(list(map(str, several)), Path(out), Question(**asked), name).page
