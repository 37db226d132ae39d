"""Who may ask the page's server anything: requests of other sites, hostile paths, bodies without end, what is left behind."""

import io
import re
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="the page needs pixeltrail[app]")
pytest.importorskip("httpx", reason="the page's tests need httpx")

import httpx
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

import pixeltrail.app
from pixeltrail.app import runs
from pixeltrail.app.address import require_safe
from pixeltrail.cli import main
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter
from pixeltrail.errors import InputError
from served import Served

STATIC = Path(pixeltrail.app.__file__).parent / "static"
TOKEN = "0123456789abcdef0123456789abcdef"
SECRET = b"nobody may read this"


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    with VideoWriter(path, 10, (32, 48)) as out:
        for frame in render(0, frames=3, size=(32, 48), objects=1).frames:
            out.write(frame)
    return path


@pytest.fixture(scope="module", params=["", TOKEN], ids=["no token", "token"])
def served(request, video, tmp_path_factory):
    """One server for all requests of the matrix: none of them may change it."""
    root = tmp_path_factory.mktemp("root")
    (root / "work").mkdir()
    (root / "work-sibling").mkdir()
    for place in (root / "secret.txt", root / "work-sibling" / "secret.txt"):
        place.write_bytes(SECRET)
    with Served(root / "work", video, token=request.param) as server:
        server.client.headers.update(bearer(request.param))
        server.put_mask(0, np.ones((32, 48), np.uint8))
        exports = server.projects[0].folder / "exports"
        exports.mkdir()
        (exports / "link.json").symlink_to(root / "secret.txt")
        yield server


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def routes(server: Served) -> list[tuple[str, str, bytes]]:
    ours = server.url()
    mask = runs.encode(np.zeros((32, 48), np.uint8))
    return [
        ("GET", "/", b""), ("GET", "/page.js", b""), ("GET", "/api/state", b""), ("GET", "/api/formats", b""),
        ("GET", ours, b""),
        ("GET", f"{ours}/frames/0.jpg", b""), ("GET", f"{ours}/thumbs/0.jpg", b""), ("GET", f"{ours}/masks/0", b""),
        ("GET", f"{ours}/heat/0?x=1&y=1&reference=0", b""), ("GET", f"{ours}/views/pca/0", b""),
        ("GET", f"{ours}/views/trip/0", b""),
        ("GET", f"{ours}/carried/0?reference=0&weights=standard&quality=fast", b""),
        ("GET", f"{ours}/exports/a.json", b""), ("PUT", f"{ours}/masks/0", mask),
        ("PUT", f"{ours}/import/0?name=a.png", b"x"), ("POST", f"{ours}/runs/{'0' * 32}/swap", b""),
        ("PUT", f"{ours}/objects", b"[]"),
        ("PUT", f"{ours}/points", b"[]"), ("POST", f"{ours}/fill/0", b'{"x": 1, "y": 1}'),
        ("POST", f"{ours}/jobs", b'{"kind": "masks"}'), ("POST", f"{ours}/jobs/{'0' * 32}/cancel", b""),
        ("PUT", "/api/upload?name=a.mp4", b"x"),
    ]  # fmt: skip


def hostile(server: Served) -> list[dict[str, str]]:
    """Headers of requests that other sites' pages, rebound names and strangers make."""
    port = server.guard.port
    ours = {"host": f"127.0.0.1:{port}", "origin": server.address, "x-pixeltrail": "1"}
    ours |= bearer(server.guard.token)
    hosts = [
        "evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", f"localhost.evil.example:{port}",
        f"127.0.0.1:{port}@evil.example", "", f"10.0.0.7:{port}", f"127.0.0.1:{port + 1}", f"127.1:{port}", f"[::]:{port}",
    ]  # fmt: skip
    origins = [
        "null", "http://evil.example", f"http://evil.example:{port}", f"http://127.0.0.1:{port}.evil.example",
        f"http://127.0.0.1:{port + 1}", "http://127.0.0.1", f"http://localhost:{port}", f"file://127.0.0.1:{port}", "",
    ]  # fmt: skip
    found = [{**ours, "host": host} for host in hosts]
    found += [
        {**ours, "host": host, "origin": f"http://{host}"} for host in hosts[:3]
    ]  # a rebound page is its own origin
    found += [{**ours, "origin": origin} for origin in origins]
    found += [{**ours, "sec-fetch-site": site} for site in ("cross-site", "same-site", "nonsense")]
    if server.guard.token:
        for given in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}0", f"Basic {TOKEN}", "Bearer " + "0" * 32):
            found.append({**ours, "authorization": given})
        for cookie in ("pixeltrail=", "pixeltrail=wrong", f"other={TOKEN}"):
            found.append({**ours, "authorization": "", "cookie": cookie})
    return found


