"""``python -m mllmrec.serve run=DIR port=8000``: rankings of a finished run over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllmrec.stopping import stoppable

if TYPE_CHECKING:
    from omegaconf import DictConfig


def serve(cfg: DictConfig) -> None:
    """Answer requests until a signal comes.

    Raises:
        UserError: FastAPI or uvicorn is missing, the run cannot be opened, or the address is taken.
    """
    from omegaconf import OmegaConf

    from mllmrec.config import check_config
    from mllmrec.config.trust import trusted
    from mllmrec.errors.extras import extra
    from mllmrec.jobs.finished_run import settings_of_run

    check_config(cfg)
    with extra("serve", "the service needs"):
        from mllmrec.serving import server
    settings_of_run(cfg.run, trusted(cfg.trust))
    server.warn_if_open(cfg.host, server.read_token())
    settings = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(settings, dict)
    with server.listening_socket(cfg.host, cfg.port) as bound:
        if cfg.workers > 1:
            print(f"{cfg.workers} processes will serve {cfg.run} at {server.address(bound)}", flush=True)
            server.serve_in_workers(settings, bound, cfg.workers)  # type: ignore[arg-type]
            return
        app = server.build_app(settings)  # type: ignore[arg-type]
        bound.listen()
        print(f"{cfg.run} is served at {server.address(bound)}; its page is /docs", flush=True)
        server.serve_alone(app, bound)


def main() -> None:
    """Entry point."""
    with stoppable("mllmrec.serve"):
        from mllmrec.cli import run_app

        run_app(serve, "serve")


if __name__ == "__main__":
    main()
