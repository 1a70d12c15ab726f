"""A server on loopback that speaks vLLM's protocol around a tiny transformers model and real PEFT adapters.

Fields, error bodies and defaults are those of vLLM 0.32 (``CompletionRequest``, ``OpenAIServingModels``). A test may give it a
`plan` of faults.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

FIELDS = {
    *("model", "prompt", "n", "logprobs", "max_tokens", "temperature", "top_p", "seed", "stop"),
    *("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *(
        "stop_token_ids",
        "ignore_eos",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "return_token_ids",
    ),
}


class LoopbackVllm(ThreadingHTTPServer):
    """Serves the model in a folder under the folder's name.

    ``plan(path, body)`` names a fault for a request, or None: 500, hang up, silence, fewer, no ids, as another, or an adapter's
    name, in whose place the base model then answers. ``calls`` holds every path with its body.
    """

    daemon_threads = True

    def __init__(
        self,
        folder: str,
        *,
        updating: bool = True,
        processed: bool = True,
        max_lora_rank: int = 64,
        max_model_len: int = 512,
        delay: float = 0.0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = Path(folder).name
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.updating, self.processed = updating, processed
        self.max_lora_rank, self.max_model_len, self.delay = max_lora_rank, max_model_len, delay
        self.adapters: dict[str, str] = {}  # name → folder
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.plan: Callable[[str, dict[str, Any]], str | None] = lambda path, body: None
        self.lock = threading.Lock()  # of the model
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Say nothing about clients that went away."""

    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    def loaded(self) -> list[str]:
        """Names of the adapters that were loaded, in order."""
        return [body["lora_name"] for path, body in self.calls if path == "/v1/load_lora_adapter"]

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/health":
            return 200, ""
        if path != "/v1/models":
            return 404, {"detail": "Not Found"}
        cards = [{"id": self.name, "parent": None, "root": self.name, "max_model_len": self.max_model_len}]
        cards += [{"id": name, "parent": self.name, "root": path} for name, path in self.adapters.items()]
        return 200, {"object": "list", "data": cards}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/tokenize":
            tokens = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])
            return 200, {"tokens": tokens["input_ids"], "count": len(tokens["input_ids"])}
        if path == "/v1/completions":
            return self.complete(body)
        if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter") and self.updating:
            return self.load(body) if path == "/v1/load_lora_adapter" else self.unload(body)
        return 404, {"detail": "Not Found"}

    def load(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, path = body["lora_name"], Path(body["lora_path"])
        if name in self.adapters:
            return _error(400, "InvalidUserInput", f"The lora adapter '{name}' has already been loaded.")
        if not (path / "adapter_config.json").is_file():
            return _error(404, "NotFoundError", f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > self.max_lora_rank:
            words = f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}."
            return _error(500, "InternalServerError", words)
        with self.lock:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(str(path), adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, str(path), adapter_name=name)
            self.model.eval()
            self.adapters[name] = str(path)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["lora_name"]
        if name not in self.adapters:
            return _error(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        with self.lock:
            del self.adapters[name]
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def complete(self, body: dict[str, Any], fault: str | None = None) -> tuple[int, Any]:
        assert set(body) <= FIELDS, set(body) - FIELDS
        (prompt,) = body["prompt"]
        if body["model"] != self.name and body["model"] not in self.adapters:
            return _error(404, "NotFoundError", f"The model `{body['model']}` does not exist.")
        if len(prompt) > self.max_model_len:
            return _error(400, "BadRequestError", f"The prompt has {len(prompt)} tokens, too many.")
        limit = min(body["max_tokens"], self.max_model_len - len(prompt))
        count = body["n"] - (1 if fault == "fewer" else 0)
        answers = "mllmrec-another" if fault == "as another" else body["model"]
        used = answers
        if fault in self.adapters or fault == self.name:
            answers, used = (fault, fault) if fault != self.name else (body["model"], self.name)
        time.sleep(self.delay)
        with self.lock:
            rows = self.draw(used, prompt, count, limit, body)
        choices = [
            {
                "index": index,
                "text": self.tokenizer.decode(ids),
                "logprobs": {
                    "token_logprobs": values,
                    "tokens": self.tokenizer.convert_ids_to_tokens(ids),
                    "text_offset": [0] * len(ids),
                    "top_logprobs": [None] * len(ids),
                },
                "finish_reason": finish,
                **({} if fault == "no ids" else {"token_ids": ids, "prompt_token_ids": prompt}),
            }
            for index, (ids, values, finish) in enumerate(rows)
        ]
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 0, "total_tokens": len(prompt)}
        return 200, {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 0,
            "model": answers,
            "choices": choices,
            "usage": usage,
        }

    @torch.no_grad()
    def draw(
        self, model: str, prompt: list[int], count: int, limit: int, body: dict[str, Any]
    ) -> list[tuple[list[int], list[float], str]]:
        """Token ids, log-probabilities and finish reason of each completion."""
        if count == 0:
            return []
        plain = isinstance(self.model, PeftModel) and model not in self.adapters
        if not plain and isinstance(self.model, PeftModel):
            self.model.set_adapter(model)
        generators = [torch.Generator().manual_seed(body["seed"] + index) for index in range(count)]
        rows: list[tuple[list[int], list[float], str]] = [([], [], "length") for _ in range(count)]
        ids, cache, alive = torch.tensor([prompt] * count), None, list(range(count))
        with self.model.disable_adapter() if plain else nullcontext():
            for _ in range(limit):
                out = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                logits, drawn = out.logits[:, -1], []
                for row in range(count):
                    token, value = self.token(logits[row], generators[row], body)
                    drawn.append(token)
                    if row not in alive:
                        continue
                    rows[row][0].append(token)
                    rows[row][1].append(value)
                    told = body.get("stop") and any(
                        text in self.tokenizer.decode(rows[row][0]) for text in body["stop"]
                    )
                    if told or token in body["stop_token_ids"]:
                        rows[row] = (*rows[row][:2], "stop")
                        alive.remove(row)
                if not alive:
                    break
                ids = torch.tensor(drawn)[:, None]
        return rows

    def token(
        self, logits: torch.Tensor, generator: torch.Generator, body: dict[str, Any]
    ) -> tuple[int, float]:
        raw = logits.log_softmax(-1)
        if body["temperature"] == 0:
            token = int(logits.argmax())
            return token, float(raw[token])
        own = (logits / body["temperature"]).softmax(-1)
        ordered, order = own.sort(descending=True, stable=True)
        outside = torch.zeros_like(own, dtype=torch.bool)
        outside[order] = ordered.cumsum(0) - ordered >= body["top_p"]
        own = own.masked_fill(outside, 0.0)
        own = own / own.sum()
        token = int(torch.multinomial(own, 1, generator=generator))
        return token, float(own[token].log() if self.processed else raw[token])


def _error(status: int, kind: str, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: LoopbackVllm

    def do_GET(self) -> None:
        self.reply(*self.server.get(self.path))

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.calls.append((self.path, body))
        fault = server.plan(self.path, body)
        if fault == "500":
            self.reply(*_error(500, "InternalServerError", "the engine is gone"))
        elif fault == "hang up":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        elif fault == "silence":
            self.connection.settimeout(4.0)  # a client that gives up ends the wait
            with suppress(OSError):
                self.connection.recv(1)
            self.close_connection = True
        elif self.path == "/v1/completions":
            self.reply(*server.complete(body, fault))
        else:
            self.reply(*server.post(self.path, body))

    def reply(self, status: int, body: Any) -> None:
        plain = isinstance(body, str)
        sent = body.encode() if plain else json.dumps(body).encode()
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        return
