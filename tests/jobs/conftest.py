"""Whole jobs on toy data in this process; they are composed, checked and run as on the command line."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from mllmrec.config import CONFIG_DIR, check_config

SMALL = [
    "dataset.num_users=60",
    "dataset.num_items=40",
    "backbone.hidden_size=32",
    "backbone.num_layers=2",
    "backbone.vocabulary=400",
    "warmup.max_steps=3",
]
SHORT = [
    "sft.max_steps=4",
    "grpo.max_steps=3",
    "grpo.prompts_per_step=4",
    "grpo.group_size=4",
    "heldout.users=10",
    "heldout.every=2",
    "eval.resamples=50",
    "eval.weighting=uniform",
    "logger=none",
]

Job = Callable[..., Path]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def job(cache: Path) -> Job:
    """``job(folder, *overrides, small=True)`` runs mllmrec.train into ``folder``."""
    from mllmrec.jobs.main import run

    def run_job(folder: Path, *overrides: str, small: bool = True) -> Path:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            cfg = compose(
                "train",
                overrides=[f"cache_dir={cache}", *(SMALL if small else []), *SHORT, *overrides],
                return_hydra_config=True,
            )
        with open_dict(cfg):
            cfg.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(cfg)
        with open_dict(cfg):
            del cfg["hydra"]
        check_config(cfg)
        run(cfg)
        return folder

    return run_job


class _Making:
    """A pickle of it makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


@pytest.fixture
def payload() -> Callable[[Path], bytes]:
    """``payload(folder)``: what `torch.save` writes of an object that makes a folder when it is read."""

    def written(folder: Path) -> bytes:
        stream = io.BytesIO()
        torch.save({"state_dict": _Making(folder)}, stream)
        return stream.getvalue()

    return written


@pytest.fixture
def overrides(cache: Path) -> list[str]:
    """The overrides of such a job, for a command line."""
    return [f"cache_dir={cache}", *SMALL, *SHORT]


@pytest.fixture
def adapters(checkpoints: Callable[[str], Path]) -> tuple[str, ...]:
    """Overrides of a small job (``small=False``) on a pretrained model with LoRA."""
    return (
        "dataset.num_users=60",
        "dataset.num_items=40",
        "backbone=hf",
        f"backbone.path={checkpoints('qwen3')}",
        "prompt.template=compact",
        "backbone.dtype=float32",
        "backbone.lora.rank=4",
        "sft.batch_size=4",
        "prompt.history_length=2",
        "candidates.num_negatives=2",
        "eval.ks=[1,3]",
        "eval.max_users=10",
    )


@pytest.fixture
def served() -> Iterator[Callable[..., Any]]:
    """``served(run, token=None, local=False, **settings)`` serves a run on a free port: a client, with the application as its ``app``."""
    import httpx
    import uvicorn

    from mllmrec.serving.app import make_app
    from mllmrec.serving.server import address, listening_socket, uvicorn_config
    from mllmrec.serving.settings import Batching, Limits

    with ExitStack() as ends:

        def serve(run: Any, token: str | None = None, local: bool = False, **settings: Any) -> Any:
            limits = {name: settings.pop(name) for name in fields_of(Limits) & set(settings)}
            app = make_app(run, Limits(**limits), Batching(**settings), token=token, local=local)
            bound = ends.enter_context(listening_socket("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn_config(app))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
            bound.listen()
            thread.start()
            ends.callback(thread.join)
            ends.callback(setattr, server, "should_exit", True)
            client = ends.enter_context(httpx.Client(base_url=address(bound), timeout=30))
            client.app = app
            return client

        yield serve


def fields_of(settings: type) -> set[str]:
    return {field.name for field in fields(settings)}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A loopback server that speaks what an upload needs of the Hub's protocol, and what it was sent."""
    import huggingface_hub

    sent: dict[str, Any] = {"paths": [], "files": {}}

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *given):
            pass

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent["paths"].append(self.path)
            if self.path == "/api/repos/create":
                sent["created"] = json.loads(body)
                answer = {"url": f"http://127.0.0.1:{self.server.server_port}/me/model", "id": "1"}
            elif "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(body)["files"]]
                answer = {
                    "files": [
                        {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
                    ]
                }
            elif "/commit/" in self.path:
                lines = [json.loads(line) for line in body.splitlines()]
                sent["files"] = {
                    line["value"]["path"]: line["value"] for line in lines if line["key"] == "file"
                }
                answer = {"commitUrl": "http://127.0.0.1/me/model/commit/1", "commitOid": "1"}
            else:
                answer = {"warnings": [], "errors": []}
            text = json.dumps(answer).encode()
            self.send_response(200 if sent.get("status", 200) == 200 else sent["status"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self):
            sent["paths"].append(self.path)
            text = b'{"id": "me/model", "siblings": []}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    yield sent
    server.shutdown()
    server.server_close()
