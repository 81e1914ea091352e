"""A small stand-in for the Weights & Biases service on loopback: what wandb 0.31 asks of it, and no more."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "0123456789abcdef0123456789abcdef01234567"  # forty characters, as a real key has


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that was killed is no news."""


class WandbStub:
    """Answers on 127.0.0.1 until stop(); rows: every history row that arrived, in order; uploads: names of files put.

    refuse: answer 401, as to a bad key. mute: an event; while it is set, requests are taken and never answered.
    resumed: what the service knows of a run that goes on, {"historyLineCount": ..., "summaryMetrics": JSON, ...}.
    """

    def __init__(self, *, refuse: bool = False, resumed: dict | None = None):
        self.refuse, self.resumed = refuse, resumed
        self.mute, self.stopped = threading.Event(), threading.Event()
        self.rows: list[dict] = []
        self.uploads: dict[str, bytes] = {}
        self.operations: list[str] = []
        self.runs: list[dict] = []
        self.complete = False
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                stub.answer(self, self.read())

            def do_PUT(self):
                stub.uploads[self.path.removeprefix("/upload/")] = self.read()
                self.reply(200, b"{}")

            do_GET = do_POST

            def read(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def reply(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Ends the service; its port refuses from now on."""
        if not self.stopped.is_set():
            self.stopped.set()
            self.server.shutdown()
            self.server.server_close()

    def answer(self, handler, body: bytes) -> None:
        while self.mute.is_set() and not self.stopped.wait(0.05):
            pass
        if self.stopped.is_set():
            return handler.connection.close()
        if self.refuse:
            return handler.reply(401, b'{"errors":[{"message":"user is not logged in"}]}')
        if handler.path.startswith("/graphql"):
            asked = json.loads(body)
            answer = {"data": self.answer_query(asked["query"], asked.get("variables") or {})}
        else:
            answer = self.answer_stream(json.loads(body)) if handler.path.endswith("/file_stream") else {}
        return handler.reply(200, json.dumps(answer).encode())

    def answer_query(self, query: str, variables: dict) -> dict:
        operation = query.split("(")[0].split("{")[0].split()[-1]
        self.operations.append(operation)
        project = {"id": "p", "name": "ganinv", "entity": {"id": "e", "name": "somebody"}}
        given = variables.get("input") or {}
        if operation == "UpsertBucket":
            self.runs.append(variables)
            name = variables.get("name") or "nameless"
            bucket = {"id": "r", "name": name, "displayName": name, "config": variables.get("config"), "project": project}
            lines = (self.resumed or {}).get("historyLineCount", 0)
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": lines}, "inserted": self.resumed is None}}
        if operation == "RunResumeStatus":
            bucket = None
            if self.resumed is not None:
                empty = {"historyTail": "[]", "eventsTail": "[]", "config": "{}", "tags": [], "wandbConfig": '{"t": 1}'}
                counts = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": 0, "summaryMetrics": "{}"}
                bucket = {"id": "r", "name": variables["name"], **empty, **counts, **self.resumed}
            return {"model": project | {"bucket": bucket}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":
            artifact = {"id": "a", "digest": given["digest"], "state": "PENDING", "artifactSequence": {"id": "s"}}
            return {"createArtifact": {"artifact": artifact}}
        if operation == "CreateArtifactManifest":
            name = variables.get("name", "manifest")
            file = {"id": "f", "uploadUrl": f"{self.url}/upload/{name}", "uploadHeaders": []}
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if operation == "CreateArtifactFiles":
            names = [spec["name"] for spec in given["artifactFiles"]]
            common = {"artifact": {"id": "a"}, "uploadHeaders": [], "uploadMultipartUrls": None}
            nodes = [{"storagePath": name, "uploadUrl": f"{self.url}/upload/artifact/{name}"} | common for name in names]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if operation == "ArtifactType":  # of an artifact of this name, which there is not
            return {"project": None}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        viewer = {"id": "u", "entity": "somebody", "username": "somebody", "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"features": []}}

    def answer_stream(self, sent: dict) -> dict:
        for file, part in sent.get("files", {}).items():
            if file == "wandb-history.jsonl":
                self.rows += [json.loads(line) for line in part["content"]]
        self.complete = self.complete or bool(sent.get("complete"))
        return {"exitcode": None, "limits": {}}
