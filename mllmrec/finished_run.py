"""A finished run, opened again: its configuration, its data and its policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mllmrec.engine.base import Engine
from mllmrec.errors import UserError, choices
from mllmrec.models.backbones import Backbone
from mllmrec.models.policy import Policy
from mllmrec.prepare import Prepared, prepare
from mllmrec.prompts.answer_tokens import AnswerTokens
from mllmrec.run_folder import RunFolder


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind, ready to rank."""

    cfg: DictConfig
    stage: str
    prepared: Prepared
    policy: Policy
    answers: AnswerTokens
    engine: Engine


def open_run(path: str, stage: str | None, training: bool = False) -> FinishedRun:
    """Open a run after ``stage``; None for its last one.

    Args:
        path: folder of the run.
        stage: trained in the run.
        training: whether its training samples are to carry reasoning, which is written anew where it is missing.

    Raises:
        UserError: no such run or stage, or nothing was trained.
    """
    folder = RunFolder.of_finished_run(path)
    if not folder.resolved_config_path.is_file():
        raise UserError(
            f"{path} has no {folder.resolved_config_path.name}: it was not written by mllmrec.train"
        )
    cfg = OmegaConf.load(folder.resolved_config_path)
    assert isinstance(cfg, DictConfig)
    trained = [name for name in folder.metrics()["stages"] if name != "zero_shot"]
    if not trained:
        raise UserError(f"{path} holds no trained stage")
    stage = stage or trained[-1]
    if stage not in trained:
        raise UserError(f"{path} has no stage {stage}; it has {choices(trained)}")
    policy = load_policy(cfg, folder, trained[: trained.index(stage) + 1])
    if not training:
        cfg.mix_ratio = 0
    prepared = prepare(cfg)
    answers = AnswerTokens(prepared.builder, policy.encode_answers, policy.end_token)
    return FinishedRun(cfg, stage, prepared, policy, answers, instantiate(cfg.engine))


def load_policy(cfg: DictConfig, folder: RunFolder, stages: Sequence[str]) -> Policy:
    """The policy of a run after the last of ``stages``, in evaluation mode.

    Args:
        cfg: of the run.
        folder: of the run.
        stages: trained so far, in order.
    """
    backbone: Backbone = instantiate(cfg.backbone)
    earlier = folder.checkpoints_path / stages[-1]
    weights = earlier if earlier.is_dir() else folder.model_path
    policy = backbone.load(folder.adapters_path, stages, weights)
    policy.model.eval()
    return policy
