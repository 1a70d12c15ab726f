"""What every command shares: Hydra's command line, one check of the configuration, and the exit status.

0: done. 2: wrong use, wrong input, or a disk that is full or cannot be written, with one message on standard error;
``MLLMREC_TRACEBACK=1`` shows where it arose. 130 and 143: ended by Ctrl-C or SIGTERM (`mllmrec.stopping`). 1: anything else, a defect, with its traceback.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mllmrec.config import CONFIG_DIR, check_config
from mllmrec.config.checks import plain_faults
from mllmrec.config.compose import VERSION_BASE, compose_checked
from mllmrec.config.help import register_help
from mllmrec.config.messages import readable
from mllmrec.disk_faults import user_error_behind
from mllmrec.encodable import write_what_can_be_encoded
from mllmrec.errors import ConfigError, UserError
from mllmrec.stopping import check_stopped, end_at_once, stoppable, stopped_by, watching

WRONG_USE = 2
Task = Callable[[DictConfig], "float | None"]


def run_app(task: Task, config_name: str) -> NoReturn:
    """Run ``task`` as a Hydra application on ``conf/<config_name>.yaml`` and exit.

    The configuration is checked before Hydra starts, so that a refused one leaves no run folder behind; in a
    multirun also before each job. The value of ``task`` goes to the sweeper of a multirun.
    """
    write_what_can_be_encoded()
    with stoppable(f"mllmrec.{config_name}"):
        _run(task, config_name)
    sys.exit(0)


def _run(task: Task, config_name: str) -> None:
    # Hydra re-raises what went wrong instead of printing its own shortened traceback.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failed: list[BaseException] = []
    launcher = os.getpid()

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float | None:
        # Once more, for the processes of a multirun's pool.
        write_what_can_be_encoded()
        of_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        with watching():
            try:
                check_stopped()
                if of_multirun:
                    # The command line stood for many configurations, of which one was checked.
                    check_config(cfg)
                return task(cfg)
            except BaseException as error:
                stopped = stopped_by()
                if stopped is not None and os.getpid() != launcher:
                    # The pool would give its process the next job.
                    end_at_once(stopped.status)
                if stopped is not None or not isinstance(error, Exception):
                    raise
                failed.append(error)
                if not of_multirun and user_error_behind(error) is not None:
                    # Not an Exception, so that Hydra adds no line of its own to the message.
                    raise SystemExit(_report(error, config_name)) from error
                if of_multirun and not _can_be_sent(error):
                    raise RuntimeError(f"{type(error).__name__}: {error}") from error
                raise

    # Hydra names the job after the module of the function: here __main__, and of no use.
    del job.__wrapped__
    job.__module__ = f"mllmrec.{config_name}"
    try:
        _check_command_line(config_name)
        hydra.main(config_path=str(CONFIG_DIR), config_name=config_name, version_base=VERSION_BASE)(job)()
    except BrokenPipeError:
        # Whoever read the output has enough, as with `--help | head`.
        _drop_output()
        sys.exit(0)
    except Exception as error:
        ours = error in failed and user_error_behind(error) is None
        if ours or not isinstance(
            user_error_behind(error) or error, (UserError, HydraException, OmegaConfBaseException)
        ):
            raise
        sys.exit(_report(error, config_name))


def _check_command_line(config_name: str) -> None:
    """Check the overrides as typed, when they are what is going to run.

    Raises:
        ConfigError: one or more are wrong.
        UserError: there is no folder to work in.
    """
    args = get_args_parser().parse_args()
    register_help(args.config_name or config_name, args.overrides)
    if args.help or args.hydra_help or args.shell_completion or args.info or args.experimental_rerun:
        return
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the folder that this command was started in is gone: change to another") from error
    config_dir = Path(args.config_path).resolve() if args.config_path else CONFIG_DIR
    composed = compose_checked(args.config_name or config_name, args.overrides, config_dir, args.config_dir)
    if composed.faults:
        # Said at once: what the components would add takes seconds of imports.
        raise ConfigError(composed.faults + plain_faults(composed.config))
    if not args.cfg:
        check_config(composed.config)


def _can_be_sent(error: Exception) -> bool:
    """Whether the process that launched the job could read ``error``; if it cannot, it gives up the other jobs too."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _report(error: BaseException, config_name: str) -> int:
    """Print the message of ``error`` on standard error; returns the exit status."""
    if os.environ.get("MLLMREC_TRACEBACK") == "1":
        raise error
    command = f"python -m mllmrec.{config_name}"
    known = user_error_behind(error)
    message = str(known) if known is not None else _hydra_message(error)
    if known is None or isinstance(known, ConfigError):
        message += f"\nSee {command} --help for the settings, {command} --cfg job for their values."
    print(f"mllmrec.{config_name}: error: {message}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return WRONG_USE


def _drop_output() -> None:
    """Let what standard output could not take go nowhere: Python would try again at its end, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hydra_message(error: BaseException) -> str:
    parts: list[Any] = [error]
    if error.__cause__ is not None:
        parts.append(error.__cause__)
    return ": ".join(dict.fromkeys(readable(part) for part in parts))
