"""What is fetched from a hub: of a repository what its use needs, of one with GGUF files the one that is named."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "c" * 40
FILES = {
    "config.json": b"{}",
    "README.md": b"# Skiff",
    "model.safetensors": b"weights",
    "consolidated.safetensors": b"the same weights",
    "pytorch_model.bin": b"pickled",
    "modeling_skiff.py": b"raise SystemExit",
    "onnx/model.onnx": b"graph",
    "onnx/model.onnx_data": b"weights of the graph",
    "onnx/model_q4.onnx": b"smaller graph",
    "onnx/model_fp16.onnx": b"another graph",
    "skiff.Q4_K_M.gguf": b"GGUF 4",
    "skiff.Q8_0.gguf": b"GGUF 8",
}


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks: which commit there is, which files, and for one of them."""

    def do_GET(self, *, whole=True):
        if self.path.startswith("/api/models/rowing/skiff/revision/"):
            siblings = [{"rfilename": name} for name in FILES]
            self._answer(json.dumps({"id": "rowing/skiff", "sha": COMMIT, "siblings": siblings}).encode())
            return
        if self.path.startswith("/api/models/rowing/skiff/tree/"):
            tree = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": COMMIT} for name in FILES]
            self._answer(json.dumps(tree).encode())
            return
        _, _, name = self.path.partition("/rowing/skiff/resolve/")
        content = FILES.get(name.partition("/")[2])
        if content is not None:
            self._answer(content, whole=whole)
            return
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound" if name else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self):
        self.do_GET(whole=False)

    def _answer(self, content, *, whole=True):
        self.send_response(200)
        for name, value in {
            "Content-Length": str(len(content)),
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if whole:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def asked(address, tmp_path):
    """What a line of Python prints, in a process that asks that hub, and the files that it fetched."""

    def ask(line):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", line], env=environment, capture_output=True, text=True, check=False
        )
        snapshot = tmp_path / "hub" / "models--rowing--skiff" / "snapshots" / COMMIT
        fetched = {path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file()}
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1], fetched

    return ask


def test_what_running_needs(asked):
    shown, fetched = asked("from wherry.hub import resolve; print(resolve('rowing/skiff').name)")
    assert shown == COMMIT
    assert fetched == {"config.json", "README.md", *(name for name in FILES if name.startswith("onnx/"))}


@pytest.mark.parametrize(
    ("precision", "graphs"),
    [(None, {"onnx/model.onnx", "onnx/model.onnx_data"}), ("q4", {"onnx/model_q4.onnx"})],
)
def test_what_one_precision_needs(precision, graphs, asked, monkeypatch):
    line = "from wherry.models import open_model; print(*open_model('rowing/skiff', precision={!r}).variants)"
    shown, fetched = asked(line.format(precision))
    assert shown == ("int4" if precision else "fp32")
    assert fetched == {"config.json", "README.md"} | graphs
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert asked(line.format(precision)) == (shown, fetched)


def test_what_a_manifest_says_is_needed(asked, monkeypatch):
    def variant(name):
        return {
            "graphs": {"model": name},
            "files": {name: {"sha256": "", "bytes": 5}},
            "opset": 20,
            "parity": {},
            "speed": 1,
        }

    variants = {"int4": variant("onnx/model_q4.onnx"), "fp16": variant("onnx/model_fp16.onnx")}
    shared = {"config.json": {"sha256": "", "bytes": 2}}
    told = {"schema": 1, "task": None, "variants": variants, "files": shared, "provenance": {}, "padding_side": None}
    monkeypatch.setitem(FILES, "wherry.json", json.dumps(told).encode())
    shown, fetched = asked("from wherry.models import open_model; print(*open_model('rowing/skiff').variants)")
    assert shown == "int4 fp16"
    assert fetched == {"config.json", "README.md", "wherry.json", "onnx/model_q4.onnx"}


def test_a_precision_that_a_repository_lacks(asked):
    shown, _ = asked("from wherry.models import open_model; open_model('rowing/skiff', precision='int8')")
    assert shown.endswith("has no precision 'int8': it has fp32, fp16, int4")


@pytest.mark.parametrize("trusted", [False, True])
def test_what_exporting_needs(trusted, asked):
    shown, fetched = asked(f"from wherry_exporter.load import load; load('rowing/skiff', trust_remote_code={trusted})")
    assert "has no model_type" in shown
    code = {"modeling_skiff.py"} if trusted else set()
    assert fetched == {"config.json", "README.md", "model.safetensors"} | code


def test_one_gguf_file(asked):
    line = "from wherry.hub import resolve; print(resolve('rowing/skiff/skiff.Q4_K_M.gguf').read_text())"
    assert asked(line) == ("GGUF 4", {"skiff.Q4_K_M.gguf"})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rowing/skiff/other.gguf", "the repository 'rowing/skiff' of the hub has no file 'other.gguf'"),
        ("rowing/punt", "no folder 'rowing/punt' here and no repository of that id on the hub"),
        ("rowing/skiff/config.json", "no such file or folder: rowing/skiff/config.json"),
    ],
)
def test_what_is_not_there(name, reason, asked):
    shown, fetched = asked(f"from wherry.hub import resolve; resolve({name!r})")
    assert shown == f"wherry.errors.HubError: {reason}"
    assert not fetched