def packed(name: str) -> bytes:
    """A ZIP archive whose only file has this name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"{}")
    return out.getvalue()


def state(server: Served) -> object:
    files = {p: p.stat().st_mtime_ns for p in server.workspace.root.rglob("*") if p.is_file()}
    return files, server.client.get(server.url()).json()


def test_no_other_site_and_no_stranger_reads_or_changes_anything(served):
    before, asked = state(served), 0
    with httpx.Client(base_url=served.address, trust_env=False) as client:
        for headers in hostile(served):
            for method, path, body in routes(served):
                answer = client.request(method, path, headers=headers, content=body)
                assert answer.status_code in (400, 401, 403), (headers, method, path, answer.status_code)
                assert len(answer.content) < 100  # a sentence
                asked += 1
        for method, path, body in routes(
            served
        ):  # a form of another site: no Origin in old browsers, and no header of ours
            if method != "GET":
                kind = {"content-type": "application/x-www-form-urlencoded"}
                assert client.request(method, path, headers=kind, content=body).status_code in (401, 403)
                asked += 1
    assert asked >= 480
    assert state(served) == before


def test_websockets_say_where_they_come_from(served):
    address = served.address.replace("http", "ws") + served.url("/events")
    own = bearer(served.guard.token)
    wrong = ["http://evil.example", "null", f"http://127.0.0.1:{served.guard.port + 1}", None]

    def opened(address: str, origin: str | None, headers: dict[str, str]) -> int:
        try:
            with connect(address, origin=origin, additional_headers=headers, proxy=None):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    for origin in wrong:
        assert opened(address, origin, own) == 403
    if served.guard.token:
        assert opened(address, served.address, {}) == 403
    assert opened(address.replace(served.projects[0].id, "0" * 32), served.address, own) == 403
    assert opened(address, served.address, own) == 101


pieces = st.sampled_from(
    ["..", ".", "/", "\\", "%2e", "%2E%2e", "%252e%252e", "%2f", "%5c", "%00", "secret.txt", "work-sibling", "::$DATA",
     "project.json", "PROJECT.JSON", "etc", "passwd", "C:", "link.json", "masks", "00000.png", "~", "%c0%ae", "\u2024", "?", "#"]
)  # fmt: skip


@given(parts=st.lists(pieces, min_size=1, max_size=8), place=st.integers(0, 4))
@example(parts=["link.json"], place=0)
@example(parts=["..", "/", "project.json"], place=0)
@example(parts=["%2e%2e", "%2f", "project.json"], place=0)
@example(parts=["..", "/", "..", "/", "..", "/", "secret.txt"], place=2)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_out_of_the_workspace(served, parts, place):
    base = [served.url("/exports/"), served.url("/frames/"), "/", "/api/projects/", served.url("/masks/")][place]
    try:
        answer = served.client.get(base + "".join(parts))
    except (httpx.InvalidURL, httpx.RemoteProtocolError):
        return
    assert SECRET not in answer.content
    assert b"fingerprint" not in answer.content
    assert b"root:" not in answer.content


def test_uploads_name_no_place_and_end_at_the_limit(video, tmp_path):
    with Served(tmp_path / "work", upload_bytes=100_000) as server:
        for name in (
            "../../out.mp4",
            "/etc/out.mp4",
            "..\\..\\out.mp4",
            "out.mp4/../../x.mp4",
            "a\x00.mp4",
            ".mp4",
            "a",
        ):
            server.client.put("/api/upload", params={"name": name}, content=video.read_bytes())
        made = [p for p in tmp_path.rglob("*") if p.is_file()]
        assert made
        assert all((tmp_path / "work").resolve() in p.resolve().parents for p in made)

        def endless():
            for _ in range(400):
                yield b"0" * 10_000

        before = sorted(server.workspace.root.rglob("*"))
        answer = server.client.put("/api/upload?name=a.mp4", content=b"0" * 100_001)
        assert answer.status_code == 413
        assert "pixeltrail app VIDEO" in answer.text
        with suppress(httpx.TransportError):  # cut off while it was still being sent
            assert server.client.put("/api/upload?name=a.mp4", content=endless()).status_code == 413
        time.sleep(0.2)
        assert sorted(server.workspace.root.rglob("*")) == before


def test_imports_end_at_a_limit_of_their_own(video, tmp_path):
    with Served(tmp_path / "work", video, import_bytes=100_000) as server:
        before = sorted(server.workspace.root.rglob("*"))

        def parts():  # of no announced length
            yield from [b"0" * 50_000] * 4

        for content in (b"0" * 100_001, parts()):
            answer = server.client.put(server.url("/import/0?name=a.zip"), content=content)
            assert answer.status_code == 413
            assert "split" in answer.text
        assert server.client.get("/api/state").json()["importBytes"] == 100_000
        assert sorted(server.workspace.root.rglob("*")) == before


def test_hostile_bodies_are_refused_in_one_line(served):
    ours = served.url()
    before = state(served)
    for method, path, body in (
        ("PUT", "/masks/0", b"\xff" * 64), ("PUT", "/masks/0", b""), ("PUT", "/masks/99", b"x"), ("PUT", "/masks/-1", b"x"),
        ("PUT", "/masks/0", runs.encode(np.full((32, 48), 9, np.uint8))), ("PUT", "/objects", b"[[[["),
        ("PUT", "/objects", b'[{"id": 0, "name": "", "color": "#ffffff"}]'),
        ("PUT", "/objects", b'[{"id": 1, "name": "", "color": "url(http://evil.example)"}]'),
        ("PUT", "/points", b'[{"id": 1, "name": "", "keys": {"0": [1e9, 0]}}]'),
        ("PUT", "/points", b'[{"id": 1, "name": "", "keys": {"0": ["nan", 0]}}]'),
        ("POST", "/jobs", b'{"kind": "masks", "begin": 0, "end": 999999}'), ("POST", "/jobs", b'{"kind": "rm -rf"}'),
        ("POST", "/jobs", b'{"kind": "export", "format": "../../x"}'),
        ("POST", "/jobs", b'{"kind": "masks", "method": "/etc/passwd"}'), ("PUT", "/import/0?name=x.py", b"x"),
        ("PUT", "/import/0?name=../../x.png", b"x"), ("PUT", "/import/0?name=x.zip", b"PK"), ("PUT", "/import/0", b"x"),
        *(("PUT", "/import/0?name=x.zip", packed(name)) for name in ("../x.json", "/etc/x.json", "a/../../b.png", "C:x.png")),
        ("PUT", "/import/99?name=x.csv", b"x,y\n1,a"), ("POST", "/runs/x/swap", b""), ("GET", "/views/rm/0", b""),
        ("GET", "/carried/0?reference=0&weights=/etc/passwd&quality=fast", b""),
        ("GET", "/heat/0?x=1&y=1&reference=99999999999999999999", b""),
    ):  # fmt: skip
        answer = served.client.request(method, ours + path, content=body)
        assert answer.status_code in (400, 422), (path, body, answer.text)
        assert "Traceback" not in answer.text
        assert str(served.workspace.root) not in answer.text
    assert state(served) == before


def test_answers_carry_the_headers_that_keep_a_browser_safe(served):
    answer = served.client.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in served.client.get("/api/state").headers


def test_a_token_becomes_a_cookie_at_once(video, tmp_path):
    with Served(tmp_path / "work", video, token=TOKEN) as server, httpx.Client(trust_env=False) as client:
        assert client.get(f"{server.address}/?token=wrong").status_code == 401
        assert client.get(f"{server.address}/api/state?token={TOKEN}").status_code == 401
        answer = client.get(f"{server.address}/?token={TOKEN}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get(f"{server.address}/api/state").status_code == 200


def test_other_hosts_need_a_token_that_cannot_be_guessed(tmp_path, capsys):
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org"):
        with pytest.raises(InputError, match="--token"):
            require_safe(host, "")
        require_safe(host, TOKEN)
    for token in ("short", "a" * 21, "ä" * 30, "with space and more than enough"):
        with pytest.raises(InputError):
            require_safe("127.0.0.1", token)
    assert main(["app", "--host", "0.0.0.0", "--workspace", str(tmp_path / "w"), "--no-browser"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --host 0.0.0.0")
    assert error.count("\n") == 1
    assert not (tmp_path / "w").exists()


def test_it_listens_on_this_machine_only_and_calls_nobody(video, tmp_path):
    """The command itself: where it listens, that it makes no connection, that it ends when it is told to."""
    code = (
        "import sys\n"
        "def hook(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo') and args[-1] is not None:\n"
        "        print('CONNECT', event, args, flush=True)\n"
        "sys.addaudithook(hook)\n"
        "from pixeltrail.cli import main\n"
        f"sys.exit(main(['app', {str(video)!r}, '--port', '0', '--no-browser', '--workspace', {str(tmp_path / 'w')!r}]))"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            (project,) = client.get("/api/state").json()["projects"]
            assert client.get(f"/api/projects/{project['id']}/frames/2.jpg").status_code == 200
        rows = [r.split() for f in ("tcp", "tcp6") for r in Path(f"/proc/net/{f}").read_text().splitlines()[1:]]
        listening = {r[1] for r in rows if r[3] == "0A" and r[1].endswith(f":{port:04X}")}
        assert listening == {f"0100007F:{port:04X}"}
        with socket.socket() as second:
            second.settimeout(5)
            second.connect(("127.0.0.1", port))
    finally:
        server.terminate()
        out, error = server.communicate(timeout=60)
    assert server.returncode == 0, error
    assert error == ""
    assert "CONNECT" not in out


def test_the_page_asks_nothing_of_other_machines():
    for file in STATIC.iterdir():
        found = set(re.findall(rb"(?:https?:)?//[a-z0-9-]+\.[a-z]{2,}[^\s\"'`]*", file.read_bytes()))
        assert {f for f in found if not f.startswith(b"http://www.w3.org/")} == set(), file.name
    assert sum(file.stat().st_size for file in STATIC.iterdir()) < 200_000
