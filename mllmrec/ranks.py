"""The processes that train one model together, each on a device of its own; usually there is one.

Every process runs the same program on the same data and takes its own part where work is heavy: completions of its share of
the prompts, scores of its share of the rows, its share of the micro-batches, its share of the users to rank. What they find
is gathered at once, so that all go on from the same whole. A statistic over a batch is therefore computed as in one process.

    ranks = the_ranks()
    parts = ranks.each(lambda: complete(prompts[ranks.share(len(prompts))]))  # all parts, in order, in every process
"""

from __future__ import annotations

import io
import pickle
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Found = TypeVar("Found")

_MOST = 1 << 26  # numbers in one message of gradients: 256 MiB in single precision
_apart = 0  # open blocks of `apart`


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. With one process every method returns what it was given."""

    rank: int = 0  # of this process
    size: int = 1  # number of processes

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's share of ``count`` things in order; shares differ by one thing at most, and some may be empty."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def each(self, find: Callable[[], Found]) -> list[Found]:
        """What every process finds, in the order of the processes.

        Tensors come back on the kind of device that they had, without a graph.

        Raises:
            Exception: the first one that a process raised; all processes raise it.
        """
        if not self.several:
            return [find()]
        import torch.distributed as dist

        found: Any = None
        fault: Exception | None = None
        try:
            found = find()
        except Exception as error:
            fault = error
        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, _packed((found, fault)))
        results = [_unpacked(one) for one in told]
        for _, other in results:
            if other is not None:
                raise fault or other
        return [result for result, _ in results]

    def of_leader(self, find: Callable[[], Found]) -> Found:
        """What the process that leads finds; the others do not look.

        Raises:
            Exception: the one that it raised; all processes raise it.
        """
        return self.each(lambda: find() if self.leads else None)[0]  # type: ignore[return-value]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.each(lambda: flag)) if self.several else flag

    def total(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """The sum of each number over the processes; a process that has no such number adds nothing."""
        sums: dict[str, float] = {}
        for part in self.each(lambda: dict(numbers)):
            for name, value in part.items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def sum(self, table: Tensor) -> Tensor:
        """The sum of tensors of the same shape, in place; exact where all but one are zero."""
        if self.several:
            import torch.distributed as dist

            dist.all_reduce(table)
        return table

    def sum_gradients(self, weights: Sequence[Tensor]) -> None:
        """Give every weight the sum of its gradients; one without a gradient in any process stays without.

        Weights that are divided among the processes have it already.

        Args:
            weights: the same ones in every process, in the same order.
        """
        weights = [weight for weight in weights if not hasattr(weight, "full_tensor")]
        if not self.several or not weights:
            return
        import torch

        there = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        there = self.sum(there.to(weights[0].device))
        learning = [weight for weight, count in zip(weights, there.tolist(), strict=True) if count]
        for block in _blocks(learning):
            grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in block]
            flat = self.sum(torch.cat([grad.reshape(-1) for grad in grads]))
            for one, part in zip(block, flat.split([one.numel() for one in block]), strict=True):
                one.grad = part.view_as(one)

    def check_same(self, what: str, numbers: Sequence[float]) -> None:
        """Compare numbers that every process has computed for itself.

        Args:
            what: names them, in the plural.
            numbers: of this process.

        Raises:
            RuntimeError: they are not the same in all processes.
        """
        own = blake2b(array("d", numbers).tobytes()).digest()
        if any(other != own for other in self.each(lambda: own)):
            raise RuntimeError(
                f"the processes of this job have different {what}: a part draws or remembers something else in each of them, "
                "or it is a defect"
            )

    def wait(self) -> None:
        """Wait until every process is here."""
        self.each(lambda: None)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the process that leads go through the block before the others, which then find what it left.

        Raises:
            Exception: the one that the leader raised; all processes raise it.
        """
        if not self.several:
            yield
            return
        if not self.leads:
            self.each(lambda: None)  # of_leader's message
            yield
            return
        try:
            yield
        except Exception as error:
            fault = error
            self.each(lambda: _raise(fault))
        else:
            self.each(lambda: None)


def the_ranks() -> Ranks:
    """The processes of this job, as torch.distributed knows them; one inside a block of `apart`."""
    import sys

    # A command that has not imported it cannot have started it, and importing it takes time.
    dist: Any = sys.modules.get("torch.distributed")
    if _apart or dist is None or not dist.is_available() or not dist.is_initialized():
        return Ranks()
    return Ranks(dist.get_rank(), dist.get_world_size())


@contextmanager
def apart() -> Iterator[None]:
    """In this block the process works by itself, on something that the others do not see."""
    global _apart
    _apart += 1
    try:
        yield
    finally:
        _apart -= 1


def _raise(error: Exception) -> None:
    raise error


def _packed(value: Any) -> bytes:
    """The value as bytes; an exception that cannot be sent is told in words."""
    import torch

    stream = io.BytesIO()
    found, fault = value
    if fault is not None and not _can_be_sent(fault):
        fault = RuntimeError(f"{type(fault).__name__}: {fault}")
    torch.save((found, fault), stream)
    return stream.getvalue()


def _can_be_sent(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _unpacked(content: bytes) -> Any:
    import torch

    def moved(storage: Any, place: str) -> Any:
        return storage if place == "cpu" else storage.cuda(torch.cuda.current_device())

    # Only this job's own processes send.
    return torch.load(io.BytesIO(content), map_location=moved, weights_only=False)


def _blocks(weights: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The weights in order, in lists of one type of numbers and bounded size."""
    block: list[Tensor] = []
    for weight in weights:
        full = sum(one.numel() for one in block) + weight.numel() > _MOST
        if block and (full or block[0].dtype != weight.dtype):
            yield block
            block = []
        block.append(weight)
    if block:
        yield block
