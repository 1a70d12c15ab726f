"""A stand-in for a W&B server on this machine: it answers what wandb's own client asks in an online run, and keeps it.

The server's image cannot be had without a registry of images. The client is the real one, with its real protocol.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "team"


@dataclass
class ServerRun:
    """A run as the server knows it."""

    config: dict[str, Any] = field(default_factory=dict)
    group: str | None = None
    job_type: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    lines: dict[str, dict[int, str]] = field(default_factory=dict)  # file of the stream -> its lines
    exit_code: int | None = None  # None: not closed

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every logged row."""
        return [json.loads(line) for _, line in sorted(self.lines.get("wandb-history.jsonl", {}).items())]

    @property
    def summary(self) -> dict[str, Any]:
        """The last summary."""
        lines = self.lines.get("wandb-summary.json", {})
        return json.loads(lines[max(lines)]) if lines else {}


@dataclass
class Server:
    """What a stand-in was told."""

    url: str = ""
    runs: dict[str, ServerRun] = field(default_factory=dict)  # by id
    files: dict[str, bytes] = field(default_factory=dict)  # path of the upload -> content
    artifacts: list[dict[str, Any]] = field(default_factory=list)  # variables of CreateArtifact
    committed: list[str] = field(default_factory=list)  # ids of artifacts
    views: list[dict[str, Any]] = field(default_factory=list)  # reports
    unknown: list[str] = field(default_factory=list)  # operations without an answer
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL operation."""
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "Viewer": self._viewer,
            "UpsertBucket": self._upsert,
            "RunResumeStatus": self._resume,
            "CreateRunFiles": self._run_files,
            "ArtifactType": lambda given: {"project": {"artifact": None}},
            "CreateArtifact": self._artifact,
            "CreateArtifactManifest": self._manifest,
            "CreateArtifactFiles": self._artifact_files,
            "CommitArtifact": self._commit,
            "GetProjects": self._projects,
            "ProjectInternalId": lambda given: {"project": {"id": "p1", "internalId": "1"}},
            "upsertView": self._view,
        }
        if operation not in answers:
            self.unknown.append(operation)
            return {}
        return answers[operation](given.get("input", given))

    def _viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        flags = json.dumps({"code_saving_enabled": False})
        return {
            "viewer": {
                "id": "1",
                "entity": ENTITY,
                "username": "me",
                "email": None,
                "flags": flags,
                "teams": {"edges": []},
            }
        }

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        new = given["name"] not in self.runs
        run = self.runs.setdefault(given["name"], ServerRun())
        if given.get("config"):
            run.config = {key: one["value"] for key, one in json.loads(given["config"]).items()}
        run.group = given.get("groupName") or run.group
        run.job_type = given.get("jobType") or run.job_type
        run.name = given.get("displayName") or run.name
        run.tags = given.get("tags") or run.tags
        project = {"id": "p1", "name": given["project"], "entity": {"id": "e1", "name": ENTITY}}
        bucket = {
            "id": f"stored-{given['name']}",
            "name": given["name"],
            "displayName": run.name,
            "description": "",
            "config": "{}",
            "sweepName": None,
            "historyLineCount": 0,
            "project": project,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def _resume(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        if run is None:
            return {
                "model": {
                    "id": "p1",
                    "name": given["project"],
                    "entity": {"id": "e1", "name": ENTITY},
                    "bucket": None,
                }
            }
        lines = {
            name: len(run.lines.get(file, {}))
            for name, file in (
                ("history", "wandb-history.jsonl"),
                ("events", "wandb-events.jsonl"),
                ("log", "output.log"),
            )
        }
        last = run.lines.get("wandb-history.jsonl", {})
        bucket = {
            "id": f"stored-{given['name']}",
            "name": given["name"],
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.name,
            "logLineCount": lines["log"],
            "historyLineCount": lines["history"],
            "eventsLineCount": lines["events"],
            "historyTail": json.dumps([last[max(last)]] if last else []),
            "eventsTail": "[]",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "tags": run.tags,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {
            "model": {
                "id": "p1",
                "name": given["project"],
                "entity": {"id": "e1", "name": ENTITY},
                "bucket": bucket,
            }
        }

    def _run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{given['run']}/{name}"} for name in given["files"]
        ]
        return {"createRunFiles": {"runID": f"stored-{given['run']}", "uploadHeaders": [], "files": files}}

    def _artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(given)
        name = f"artifact-{len(self.artifacts)}"
        sequence = {"id": "s1", "latestArtifact": None}
        return {
            "createArtifact": {
                "artifact": {
                    "id": name,
                    "digest": given.get("digest", ""),
                    "state": "PENDING",
                    "aliases": [],
                    "artifactSequence": sequence,
                }
            }
        }

    def _manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        file = {
            "id": "f1",
            "name": given["name"],
            "displayName": given["name"],
            "uploadUrl": f"{self.url}/upload/manifest/{given['artifactID']}",
            "uploadHeaders": [],
        }
        return {
            "createArtifactManifest": {
                "artifactManifest": {"id": f"manifest-{given['artifactID']}", "file": file}
            }
        }

    def _artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = [
            {
                "node": {
                    "id": f"f{number}",
                    "name": one["name"],
                    "displayName": one["name"],
                    "uploadUrl": f"{self.url}/upload/{one['artifactID']}/{one['name']}",
                    "uploadHeaders": [],
                    "storagePath": f"wandb/{one['artifactID']}/{one['name']}",
                    "uploadMultipartUrls": None,
                    "artifact": {"id": one["artifactID"]},
                }
            }
            for number, one in enumerate(given["artifactFiles"])
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _commit(self, given: dict[str, Any]) -> dict[str, Any]:
        self.committed.append(given["artifactID"])
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}

    def _projects(self, given: dict[str, Any]) -> dict[str, Any]:
        project = {
            "id": "p1",
            "name": "mllmrec",
            "entityName": ENTITY,
            "createdAt": "2026-01-31T00:00:00",
            "isBenchmark": False,
            "user": None,
        }
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": project, "cursor": "c"}], "pageInfo": page}}

    def _view(self, given: dict[str, Any]) -> dict[str, Any]:
        self.views.append(given)
        view = {
            "id": "v1",
            "type": given["type"],
            "name": given["name"],
            "displayName": given["displayName"],
            "description": given.get("description") or "",
            "project": {"id": "p1", "name": given["projectName"], "entityName": given["entityName"]},
            "spec": given["spec"],
            "updatedAt": "2026-01-31T00:00:00",
        }
        return {"upsertView": {"view": view, "inserted": True}}

    def stream(self, run_id: str, content: dict[str, Any]) -> None:
        """Take a piece of a run's stream of files."""
        run = self.runs.setdefault(run_id, ServerRun())
        for name, piece in content.get("files", {}).items():
            for number, line in enumerate(piece["content"], piece["offset"]):
                run.lines.setdefault(name, {})[number] = line
        if content.get("complete"):
            run.exit_code = content["exitcode"]


@contextmanager
def serving() -> Iterator[Server]:
    """A server on a free port of this machine, until the block ends."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def _content(self) -> bytes:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

        def _reply(self, content: dict[str, Any]) -> None:
            encoded = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def do_GET(self) -> None:
            self._reply({})

        def do_PUT(self) -> None:
            content = self._content()
            with server.lock:
                server.files[self.path.removeprefix("/upload/")] = content
            self._reply({})

        def do_POST(self) -> None:
            content = self._content()
            with server.lock:
                if self.path == "/graphql":
                    asked = json.loads(content)
                    operation = (
                        asked.get("operationName") or asked["query"].split("(")[0].split("{")[0].split()[-1]
                    )
                    self._reply({"data": server.answer(operation, asked.get("variables") or {})})
                elif self.path.endswith("/file_stream"):
                    server.stream(self.path.split("/")[-2], json.loads(content))
                    self._reply({})
                else:
                    self._reply({})

    class Listener(ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None:
            pass  # a client that was killed

    listener = Listener(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
