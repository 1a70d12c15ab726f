"""``python -m mllmrec.evaluate run=DIR``: ranks with a finished run's policy again, under another protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mllmrec.evaluation.protocol import Protocol
    from mllmrec.evaluation.ranking import Ranker

SAME = "same"


def evaluate(cfg: DictConfig) -> float:
    """Evaluate and print; return the NDCG at the second cut-off (or the only one)."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf, open_dict

    from mllmrec.cache import atomic_path, fingerprint
    from mllmrec.config import check_config
    from mllmrec.config.trust import trusted
    from mllmrec.errors import UserError
    from mllmrec.evaluation.protocols import Protocols, beside_protocol, main_protocol
    from mllmrec.inference.base import described, inference_of
    from mllmrec.jobs.beside import rank_baselines
    from mllmrec.jobs.finished_run import FinishedRun, open_run, settings_of_run
    from mllmrec.jobs.results_tables import print_results, ranking_cost_line
    from mllmrec.run.cost import CostMeter
    from mllmrec.run.folder import RunFolder
    from mllmrec.run.job_folder import JobFolder, alone_in, refuse_finished
    from mllmrec.run.settings import read_settings
    from mllmrec.screen.console import make_console

    folder = RunFolder(HydraConfig.get().runtime.output_dir)
    if folder.path.samefile(RunFolder.of_finished_run(cfg.run).path):
        raise UserError(
            f"hydra.run.dir={cfg.run} is the run itself: choose another folder for its evaluation"
        )
    console = make_console()
    with alone_in(folder):
        refuse_finished(folder, cfg.overwrite)
        job = JobFolder(folder, cfg)
        with job.working():
            changed = {key: value for key, value in cfg.eval.items() if value != SAME}
            part = OmegaConf.to_container(cfg.inference, resolve=True) if cfg.get("inference") else None

            def asked(trained: DictConfig) -> DictConfig:
                if part is not None:
                    with open_dict(trained):
                        trained.inference = part  # as a whole: keys of the run's own part would not fit
                merged = OmegaConf.merge(trained, {"eval": changed})
                assert isinstance(merged, DictConfig)
                return merged

            trust = trusted(cfg.trust)
            settings = asked(settings_of_run(cfg.run, trust))
            OmegaConf.update(settings, "trainer.accelerator", "auto", force_add=True)
            check_config(settings)  # before the model and the data are loaded
            run = open_run(cfg.run, cfg.stage, trust=trust)
            judged = (settings.eval, settings.candidates.weighting, settings.protocol_seed, run.prepared)
            protocols = Protocols(main_protocol(*judged), beside_protocol(*judged), folder)
            trained = read_settings(RunFolder(cfg.run).resolved_config_path)
            job.begin()
            with atomic_path(folder.evaluated_config_path) as temporary:
                OmegaConf.save(OmegaConf.merge(asked(trained), {"stage": run.stage}), temporary)
            protocols.describe(run.ranking, described(settings.get("inference")))
            inference = inference_of(settings)

            def ranker(protocol: Protocol) -> Ranker:
                if isinstance(run, FinishedRun):
                    return run.ranker(protocol, inference=inference)
                return run.ranker(protocol)

            rank_baselines(settings, run.prepared, protocols)
            with CostMeter() as meter:
                result = protocols.record(run.stage, ranker)
                ranked = protocols.results[run.stage]  # under every protocol, as the seconds are
                meter.generated_tokens = sum(one.generated_tokens for one in ranked)
            rankings = sum(len(one.ranks) for one in ranked)
            folder.record_cost(run.stage, {**meter.cost(), "rankings": rankings})
            measures = protocols.main.measures_faithfulness and not inference.draws
            if isinstance(run, FinishedRun) and measures:
                protocols.record_faithfulness(run.stage, lambda shown: run.ranker(protocols.main, shown))
            objective = protocols.main.objective(result.means(protocols.main.ks))
        folder.finish(fingerprint(OmegaConf.to_container(settings, resolve=True)), objective)
    for place in protocols:
        print_results(place.folder.metrics(), console)
    console.print(ranking_cost_line(folder.metrics()["cost"][run.stage]), highlight=False)
    console.print(f"written to {folder.path}", highlight=False)
    return objective


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.evaluate"):
        from mllmrec.cli import run_app

        run_app(evaluate, "evaluate")


if __name__ == "__main__":
    main()
