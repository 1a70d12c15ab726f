"""The table of faults: what was tried, what happens, what is lost; and runs the tests that show it.

    python experiments/faults.py areas=resume,training,vllm,sweeps

Each row names a test, or a script of this folder whose page has the figures. The tests run here, all in one process, and the last
column says how they ended. ``run=false`` prints the table without running anything.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from command_line import WrongUse, read_settings

ROOT = Path(__file__).resolve().parents[1]
RESUMED, STOPPED = "tests/jobs/test_resumed_jobs.py", "tests/test_stopping.py"
CHECKPOINTS, ATTEMPT = "tests/run/test_checkpoints.py", "tests/run/test_attempt.py"
DISK, WARNINGS = "tests/errors/test_disk_faults.py", "tests/phases/test_rollout_warnings.py"
SERVED, CLIENT = "tests/step/test_served.py", "tests/endpoint/test_vllm_server.py"
LAUNCHED, STUDY = "tests/jobs/test_launched_jobs.py", "tests/tuning/test_search_study.py"
NOTHING, STEPS = "nothing", "the steps since the last checkpoint"


@dataclass(frozen=True)
class Fault:
    """A row."""

    what: str
    tried: str  # a test, a page of this folder, or why nothing was
    happens: str
    lost: str = NOTHING


FAULTS: dict[str, list[Fault]] = {
    "resume": [
        Fault("kill -9 in any phase", "killed.md", "goes on, and ends equal to a run without a kill", STEPS),
        Fault(
            "kill -9 in training-free GRPO, then while it is ranked",
            f"{RESUMED}::test_training_free_goes_on_and_practises_no_step_twice",
            "goes on from its own checkpoint; the second time from its end",
            STEPS,
        ),
        Fault(
            "kill -9 right after the end",
            "tests/jobs/test_job_folder.py::test_a_finished_run_is_replaced_only_when_asked_for",
            "is finished; the next command removes what only another attempt would need",
        ),
        Fault(
            "SIGTERM in a phase",
            f"{STOPPED}::test_a_stopped_phase_saves_its_step_and_goes_on",
            "saves the step, one line, status 143; goes on at that step",
        ),
        Fault(
            "Ctrl-C, SIGTERM or a closed terminal anywhere",
            f"{STOPPED}::test_a_signal_ends_a_job_with_its_status_and_one_line",
            "one line, status 130, 143 or 129",
            STEPS,
        ),
        Fault(
            "no room for a checkpoint",
            f"{RESUMED}::test_a_job_goes_on_in_every_phase_from_its_last_whole_checkpoint",
            "one message that names the file; the checkpoint before it stays, and the run goes on from there",
            STEPS,
        ),
        Fault(
            "no room for any other file",
            f"{DISK}::test_every_writer_names_the_file_that_found_no_room",
            "names the file; what was there stays, and no half file is left",
        ),
        Fault(
            "no room, seen by the command",
            f"{DISK}::test_a_file_that_finds_no_room_ends_in_one_line_and_what_was_there_stays",
            "one line, status 2",
        ),
        Fault(
            "cut checkpoint, or one without its seal",
            f"{CHECKPOINTS}::test_the_latest_whole_checkpoint_counts",
            "a warning names it, and the one before is used",
            "the steps between the two",
        ),
        Fault(
            "checkpoint of another run",
            f"{RESUMED}::test_a_job_goes_on_in_every_phase_from_its_last_whole_checkpoint",
            "a warning names it, and the one before is used",
            "the steps between the two",
        ),
        Fault(
            "changed settings",
            f"{ATTEMPT}::test_changed_settings_are_named",
            "refused, with each setting's old and new value",
        ),
        Fault(
            "edited input file",
            f"{ATTEMPT}::test_an_edited_input_file_counts_as_a_change",
            "refused, with the key of the file",
        ),
        Fault(
            "changed code or libraries",
            f"{ATTEMPT}::test_a_run_that_goes_on_with_other_code_says_so",
            "goes on, with a warning that its phases come from two versions",
        ),
    ],
    "training": [
        Fault(
            "a loss or gradient that is not finite",
            "tests/phases/test_skipped_updates.py::test_a_bad_batch_is_skipped_and_the_others_are_learnt_as_without_it",
            "the update is skipped, its batch is kept in a file, and a warning names it",
            "the update",
        ),
        Fault(
            "several in a row",
            "tests/jobs/test_troubled_jobs.py::test_a_loss_that_stays_no_number_ends_the_command_with_one_line_and_the_batches",
            "one line with what to lower, status 2",
            STEPS,
        ),
        Fault(
            "KL blow-up, no variance within groups, malformed or cut-off answers",
            f"{WARNINGS}::test_each_kind_is_warned_of_once_and_after_enough_steps_in_a_row",
            "one warning for each, with what to change",
        ),
        Fault(
            "collapse of entropy or length",
            f"{WARNINGS}::test_what_collapses_or_blows_up_is_compared_with_the_first_step",
            "one warning, with the value now and in the first step",
        ),
        Fault(
            "a constant reward, and a policy that runs away, in a phase that trains",
            f"{WARNINGS}::test_a_constant_reward_and_a_policy_that_runs_away_are_warned_of",
            "one warning for each",
        ),
        Fault(
            "text without answers",
            f"{WARNINGS}::test_text_without_answers_is_warned_of",
            "one warning",
        ),
        Fault(
            "nothing trainable",
            "tests/phases/test_phase_base.py::test_nothing_to_train_is_refused",
            "refused, with the settings to look at",
        ),
        Fault(
            "weights that rounding leaves as they were",
            "tests/phases/test_unmoved_weights.py::test_a_learning_rate_that_most_weights_are_too_coarse_for_is_warned_of_once",
            "one warning",
        ),
        Fault(
            "the ranking falls while the reward rises",
            "tests/phases/test_heldout.py::test_inflation_is_what_the_reward_rises_beyond_the_ranking",
            "the gap is logged, and a warning names it",
        ),
    ],
    "vllm": [
        Fault(
            "the server dies",
            "tests/jobs/test_served_jobs.py::test_a_server_dies_and_the_run_goes_on_at_another_address",
            "ends with one message; goes on at another address with resume=auto",
            STEPS,
        ),
        Fault(
            "errors, hang-ups, silence, fewer completions, no token ids",
            f"{CLIENT}::test_a_server_that_fails_for_good_is_named",
            "asks again, then ends with the server's address and words",
            STEPS,
        ),
        Fault(
            "a failure that passes",
            f"{CLIENT}::test_a_failure_that_passes_is_not_noticed",
            "asks again",
        ),
        Fault(
            "some completions are missing",
            f"{CLIENT}::test_missing_completions_are_asked_for_again_with_other_seeds",
            "asks for the rest",
        ),
        Fault(
            "started again, without the adapter",
            f"{SERVED}::test_a_server_that_was_started_again_gets_the_adapter_again",
            "loads it again",
        ),
        Fault(
            "stale adapter",
            f"{SERVED}::test_a_stale_adapter_is_counted_as_lag_or_refused",
            "counts as lag if max_lag allows it, else ends",
            STEPS,
        ),
        Fault(
            "adapter that the server ignores",
            f"{SERVED}::test_an_adapter_that_the_server_ignores_is_found_by_its_probabilities",
            "ends before the update",
            STEPS,
        ),
        Fault(
            "answer under another model's name",
            f"{SERVED}::test_an_answer_under_another_name_is_refused",
            "ends before the update",
            STEPS,
        ),
        Fault(
            "wrong model, other tokenizer, raw log-probabilities, too small a rank, folder not seen",
            f"{SERVED}::test_the_check_before_training",
            "refused before training",
        ),
        Fault(
            "adapters refused",
            "tests/jobs/test_served_jobs.py::test_a_server_that_cannot_is_refused_before_the_run_begins",
            "refused before training",
        ),
        Fault(
            "prompt refused as too long",
            f"{CLIENT}::test_a_prompt_that_is_too_long_is_refused_in_the_servers_words",
            "ends in the server's words",
            STEPS,
        ),
        Fault(
            "answer cut off by the context",
            f"{CLIENT}::test_an_answer_that_the_context_cuts_off_is_no_short_answer",
            "ends, and names --max-model-len",
            STEPS,
        ),
    ],
    "sweeps": [
        Fault("driver, worker, leave under joblib", "sweep_faults.md", "equal", STEPS),
        Fault("driver, worker, leave under Optuna", "sweep_faults.md", "equal", STEPS),
        Fault(
            "driver under submitit's local executor", "sweep_faults.md", "the job runs on and is taken over"
        ),
        Fault(
            "worker under submitit's local executor",
            "sweep_faults.md",
            "the others finish, it goes on; equal",
            STEPS,
        ),
        Fault(
            "leave under submitit's local executor, put back into the queue",
            f"{LAUNCHED}::test_submitit_puts_a_job_back_that_saved_its_last_step",
            "saves its step and goes on; equal",
        ),
        Fault(
            "worker under Ray",
            f"{LAUNCHED}::test_ray_starts_a_killed_job_again",
            "Ray starts it again, and it goes on; equal",
            STEPS,
        ),
        Fault(
            "kill -9 of a sweep of eight",
            "tests/sweep/test_sweep_resumes.py::test_a_killed_sweep_of_eight_goes_on_where_it_stopped",
            "its processes end; typed again, it runs what is missing",
            STEPS,
        ),
        Fault(
            "a job fails, and the process of another is killed",
            "tests/sweep/test_run_sweep.py::test_neither_a_failed_job_nor_a_killed_process_stops_the_others",
            "the others run, and the end names both",
        ),
        Fault(
            "Ctrl-C or SIGTERM of the command",
            f"{STOPPED}::test_a_stopped_sweep_stops_its_jobs_and_they_say_so",
            "its jobs stop and say so; status 130 or 143",
        ),
        Fault(
            "a trial is killed, fails, or ranks badly",
            f"{STUDY}::test_what_is_killed_goes_on_what_fails_is_told_and_what_ranks_badly_ends",
            "goes on; is told; is ended",
            STEPS,
        ),
        Fault(
            "a search ends",
            f"{STUDY}::test_a_search_that_ends_goes_on_with_the_trial_that_was_running",
            "goes on with the trial that was running",
            STEPS,
        ),
        Fault(
            "the sweep's disk is full",
            "sweep_faults.md",
            "the job and the end name the file; finished jobs are kept, and the job goes on",
            STEPS,
        ),
        Fault("driver, worker, leave under Ray", "sweep_faults.md", "equal", STEPS),
        Fault(
            "driver under Slurm, on a cluster of two nodes",
            "sweep_faults.md",
            "the job runs on and is taken over",
        ),
        Fault(
            "worker, leave, time limit, requeue, a node that fails under Slurm",
            "sweep_faults.md",
            "Slurm or the sweep starts the job again, and it goes on; equal",
            STEPS,
        ),
        Fault(
            "a Slurm cluster without accounts",
            "tests/sweep/test_launchers.py::test_a_cluster_without_accounts_is_warned_of",
            "the sweep says so, and how to go on if a job dies",
        ),
        Fault("GPUs, several machines", "not run here", "unknown", "unknown"),
    ],
}


@dataclass(frozen=True)
class Settings:
    """The command line."""

    areas: str = ",".join(FAULTS)
    run: bool = True  # whether the tests run


def outcomes(tests: Iterable[str]) -> Mapping[str, str]:
    """How tests ended, each with all its parameters: passed, skipped or FAILED."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-m", ""]
        done = subprocess.run(
            [*command, f"--junitxml={report}", *dict.fromkeys(tests)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            raise SystemExit(done.stdout + done.stderr)
        found: dict[str, str] = {}
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name'].partition('[')[0]}"
            kinds = {child.tag for child in case}
            ended = (
                "FAILED" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
            )
            found[name] = ended if found.get(name, ended) == ended or ended == "FAILED" else found[name]
    return found


def main() -> int:
    """Print the table; status 1 if a test failed."""
    try:
        given = read_settings(Settings, sys.argv[1:], {"areas": list(FAULTS)})
    except WrongUse as error:
        print(error, file=sys.stderr)
        return 2
    rows = [(area, fault) for area in given.areas.split(",") for fault in FAULTS[area]]
    ended = outcomes(fault.tried for _, fault in rows if "::" in fault.tried) if given.run else {}
    print("| area | fault | tried | what happens | lost | seen |\n|---|---|---|---|---|---|")
    for area, fault in rows:
        seen = ended.get(fault.tried, "not run") if "::" in fault.tried else "its own page"
        tried = f"`{fault.tried}`" if "::" in fault.tried else fault.tried
        tried = f"[{tried}]({tried})" if tried.endswith(".md") else tried
        seen = "no" if fault.tried == "not run here" else seen
        print(f"| {area} | {fault.what} | {tried} | {fault.happens} | {fault.lost} | {seen} |")
    return int("FAILED" in ended.values())


if __name__ == "__main__":
    sys.exit(main())
