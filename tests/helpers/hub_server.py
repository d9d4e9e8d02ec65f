"""A Hub on the loopback interface: the requests that huggingface_hub makes to push and to fetch a model.

It keeps repositories in memory, takes one token, and fails where a test asks for it.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

USER = "tester"
DROP = 0  # the status of a connection that ends without an answer


@dataclass
class Repository:
    """What was pushed: the files of each branch, the bodies of the commits, and whether others may see it."""

    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[str] = field(default_factory=list)


class HubServer:
    """The server, in a thread of its own; a context manager.

    Attributes:
        token: the one that may write.
        repositories: by their full names.
        received: address and body of all requests.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.received: list[bytes] = []
        self.stored: dict[str, bytes] = {}  # large files by their sha256
        self._failures: list[tuple[str, int]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail_once(self, path: str, status: int) -> None:
        """Answer the next request whose path contains `path` with this status, or with nothing if it is DROP."""
        self._failures.append((path, status))

    def failure(self, path: str) -> int | None:
        """The status to fail this request with, if it is to fail."""
        for failure in self._failures:
            if failure[0] in path:
                self._failures.remove(failure)
                return failure[1]
        return None

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr, where the tests look for messages."""

    def do_GET(self) -> None:
        """All requests alike."""
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.received.append(self.path.encode() + body)
        status = self.hub.failure(path)
        if status == DROP:
            self.close_connection = True
        elif status is not None:
            self._answer(status, {"error": "failed on purpose"})
        else:
            self._route(path, body)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _route(self, path: str, body: bytes) -> None:
        for methods, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in methods.split():
                if methods == "POST" and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
                    self._answer(401, {"error": "Invalid username or password."})
                else:
                    answer(self, body, *match.groups())
                return
        self._answer(404, {"error": f"no such request: {self.command} {path}"})

    def _answer(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or USER}/{asked['name']}"
        if not name.startswith(f"{USER}/"):
            self._answer(403, {"error": f"You may not create a model under {name}."})
        elif name in self.hub.repositories:
            self._answer(409, {"error": "exists", "url": f"{self.hub.endpoint}/{name}"})
        else:
            self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
            self._answer(200, {"url": f"{self.hub.endpoint}/{name}"})

    def _branch(self, body: bytes, name: str, branch: str) -> None:
        branches = self.hub.repositories[name].branches
        self._answer(409 if branch in branches else 200, {})
        branches.setdefault(branch, dict(branches["main"]))

    def _validate(self, body: bytes) -> None:
        has_metadata = json.loads(body)["content"].startswith("---\n")
        self._answer(200 if has_metadata else 400, {"errors": [], "warnings": []})

    def _preupload(self, body: bytes, name: str, branch: str) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self._answer(200, {"files": files})

    def _batch(self, body: bytes, name: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _store(self, body: bytes, oid: str) -> None:
        right = hashlib.sha256(body).hexdigest() == oid
        if right:
            self.hub.stored[oid] = body
        self._answer(200 if right else 400, {})

    def _commit(self, body: bytes, name: str, branch: str) -> None:
        repository = self.hub.repositories[name]
        files = dict(repository.branches[branch])
        for line in body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            else:
                repository.commits.append(value["summary"])
        repository.branches[branch] = files
        address = f"{self.hub.endpoint}/{name}/commit/{_sha(files)}"
        self._answer(200, {"success": True, "commitOid": _sha(files), "commitUrl": address})

    def _model(self, body: bytes, name: str, branch: str | None = None) -> None:
        if name not in self.hub.repositories:
            self._answer(404, {}, {"X-Error-Code": "RepoNotFound"})
            return
        repository = self.hub.repositories[name]
        files = repository.branches[branch or "main"]
        siblings = [{"rfilename": path} for path in files]
        shown = {"id": name, "sha": _sha(files), "siblings": siblings, "tags": [], "private": repository.private}
        self._answer(200, shown)

    def _tree(self, body: bytes, name: str, branch: str) -> None:
        files = self.hub.repositories[name].branches[branch]
        listed = [{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files.items()]
        self._answer(200, listed)

    def _resolve(self, body: bytes, name: str, branch: str, path: str) -> None:
        repository = self.hub.repositories.get(name)
        branches = repository.branches if repository else {}
        files = next((files for name, files in branches.items() if branch in (name, _sha(files))), {})
        if path in files:
            etag = hashlib.sha256(files[path]).hexdigest()
            self._answer(200, files[path], {"X-Repo-Commit": _sha(files), "ETag": f'"{etag}"'})
        else:
            missing = "EntryNotFound" if repository else "RepoNotFound"
            self._answer(404, {}, {"X-Error-Code": missing, "X-Repo-Commit": _sha(files)})


def _sha(files: dict[str, bytes]) -> str:
    """A commit's name, of 40 digits."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


REPO = r"([\w.-]+/[\w.-]+)"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/repos/create", _Handler._create),
    ("POST", r"/api/validate-yaml", _Handler._validate),
    ("POST", rf"/api/models/{REPO}/branch/(.+)", _Handler._branch),
    ("POST", rf"/api/models/{REPO}/preupload/(.+)", _Handler._preupload),
    ("POST", rf"/api/models/{REPO}/commit/(.+)", _Handler._commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", _Handler._batch),
    ("PUT", r"/lfs/(\w+)", _Handler._store),
    ("GET", rf"/api/models/{REPO}", _Handler._model),
    ("GET", rf"/api/models/{REPO}/revision/(.+)", _Handler._model),
    ("GET", rf"/api/models/{REPO}/tree/([^/]+)", _Handler._tree),
    ("GET HEAD", rf"/{REPO}/resolve/([^/]+)/(.+)", _Handler._resolve),
]
