"""Where a model comes from. The hub is a server of the test's own on this machine, asked by
huggingface_hub itself in a process of its own, because that reads its settings when imported.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

from spava_app.engine.checkpoints.hub import resolve_model
from spava_app.engine.checkpoints.load import load_model
from spava_app.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = """
import sys
from spava_app.engine.checkpoints import hub
from spava_app.errors import CheckpointError
hub.ANSWER_SECONDS = 1
for model in sys.argv[1:]:
    try:
        print(hub.resolve_model(model))
    except CheckpointError as error:
        print(error)
"""
# How the hub answers about these: status and headers.
TROUBLE = {
    "org/private": (401, {"X-Error-Code": "RepoNotFound"}),
    "org/nowhere": (404, {"X-Error-Code": "RepoNotFound"}),
    "org/token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "org/busy": (503, {}),
}


class HubHandler(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def do_GET(self) -> None:
        """Answer as the hub does; about org/silent it never answers."""
        path = unquote(urlsplit(self.path).path).strip("/").removeprefix("api/models/")
        repo = "/".join(path.split("/")[:2])
        rest = path.removeprefix(repo).strip("/").split("/")
        if repo == "org/silent":
            time.sleep(60)
        elif repo in TROUBLE:
            self.answer(b"", *TROUBLE[repo])
        elif rest[0] == "resolve" and repo == "org/gated":
            self.answer(b"", 403, {"X-Error-Code": "GatedRepo"})
        elif rest[0] == "revision" and rest[1] not in ("main", "v1", COMMIT):
            self.answer(b"", 404, {"X-Error-Code": "RevisionNotFound"})
        elif rest[0] == "tree":
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.files.items()
            ]
            self.answer(json.dumps(tree).encode())
        elif rest[0] == "resolve":
            content = self.files["/".join(rest[2:])]
            etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            self.answer(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(json.dumps({"id": repo, "sha": COMMIT, "siblings": []}).encode())

    do_HEAD = do_GET  # noqa: N815

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send it."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub(checkpoint: Path) -> Iterator[str]:
    """The address of a hub where every model is the checkpoint, among files nobody needs."""
    HubHandler.files = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    for name in (
        "modeling.py",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "onnx/config.json",
    ):
        HubHandler.files[name] = b"not wanted"
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def resolve(
    *models: str, home: Path, endpoint: str = "http://127.0.0.1:9", **environment: str
) -> list[str]:
    """What `resolve_model` gives or says for each, with nothing on stderr and lines on stdout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    kept |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, *models],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(models)
    return lines


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for model in ("org/name", Path("org/name"), "~/org/name", str(tmp_path / "org/name")):
        assert resolve_model(model) == tmp_path / "org" / "name"


@pytest.mark.parametrize(
    ("model", "fix"),
    [
        ("/org/name", "no such folder"),
        ("./name", "no such folder"),
        ("../name", "no such folder"),
        ("~/no such name", "no such folder"),
        ("a/b/c", "no such folder"),
        ("name/", "no such folder"),
        (Path("org/name"), "no such folder"),
        (__file__, "is a file: give the folder"),
        ("qwen", "give embedded, a folder, or a model of the hub like"),
        ("", "give embedded"),
    ],
)
def test_what_is_neither_a_folder_nor_a_name(model: str | Path, fix: str) -> None:
    with pytest.raises(CheckpointError, match=fix):
        resolve_model(model)


def test_download(hub: str, checkpoint: Path, tmp_path: Path) -> None:
    first, second, by_commit = resolve(
        "org/name", "org/name@v1", f"org/name@{COMMIT}", home=tmp_path, endpoint=hub
    )
    assert first == second == by_commit
    assert {file.name for file in Path(first).iterdir()} == {
        file.name for file in checkpoint.iterdir()
    }
    # What was fetched is found again without the hub, whether that is known or found out.
    for settings in ({"HF_HUB_OFFLINE": "1"}, {}):
        assert resolve("org/name", "org/name@v1", home=tmp_path, **settings) == [first, first]


def test_what_the_hub_does_not_give(hub: str, tmp_path: Path) -> None:
    models = ("org/private", "org/nowhere", "org/token", "org/busy", "org/gated", "org/silent")
    lines = resolve(*models, "org/name@v2", "org/x--y", home=tmp_path, endpoint=hub)
    expected = (
        "neither a folder nor on the hub; if it is private there, `hf auth login` first",
        "neither a folder nor on the hub; if it is private there, `hf auth login` first",
        "the hub refuses your token",
        "the hub answers with status 503: try later",
        "is gated: accept its terms on huggingface.co/org/gated",
        "the hub cannot be reached",
        "the hub has no revision v2 of it",
        "neither a folder nor a name that the hub allows",
    )
    for line, part in zip(lines, expected, strict=True):
        assert part in line


def test_cache_made_elsewhere_works_offline(checkpoint: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    found, commit, other, revision = resolve(
        "org/tiny",
        f"org/tiny@{COMMIT}",
        "org/other",
        "org/tiny@v1",
        home=tmp_path,
        HF_HUB_OFFLINE="1",
    )
    assert found == commit == str(snapshot)
    load_model(found)
    assert "the hub cannot be reached (offline, or it is down): download it elsewhere" in other
    assert "cannot be reached" in revision
