"""Completions that an inference server draws: the policy's adapter goes there after each update, and tokens come back.

`Vllm` holds the settings (``generator=vllm``), `Served` works with them during one phase. The server needs the base model's
weights and the folder with the adapters. Rewards, advantages and the loss are computed here, as in every other job.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from mllmrec.cache import atomic_folder
from mllmrec.endpoint.settings import ConnectionSettings
from mllmrec.endpoint.vllm import Drawn, NoSuchModel, VllmServer
from mllmrec.engine.batches import TokenBatch
from mllmrec.errors import UserError
from mllmrec.flat import flat_settings
from mllmrec.models.joint_adapter import write_joint_adapter
from mllmrec.models.policy import Policy
from mllmrec.rollout.base import PlainRollout, Spelling
from mllmrec.rollout.written import Wanted, Written

log = logging.getLogger(__name__)

LOCAL = ConnectionSettings(
    "http://127.0.0.1:8000/v1", "VLLM_API_KEY", concurrency=64, timeout_seconds=600.0, attempts=6
)


@dataclass(frozen=True)
class Agreement:
    """How far the server's completions may be from the policy's, and what corrects for it.

    Args:
        max_lag: steps that the adapter that drew a completion may be behind the policy: 0, or 1 to draw the next step's
            completions while this step's updates are made.
        truncate_at: the most that a token's importance ratio counts; None: no ratio.
        max_difference: nats per token. If completions of the policy's own adapter differ more, the run ends.

    Raises:
        UserError: a value makes no sense.
    """

    max_lag: int = 0
    truncate_at: float | None = 2.0
    max_difference: float = 0.3

    def __post_init__(self) -> None:
        if self.max_lag not in (0, 1):
            raise UserError(
                f"max_lag={self.max_lag}: must be 0 (each step waits for its completions) or 1 (the next step's are drawn during "
                "the updates)"
            )
        if self.truncate_at is not None and not self.truncate_at >= 1:
            raise UserError(
                f"truncate_at={self.truncate_at:g}: must be at least 1, or null for no importance ratio"
            )
        if not self.max_difference > 0:
            raise UserError(f"max_difference={self.max_difference:g}: must be greater than 0")


class Vllm:
    """Settings of rollouts by vLLM's own server.

    Args:
        connection: the server, and how requests reach it.
        agreement: how far it may be behind.
        adapter_folder: where adapters for the server are written; None: in the run folder.
        seen_as: the same folder as the server sees it; None: under the same name.
    """

    needs_package = ("openai", "'mllmrec[endpoint]'")

    @flat_settings
    def __init__(
        self,
        connection: ConnectionSettings = LOCAL,
        agreement: Agreement = Agreement(),
        adapter_folder: str | None = None,
        seen_as: str | None = None,
    ) -> None:
        if seen_as is not None and adapter_folder is None:
            raise UserError(
                f"seen_as={seen_as} goes with adapter_folder, the same folder as this machine sees it"
            )
        self.connection, self.agreement = connection, agreement
        self.adapter_folder, self.seen_as = adapter_folder, seen_as

    def folder(self, own: Path) -> Path:
        """Where adapters are written.

        Args:
            own: the place in the run folder.
        """
        return Path(self.adapter_folder or own).absolute()

    def as_seen(self, path: Path) -> str:
        """The path of an adapter as the server sees it."""
        return str(path) if self.seen_as is None else f"{self.seen_as}/{path.name}"


@dataclass(frozen=True)
class _Version:
    """An adapter that the server has."""

    name: str
    updates: int  # of the policy, in this phase
    path: Path


@dataclass(frozen=True)
class _Asked:
    """What the server was asked for."""

    prompts: list[list[int]]
    wanted: Wanted
    group_size: int
    seeds: list[int]


class Served:
    """A server during one phase. Use it as a context: at the end it forgets the adapters."""

    def __init__(self, settings: Vllm, policy: Policy, folder: Path, iterations: int = 1) -> None:
        """Take the parts; nothing is sent yet.

        Args:
            settings: those of the generator.
            policy: its adapters go to the server.
            folder: for the adapters, unless the settings name another.
            iterations: updates in a step.
        """
        self.settings, self.policy = settings, policy
        self.folder = settings.folder(folder)
        self.allowed = settings.agreement.max_lag * iterations  # updates
        self.updates = 0  # so far in this phase
        self.lag = 0  # of the last completions, in updates
        self.waited = 0.0  # seconds that the last step waited for them
        self._label = f"policy-{uuid4().hex[:8]}"  # other runs may use the same server
        self._versions: list[_Version] = []  # that the server has, the latest last
        self._known: dict[str, int] = {}  # name of every version so far → updates
        self._top_p = 1.0  # of the last completions
        self._ahead: tuple[_Asked, Future[list[Drawn]]] | None = None
        self._server = VllmServer(settings.connection)
        self._pool = ThreadPoolExecutor(settings.connection.concurrency, thread_name_prefix="vllm")
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="vllm-next-step")

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Forget what is under way, and the adapters; a server that is gone is not waited for."""
        if kind is None:
            self._drop_ahead()
            for version in self._versions:
                self._server.unload(version.name)
        self._server.close()
        for pool in (self._behind, self._pool):
            pool.shutdown(wait=False, cancel_futures=True)
        for version in self._versions:
            shutil.rmtree(version.path, ignore_errors=True)
        self._versions = []

    @property
    def runs_ahead(self) -> bool:
        """Whether completions are drawn during the updates of the step before."""
        return self.allowed > 0

    def updated(self) -> None:
        """Call it after each update of the policy."""
        self.updates += 1

    def with_written(
        self,
        draw: PlainRollout,
        prompts: TokenBatch,
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> Spelling:
        """The spelling with what the server draws, if the draw leaves that to a server.

        Raises:
            UserError: nothing came, or it came from another model or from an adapter that is too old.
        """
        if not draw.by_server:
            return spelling
        rows = [ids[mask].tolist() for ids, mask in zip(*prompts, strict=True)]
        asked = _asked(rows, draw.wanted(spelling), group_size, generators)
        begun = time.monotonic()
        if self._ahead is not None and self._ahead[0] == asked:
            future, self._ahead = self._ahead[1], None
            drawn = future.result()
        else:
            self._drop_ahead()
            drawn = self._draw(asked, self._push())
        self.waited = time.monotonic() - begun
        self._top_p = asked.wanted.top_p
        self.lag = max(self._lag_of(one.model) for one in drawn)
        return replace(
            spelling,
            written=Written(
                [row for one in drawn for row in one.rows],
                [values for one in drawn for values in one.logprobs],
            ),
        )

    def ask_ahead(
        self,
        draw: PlainRollout,
        prompts: Sequence[list[int]],
        group_size: int,
        generators: Sequence[torch.Generator],
        spelling: Spelling,
    ) -> None:
        """Let the server draw the next step's completions with the policy as it is now; does not wait for them."""
        asked = _asked(list(prompts), draw.wanted(spelling), group_size, generators)
        self._ahead = asked, self._behind.submit(self._draw, asked, self._push())

    def metrics(self) -> dict[str, float]:
        """Numbers of the last completions to log."""
        return {"sampling/policy_lag": float(self.lag), "sampling/wait_seconds": self.waited}

    def check_difference(self, mean: float) -> None:
        """Refuse completions of the policy's own adapter whose log-probabilities are another model's.

        Args:
            mean: nats per token.

        Raises:
            UserError: they are.
        """
        # A nucleus has larger probabilities than the whole distribution.
        limit = self.settings.agreement.max_difference - math.log(self._top_p)
        if self.lag == 0 and mean > limit:
            raise UserError(
                f"{self._server.url}: the log-probabilities of its completions differ from the policy's by {mean:.3f} nats per token "
                f"(generator.max_difference allows {self.settings.agreement.max_difference:g}), though both have the same adapter: see "
                "that the server has the base model of backbone.path in a similar precision, and --logprobs-mode processed_logprobs"
            )

    def _push(self) -> _Version:
        """The version of the policy as it is now; it goes to the server unless it is there already."""
        if self._versions and self._versions[-1].updates == self.updates:
            return self._versions[-1]
        name = f"{self._label}-{self.updates:06d}"
        path = self.folder / name
        with atomic_folder(path) as temporary:
            write_joint_adapter(self.policy, temporary)
        version = _Version(name, self.updates, path)
        self._known[name] = version.updates
        self._load(version)
        for older in self._versions:
            self._server.unload(older.name)
            shutil.rmtree(older.path, ignore_errors=True)
        self._versions = [version]
        return version

    def _load(self, version: _Version) -> None:
        self._server.load(version.name, self.settings.as_seen(version.path))

    def _draw(self, asked: _Asked, version: _Version) -> list[Drawn]:
        """Completions of each prompt, in order; many requests are under way at once."""

        def one(prompt: list[int], seed: int) -> Drawn:
            try:
                return self._server.draw(version.name, prompt, asked.group_size, asked.wanted, seed)
            except NoSuchModel:
                # The server was started again. It gets the adapter once more.
                log.warning("%s has lost the adapter %s: it gets it again", self._server.url, version.name)
                self._load(version)
            try:
                return self._server.draw(version.name, prompt, asked.group_size, asked.wanted, seed)
            except NoSuchModel as error:
                raise UserError(
                    f"{error}, which it loaded a moment ago: see that one server alone answers there"
                ) from error

        futures = [
            self._pool.submit(one, prompt, seed)
            for prompt, seed in zip(asked.prompts, asked.seeds, strict=True)
        ]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _lag_of(self, model: str) -> int:
        if model not in self._known:
            raise UserError(
                f"{self._server.url} answers as {model}, and was asked for {self._versions[-1].name}: another model stands behind "
                "generator.base_url, or something between changes the requests"
            )
        lag = self.updates - self._known[model]
        if lag > self.allowed:
            raise UserError(
                f"{self._server.url} answers with a stale adapter: {model} is {lag} updates behind the policy, and generator.max_lag="
                f"{self.settings.agreement.max_lag} allows {self.allowed}"
            )
        return lag

    def _drop_ahead(self) -> None:
        """Wait for what nobody will use, so that its adapter can go."""
        if self._ahead is not None:
            future, self._ahead = self._ahead[1], None
            future.exception()


def _asked(
    prompts: list[list[int]], wanted: Wanted, group_size: int, generators: Sequence[torch.Generator]
) -> _Asked:
    seeds = [int(torch.randint(2**31 - 1, (), generator=one)) for one in generators]
    prompts = [[*prompt, *wanted.opening] for prompt in prompts]
    return _Asked(prompts, wanted, group_size, seeds)
