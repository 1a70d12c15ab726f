"""Checks for authors of parts, one line each, in the manner of scikit-learn's ``check_estimator``.

    from mllmrec.testing import check_reward

    def test_my_reward():
        check_reward(MyReward())

Each check calls the part on toy batches and raises an `AssertionError` that says what the part does wrong. The parts of
mllmrec pass the same checks, and a job makes them before it reads any data.
"""

from mllmrec.testing.advantages import check_advantage
from mllmrec.testing.data import check_captioner, check_dataset
from mllmrec.testing.inference import check_inference
from mllmrec.testing.losses import check_loss, check_regularizer
from mllmrec.testing.rewards import check_reward, check_shaper
from mllmrec.testing.rollouts import check_rollout
from mllmrec.testing.samplers import check_sampler
from mllmrec.testing.toys import toy_batch, toy_items, toy_speaker

__all__ = [
    "check_advantage",
    "check_captioner",
    "check_dataset",
    "check_inference",
    "check_loss",
    "check_regularizer",
    "check_reward",
    "check_rollout",
    "check_sampler",
    "check_shaper",
    "toy_batch",
    "toy_items",
    "toy_speaker",
]
