"""Lines of a report about its jobs: which are left out and why, and which were interrupted."""

from __future__ import annotations

from mllmrec.config.kinds import stage_title
from mllmrec.reporting.experiment import Experiment
from mllmrec.reporting.runs import Run
from mllmrec.run.folder import RunFolder
from mllmrec.run.log import Resumption, resumptions


def notes(experiment: Experiment) -> list[str]:
    """One line for each kind of job that a reader should know of; none if all jobs ended at the first attempt."""
    failed = [job for job in experiment.unfinished if job.error is not None]
    open_jobs = [job for job in experiment.unfinished if job.error is None]
    lines = []
    if failed:
        named = "; ".join(f"{job.path} ({job.error})" for job in failed)
        lines.append(f"{_counted(len(failed), 'job')} failed: {named}")
    if open_jobs:
        named = ", ".join(str(job.path) for job in open_jobs)
        lines.append(f"{_counted(len(open_jobs), 'job')} not finished: {named}")
    if experiment.alone is not None:
        some, every = experiment.alone
        lines.append(
            f"only {some} of {every} runs were also ranked among other negatives, so there is no table for those (give "
            "all runs the same eval.weighting)"
        )
    if experiment.repeated:
        named = ", ".join(str(run.path) for run in experiment.repeated)
        lines.append(
            f"{_counted(len(experiment.repeated), 'older run')} of the same settings and seed left out: {named}"
        )
    return [*lines, *_resumed([run for row in experiment.rows for run in row.runs])]


def _resumed(runs: list[Run]) -> list[str]:
    found = [(run, resumptions(RunFolder(run.path).run_log_path)) for run in runs]
    named = [f"{run.path} ({', '.join(map(_place, times))})" for run, times in found if times]
    return [f"{_counted(len(named), 'run')} interrupted and resumed: {'; '.join(named)}"] if named else []


def _place(resumption: Resumption) -> str:
    place = "between phases"
    if resumption.stage is not None:
        place = f"{stage_title(resumption.stage)} after step {resumption.step}"
    return f"{place}, with other code" if resumption.other_code else place


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
