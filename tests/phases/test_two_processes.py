"""The same work in one process and in two real ones over gloo, in double precision, where only rounding could differ."""

from __future__ import annotations

import copy
import multiprocessing
import os
import socket

import lightning
import numpy as np
import pytest
import torch

from mllmrec.engine.plain import Plain
from mllmrec.engine.shared_prefix import SharedPrefix
from mllmrec.errors import UserError
from mllmrec.evaluation.evaluate import evaluate
from mllmrec.evaluation.ranking import Likelihood
from mllmrec.evaluation.records import read_stage, write_stage
from mllmrec.phases.base import Learner, OptimizerSettings
from mllmrec.phases.dpo import Dpo
from mllmrec.phases.pointwise import Pointwise
from mllmrec.phases.sft import Sft
from mllmrec.phases.trainers import check_same, dividing, trainer_of
from mllmrec.phases.warmup import Warmup
from mllmrec.prompts.questions import Questions, load_question_wording
from mllmrec.ranks import Ranks, apart, the_ranks
from mllmrec.rewards.base import TextReward
from mllmrec.rl.advantages import GroupRelative
from mllmrec.rollout.free import Free
from mllmrec.run.checkpoints import Checkpoints, Schedule
from mllmrec.run.folder import RunFolder
from mllmrec.run.progress import SavedProgress, Steps
from mllmrec.store.plain import plain, restored


