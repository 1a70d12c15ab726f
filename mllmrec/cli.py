"""Shared by all commands: Hydra's command line, one check of the configuration, and the exit status.

Exit status 0: done. 2: wrong use, wrong input, or a disk that is full or cannot be written, with one message on
standard error; ``MLLMREC_TRACEBACK=1`` shows where it arose. 130 and 143: ended by Ctrl-C or SIGTERM
(`mllmrec.stopping`). 1: anything else; this is a defect, with its traceback.
"""

from __future__ import annotations

import functools
import gc
import os
import pickle
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from mllmrec.config import CONFIG_DIR
from mllmrec.config.compose import VERSION_BASE, compose_checked
from mllmrec.config.help import register_help
from mllmrec.config.messages import readable
from mllmrec.config.secret_values import redacted
from mllmrec.errors import ConfigError, UserError
from mllmrec.errors.disk import user_error_behind
from mllmrec.screen.encodable import write_what_can_be_encoded
from mllmrec.stopping import HINT, RESUMABLE, check_stopped, end_at_once, stoppable, stopped_by, watching
from mllmrec.sweeping.requeue import requeue_signals, requeued_when_asked

WRONG_USE = 2
Task = Callable[[DictConfig], "float | None"]


def run_app(task: Task, config_name: str) -> NoReturn:
    """Run ``task`` as a Hydra application on ``conf/<config_name>.yaml`` and exit.

    Checks the configuration before Hydra starts, so that a refused configuration leaves no run folder. A multirun
    checks again before each job. The sweeper of a multirun receives the return value of ``task``.
    """
    write_what_can_be_encoded()
    with stoppable(f"mllmrec.{config_name}", RESUMABLE if config_name == "train" else HINT):
        _run(task, config_name)
    sys.exit(0)


def run_typed(run: Callable[[list[str]], int], arguments: Sequence[str], name: str, manual: str) -> int:
    """Run a command that reads its own arguments, with the faults and exit status of `run_app`.

    Args:
        run: takes the arguments, returns the exit status.
        arguments: what follows the command's name.
        name: the command, in messages.
        manual: how its manual page is shown.

    Returns:
        The exit status.
    """
    write_what_can_be_encoded()
    try:
        return run(list(arguments))
    except BrokenPipeError:
        _drop_output()
        return 0
    except Exception as error:
        if not _is_users(error):
            raise
        return _report(error, name, f"See {manual}.")


def _run(task: Task, config_name: str) -> None:
    # Let Hydra re-raise exceptions instead of printing its own shortened traceback.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failed: list[BaseException] = []
    launcher = os.getpid()
    name, command = f"mllmrec.{config_name}", f"python -m mllmrec.{config_name}"
    manual = f"See {command} --help for the settings, and {command} --cfg job for their values."

    @functools.wraps(task)
    def job(cfg: DictConfig) -> float | None:
        # Again, for the processes of a multirun's pool.
        write_what_can_be_encoded()
        of_multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        with requeued_when_asked(), watching(requeue_signals()):
            try:
                check_stopped()
                if of_multirun:
                    # The command line stands for many configurations, and only one of them was checked.
                    from mllmrec.config.checks import check_config

                    check_config(cfg, _trials)
                return task(cfg)
            except BaseException as error:
                stopped = stopped_by()
                again = stopped is not None and stopped.number in requeue_signals()
                if stopped is not None and os.getpid() != launcher and not again:
                    # The pool would give this process the next job.
                    end_at_once(stopped.status)
                if stopped is not None or not isinstance(error, Exception):
                    raise
                failed.append(error)
                if not of_multirun and user_error_behind(error) is not None:
                    # SystemExit is no Exception, so Hydra adds no line of its own to the message.
                    raise SystemExit(_report(error, name, manual)) from error
                if of_multirun and not _can_be_sent(error):
                    raise RuntimeError(f"{type(error).__name__}: {error}") from error
                raise

    # Hydra names the job after the module of the function, which would be __main__.
    del job.__wrapped__
    job.__module__ = f"mllmrec.{config_name}"
    try:
        with _nothing_collected():
            _check_command_line(config_name)
        hydra.main(config_path=str(CONFIG_DIR), config_name=config_name, version_base=VERSION_BASE)(job)()
    except BrokenPipeError:
        # The reader of the output closed it early, as in `--help | head`.
        _drop_output()
        sys.exit(0)
    except Exception as error:
        ours = error in failed and user_error_behind(error) is None
        if ours or not _is_users(error):
            raise
        sys.exit(_report(error, name, manual))


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Collect no garbage in the block, and none of its objects later.

    In the block libraries are imported. They make millions of objects, all of which stay. Python would search them for
    garbage again and again, which takes more than a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _check_command_line(config_name: str) -> None:
    """Check the overrides as typed, unless the command only prints help or the like.

    Raises:
        ConfigError: one or more overrides are wrong.
        UserError: the working folder no longer exists.
    """
    args = get_args_parser().parse_args()
    shown = args.help or args.info or args.cfg in ("hydra", "all")
    register_help(args.config_name or config_name, args.overrides, shown)
    if args.help or args.hydra_help or args.shell_completion or args.info or args.experimental_rerun:
        return
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError(
            "the current folder no longer exists: change to another and start the command again"
        ) from error
    config_dir = Path(args.config_path).resolve() if args.config_path else CONFIG_DIR
    composed = compose_checked(args.config_name or config_name, args.overrides, config_dir, args.config_dir)
    # Here, because the help of a command needs no checks.
    from mllmrec.config.checks import check_config, plain_faults
    from mllmrec.config.launcher_rules import interval_faults, launcher_faults

    faults = composed.faults
    if args.multirun and not args.cfg:
        faults += launcher_faults(composed.config) + interval_faults(args.overrides, composed.config)
    if faults:
        # Report at once: a check of the components takes seconds of imports.
        raise ConfigError(faults + plain_faults(composed.config))
    if not args.cfg:
        check_config(composed.config, _trials)


def _trials(settings: Mapping[str, Any], faulty: Collection[str]) -> list[str]:
    """The faults of parts on toy batches. The parts need torch, which takes seconds to import."""
    if not {"caption", "method"} & set(settings):
        return []
    from mllmrec.testing.trials import trial_faults

    return trial_faults(settings, faulty)


def _can_be_sent(error: Exception) -> bool:
    """Whether the process that launched the job could unpickle ``error``. If not, it would give up the other jobs."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _is_users(error: Exception) -> bool:
    """Whether an exception is about use or input, and no defect."""
    found = user_error_behind(error) or error
    return isinstance(found, (UserError, HydraException, OmegaConfBaseException))


def _report(error: BaseException, name: str, manual: str) -> int:
    """Print the message of ``error`` on standard error and return the exit status.

    Args:
        error: what ended the command.
        name: the command.
        manual: a line that says where its settings are described; shown if they are at fault.
    """
    if os.environ.get("MLLMREC_TRACEBACK") == "1":
        raise error
    known = user_error_behind(error)
    message = str(known) if known is not None else _hydra_message(error)
    if known is None or isinstance(known, ConfigError):
        message += f"\n{manual}"
    print(redacted(f"{name}: error: {message}"), file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return WRONG_USE


def _drop_output() -> None:
    """Discard what standard output could not take. Otherwise Python would try again at exit, and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _hydra_message(error: BaseException) -> str:
    parts: list[Any] = [error]
    if error.__cause__ is not None:
        parts.append(error.__cause__)
    return ": ".join(dict.fromkeys(readable(part) for part in parts))
