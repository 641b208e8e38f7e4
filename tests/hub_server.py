"""A small Hub on loopback that speaks the protocol of huggingface_hub's client, with faults.

Weights are redirected to a second server of another origin, as the real Hub does with its store of
large files. Only what the client asks for here is served; every request is kept for the tests.
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"
LARGE = ".safetensors"


@dataclass
class Fault:
    """What goes wrong with requests for a file.

    Attributes:
        file: Name of the file, in whose resolving or transfer it happens.
        method: ``HEAD``, ``GET`` or ``*``.
        times: How often.
        status: Answer with this status instead.
        headers: Headers that are added or replace the right ones.
        body: Function from the right bytes to those that are sent.
        cut: Close the connection after so many bytes.
        wait: Seconds to wait before each tenth of the body.
        gate: Stop in the middle of the body until this is set; ``reached`` is set there.
    """

    file: str
    method: str = "GET"
    times: int = 1
    status: int | None = None
    headers: dict = field(default_factory=dict)
    body: object = None
    cut: int | None = None
    wait: float = 0.0
    gate: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Request:
    """A request that came: method, path, range and whether it brought a token."""

    method: str
    path: str
    range: str | None
    token: bool
    store: bool


class Hub:
    """The two servers and what they hold.

    Attributes:
        url: Endpoint, for ``HF_ENDPOINT``.
        requests: What was asked for, in order.
        faults: What is to go wrong, taken in order.
    """

    def __init__(self):
        self.commits = {}
        self.branches = {}
        self.blobs = {}
        self.requests = []
        self.faults = []
        self.lock = threading.Lock()
        self.servers = [self._serve(_Pages), self._serve(_Store)]
        self.url, self.store_url = (
            f"http://127.0.0.1:{server.server_address[1]}" for server in self.servers
        )

    def _serve(self, handler):
        kind = type(handler.__name__, (handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def publish(self, repo, files, branch="main"):
        """Puts files (name to bytes) into a new commit; returns its digest."""
        with self.lock:
            parent = self.branches.get((repo, branch), "")
            known = self.commits.get((repo, parent), {})
            content = {**known, **files}
            facts = repr([repo, parent, sorted((n, _sha256(b)) for n, b in content.items())])
            commit = hashlib.sha1(facts.encode()).hexdigest()
            self.commits[repo, commit] = content
            self.branches[repo, branch] = commit
            return commit

    def find(self, repo, revision):
        commit = self.branches.get((repo, revision), revision)
        return commit, self.commits.get((repo, commit))

    def fault(self, file, method):
        with self.lock:
            for fault in self.faults:
                if fault.file == file and fault.method in (method, "*") and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None


def _sha256(content):
    return hashlib.sha256(content).hexdigest()


def _git_digest(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    store = False

    def log_message(self, *args):
        pass

    def note(self):
        range_, token = self.headers.get("Range"), "authorization" in self.headers
        self.hub.requests.append(Request(self.command, self.path, range_, token, self.store))

    def answer(self, status=200, headers=(), body=b"", fault=None):
        """Sends an answer, or what a fault makes of it."""
        headers = dict(headers)
        if fault is not None:
            headers |= fault.headers
            if fault.body is not None:
                body = fault.body(body)
            if fault.status is not None:
                status, body = fault.status, b""
        head = self.command == "HEAD"
        length = headers.pop("Content-Length", str(len(body)))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": length}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.send_body(body, fault)

    def send_body(self, body, fault):
        try:
            if fault is not None and fault.gate is not None:
                self.wfile.write(body[: len(body) // 2])
                self.wfile.flush()
                fault.reached.set()
                fault.gate.wait(60)
                body = body[len(body) // 2 :]
            if fault is not None and fault.cut is not None:
                self.wfile.write(body[: fault.cut])
                self.wfile.flush()
                self.close_connection = True
                return
            step = max(1, len(body) // 10) if fault is not None and fault.wait else len(body) or 1
            for start in range(0, len(body), step):
                if fault is not None:
                    time.sleep(fault.wait)
                self.wfile.write(body[start : start + step])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def received(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def json(self, content, status=200, **headers):
        body = json.dumps(content).encode()
        self.answer(status, {"Content-Type": "application/json", **headers}, body)


class _Pages(_Handler):
    """The Hub itself: files by name and revision, and the API that uploads use."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.note()
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(.+)/([^/]+)", path):
            return self.resolve(*found.groups())
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            commit, files = self.hub.find(found[1], found[2] or "main")
            if files is not None:
                return self.json({"id": found[1], "sha": commit, "siblings": []})
        return self.json({"error": "not found"}, 404, **{"X-Error-Code": "RepoNotFound"})

    def resolve(self, repo, revision, file):
        fault = self.hub.fault(file, self.command)
        if fault is not None and fault.status is not None:
            return self.answer(fault.status, fault.headers)
        if all(known != repo for known, _ in self.hub.branches):
            # The Hub does not tell whether a repository is private or missing.
            return self.json({}, 401, **{"X-Error-Code": "RepoNotFound"})
        commit, files = self.hub.find(repo, revision)
        if files is None:
            return self.json({}, 404, **{"X-Error-Code": "RevisionNotFound"})
        if file not in files:
            wrong = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            return self.json({}, 404, **wrong)
        content = files[file]
        headers = {"X-Repo-Commit": commit}
        if not file.endswith(LARGE):
            headers["ETag"] = f'"{_git_digest(content)}"'
            return self.answer(200, headers, content, fault)
        digest = _sha256(content)
        self.hub.blobs[digest] = (file, content)
        headers |= {
            "X-Linked-ETag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.hub.store_url}/{digest}",
        }
        return self.answer(302, headers, fault=fault if self.command == "HEAD" else None)

    def do_POST(self):
        self.note()
        content, path = self.received(), urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return self.json({"error": "who are you?"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(content)
            repo = f"{asked['organization']}/{asked['name']}"
            if (repo, "main") in self.hub.branches:
                return self.json({"url": f"{self.hub.url}/{repo}"}, 409)
            self.hub.publish(repo, {".gitattributes": b""})
            return self.json({"url": f"{self.hub.url}/{repo}"})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/(.+)", path):
            return getattr(self, found[2])(found[1], content)
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            for entry in objects:
                href = f"{self.hub.store_url}/{entry['oid']}"
                entry["actions"] = {"upload": {"href": href}}
            return self.json({"transfer": "basic", "objects": objects})
        return self.json({"error": "not found"}, 404)

    def preupload(self, repo, content):
        files = [entry["path"] for entry in json.loads(content)["files"]]
        modes = {True: "lfs", False: "regular"}
        return self.json(
            {
                "files": [
                    {"path": path, "uploadMode": modes[path.endswith(LARGE)], "shouldIgnore": False}
                    for path in files
                ]
            }
        )

    def commit(self, repo, content):
        files = {}
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]][1]
        commit = self.hub.publish(repo, files)
        return self.json(
            {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit}
        )


class _Store(_Handler):
    """The store of large files, by digest, with ranges."""

    store = True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.note()
        file, content = self.hub.blobs[self.path.strip("/")]
        fault = self.hub.fault(file, self.command)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted is None:
            return self.answer(200, {}, content, fault)
        start = int(wanted[1])
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self.answer(206, {"Content-Range": where}, content[start:], fault)

    def do_PUT(self):
        self.note()
        content = self.received()
        self.hub.blobs[self.path.strip("/")] = ("model.safetensors", content)
        self.answer(200)