@pytest.fixture
def in_two(tmp_path):
    """``in_two(work)`` forks two processes that train together; what ``work`` returns in each."""
    context = multiprocessing.get_context("fork")

    def begin(work, rank, port):
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NODE_RANK="0", WORLD_SIZE="2")
        os.environ["LOCAL_RANK"] = str(rank)
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
        torch.save(work(), tmp_path / f"{rank}.pt")
        torch.distributed.barrier()

    def run(work):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        processes = [context.Process(target=begin, args=(work, rank, port)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        return [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]

    return run


class Letters(TextReward):
    """Differs between any two texts, whatever the policy says."""

    parts = ()
    bounds = (0.0, 1.0)

    def judge(self, completion, question):
        return {"reward": sum(map(ord, completion)) % 7 / 7}


@pytest.fixture
def double(tiny):
    """The tiny policy in double precision."""
    tiny.policy.model.double()
    return tiny


@pytest.fixture
def phases(double, make_examples, make_grpo):
    """Phases by name, with the batches of their steps; sizes are odd, so that shares differ."""
    policy, answers = double.policy, double.answers
    examples = make_examples(double.builder)
    three = [[examples[index] for index in step] for step in ((0, 1, 2), (3, 4, 5))]
    setting = OptimizerSettings(1e-3, "constant")
    sequences = [np.arange(length) for length in (6, 3, 5)]

    def grpo(steps=three, **settings):
        return lambda: (make_grpo(steps=2, learning_rate=1e-3, reward=Letters(), **settings), steps)

    def of(kind, *given, engine=None, **settings):
        def make():
            policy.begin_phase(kind.name)
            learner = Learner(policy, engine or SharedPrefix(), 2)
            return kind(learner, *given, setting, 2, **settings), three

        return make

    return {
        "two updates and a reference": grpo(iterations=2, beta=0.1),
        "standard deviation of the batch": grpo(advantage=GroupRelative("batch"), engine=Plain()),
        "mean of each micro-batch": grpo(aggregation="micro_batch_mean"),
        "free text": grpo(rollout=Free(max_new_tokens=6)),
        "a group for one process only": grpo([[examples[0]], [examples[3]]]),
        "grpo, divided": grpo(iterations=2, beta=0.1, engine=Plain()),
        "grpo, divided, in single precision": grpo(engine=Plain()),
        "sft, divided": of(Sft, answers, engine=Plain()),
        "sft": of(Sft, answers),
        "candidates": of(Sft, answers, loss_on="candidates"),
        "dpo": of(Dpo, answers, negatives=2, beta=0.5),
        "pointwise": of(
            Pointwise, Questions(double.builder, load_question_wording("compact"), 2), negatives=2
        ),
        "warm-up with dropout": lambda: (
            Warmup(policy.model, answers.first_tokens(), setting, 2, dropout=0.3),
            [sequences, sequences[:1]],
        ),
    }


class Saved(SavedProgress):
    """What a checkpoint holds of a module, without a job around it."""

    def state_dict(self):
        return super().state_dict() | {"module": plain(self.module.progress())}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.module.take_up(restored(state["module"]))


def trained(make, policy, folder, devices, strategy="ddp", checkpoints=None):
    """The numbers of every update, the weights, and how many prompts were read; goes on from a checkpoint."""
    torch.manual_seed(0)
    module, steps = make()
    rows = []
    module.log_step = rows.append
    settings = {"accelerator": "cpu", "precision": "32-true", "devices": devices, "log_every_n_steps": 1}
    settings["strategy"] = strategy
    quiet = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "use_distributed_sampler": False}
    progress = Saved("phase", Checkpoints(checkpoints or folder / "none"), Schedule(None, steps=1))
    progress.module, progress.saves = module, checkpoints is not None
    numbered = Steps([[step] for step in range(len(steps))], progress)
    loader = torch.utils.data.DataLoader(steps, batch_sampler=numbered, collate_fn=lambda step: list(step[0]))
    with dividing(settings, policy, module) as own:
        quiet["callbacks"] = [progress]
        trainer: lightning.Trainer = trainer_of(settings, RunFolder(folder), strategy=own, **quiet)
        progress.fit(trainer, module, loader)
    check_same(module)
    weights = {name: weight.detach().clone() for name, weight in module.model.named_parameters()}
    return rows, weights, policy.prompts_read


NAMES = [
    *(
        "two updates and a reference",
        "standard deviation of the batch",
        "mean of each micro-batch",
        "free text",
    ),
    *("a group for one process only", "sft", "candidates", "dpo", "pointwise", "warm-up with dropout"),
    *("grpo, divided", "grpo, divided, in single precision", "sft, divided"),
]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_learn_what_one_does(phases, double, in_two, tmp_path, name):
    close = 1e-6
    if "single" in name:
        double.policy.model.float()
        close = 2e-3  # twice the learning rate: Adam moves a weight whose gradient is rounding as far as any other
    begun = {key: weight.detach().clone() for key, weight in double.policy.model.named_parameters()}
    strategy = "fsdp2" if "divided" in name else "ddp"
    both = in_two(lambda: trained(phases[name], double.policy, tmp_path / str(the_ranks().rank), 2, strategy))
    rows, weights, read = trained(phases[name], double.policy, tmp_path, 1)
    assert max(float((weights[key] - begun[key]).abs().max()) for key in begun) > 1e-4
    assert len(rows) >= 2
    for its_rows, its_weights, its_read in both:
        assert its_read == read
        assert [row.keys() for row in its_rows] == [row.keys() for row in rows]
        for own, other in zip(rows, its_rows, strict=True):
            assert other == pytest.approx(own, rel=close, abs=close)
        assert max(float((its_weights[key] - weights[key]).abs().max()) for key in weights) < close


@pytest.mark.parametrize("name", ["two updates and a reference", "sft"])
def test_deepspeed_learns_what_ddp_does(phases, double, in_two, tmp_path, name):
    pytest.importorskip("deepspeed", reason="pip install deepspeed")
    double.policy.model.float()  # DeepSpeed has no other precision
    rows, weights, read = in_two(lambda: trained(phases[name], double.policy, tmp_path / "ddp", 2))[0]
    for its_rows, its_weights, its_read in in_two(
        lambda: trained(phases[name], double.policy, tmp_path / "deepspeed", 2, "deepspeed")
    ):
        assert its_read == read
        for own, other in zip(rows, its_rows, strict=True):
            assert other == pytest.approx(own, rel=1e-6, abs=1e-6)
        assert max(float((its_weights[key] - weights[key]).abs().max()) for key in weights) < 1e-6


@pytest.mark.parametrize(("one", "other"), [("fsdp2", 1), ("fsdp2", 2), ("deepspeed", 1), ("deepspeed", 2)])
def test_any_number_of_processes_goes_on_from_a_checkpoint(phases, double, in_two, tmp_path, one, other):
    if one == "deepspeed":
        pytest.importorskip("deepspeed", reason="pip install deepspeed")
        double.policy.model.float()
    make, policy, folder = phases["grpo, divided"], double.policy, tmp_path / "checkpoints"
    begun = copy.deepcopy(policy.model.state_dict())

    def train(processes):
        def work():
            return trained(make, policy, tmp_path / str(the_ranks().rank), processes, one, folder)

        policy.model.load_state_dict(begun)  # the reference
        return in_two(work) if processes == 2 else [work()]

    rows, weights, _ = train(3 - other)[0]
    assert {path.name for path in folder.iterdir()} == {"step-000000001.ckpt", "step-000000001.json"}
    for its_rows, its_weights, _ in train(other):
        assert len(its_rows) == 2  # of the second step
        for own, its in zip(rows[2:], its_rows, strict=True):
            assert its == pytest.approx(own, rel=1e-6, abs=1e-6)
        assert max(float((its_weights[key] - weights[key]).abs().max()) for key in weights) < 1e-6


def test_five_users_are_ranked_once_each(tiny, make_examples, in_two, tmp_path):
    examples = make_examples(tiny.builder, split="test")

    def ranked(path):
        ranker = Likelihood(tiny.policy, tiny.answers, SharedPrefix(), 0)
        with write_stage(path, "sft", keep_top=2) as writer:
            result = evaluate(examples, ranker, [[4, 0], [2, 3], [1]], writer)
        return result.ranks.tolist(), result.validity, list(read_stage(path, "sft").user_ids)

    both = in_two(lambda: ranked(tmp_path / f"{the_ranks().rank}.parquet"))
    alone = ranked(tmp_path / "alone.parquet")
    assert alone[2] == ["u4", "u0", "u2", "u3", "u1"]
    assert both == [alone, alone]


def test_a_fault_of_one_process_is_raised_in_both(in_two):
    def fails_in_the_second():
        ranks = the_ranks()

        def find():
            if ranks.rank == 1:
                raise UserError("too long")
            return ranks.rank

        with pytest.raises(UserError, match="too long"):
            ranks.each(find)
        return ranks.each(lambda: ranks.rank)

    assert in_two(fails_in_the_second) == [[0, 1], [0, 1]]


def test_gradients_are_summed_and_none_stays_none(in_two):
    def summed():
        rank = the_ranks().rank
        weights = [torch.zeros(2), torch.zeros(1), torch.zeros(1)]
        weights[0].grad = torch.tensor([1.0, 2.0]) * (rank + 1)
        if rank == 1:
            weights[1].grad = torch.ones(1)
        the_ranks().sum_gradients(weights)
        with apart():
            assert not the_ranks().several
        return [None if weight.grad is None else weight.grad.tolist() for weight in weights]

    assert in_two(summed) == [[[3.0, 6.0], [1.0], None]] * 2


def test_shares_are_whole_and_differ_by_one():
    shares = [list(range(5))[Ranks(rank, 3).share(5)] for rank in range(3)]
    assert shares == [[0], [1, 2], [3, 4]]
