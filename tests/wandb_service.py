"""As much of the W&B service as its client needs to track a run, on loopback, and its moods: well, broken, silent."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WELL, BROKEN, SILENT = "well", "broken", "silent"


class Service(ThreadingHTTPServer):
    """Answers the client's GraphQL questions and keeps what is uploaded.

    Attributes:
        mood: of the next answers: WELL, BROKEN (500 for everything) or SILENT (no answer while it lasts).
        summaries: what arrived as the runs' summaries, by run.
        refused: how many requests met a bad mood.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.mood, self.summaries, self.refused = WELL, {}, 0
        self.better = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_fault):
        self.better.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that goes away in the midst of an answer is what these tests are about."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_words):
        pass

    def handle_one(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.mood != WELL:
            self.server.refused += 1
        if self.server.mood == SILENT:
            self.server.better.wait(60)
        if self.server.mood == BROKEN:
            return self.reply({"errors": [{"message": "out of order"}]}, 500)
        if self.path == "/graphql":
            return self.reply({"data": self.asked(json.loads(body))})
        if self.path.endswith("/file_stream"):
            [run] = re.findall(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
            for name, part in (json.loads(body).get("files") or {}).items():
                if name == "wandb-summary.json":
                    self.server.summaries.setdefault(run, {}).update(json.loads(part["content"][-1]))
        return self.reply({})

    do_GET = do_POST = do_PUT = handle_one

    def asked(self, question):
        """The parts of the client's questions that it cannot do without."""
        text, given = question["query"], question.get("variables") or {}
        said = {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if "upsertBucket" in text:
            project = {"id": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": given.get("name"), "displayName": given.get("displayName"), "project": project}
            said["upsertBucket"] = {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}
        if "artifact(name" in text:
            said["project"] = {"artifact": None}
        if "createArtifact(" in text:
            made = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}
            said["createArtifact"] = {"artifact": made}  # as if its files were there already
        if "createRunFiles" in text:
            places = [{"name": name, "uploadUrl": f"{self.server.url}/up/{name}"} for name in given["files"]]
            said["createRunFiles"] = {"runID": given["run"], "uploadHeaders": [], "files": places}
        return said

    def reply(self, content, code=200):
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
