"""What runs, imports and the command line do to a project, and that it can be taken back."""

import csv
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the page needs pixeltrail[app]")
pytest.importorskip("httpx", reason="the page's tests need httpx")

from pixeltrail.app.workspace import Workspace
from pixeltrail.cli import main
from pixeltrail.data.davis import read_ids
from pixeltrail.demo import write_rendered
from served import Served

SIZE = (72, 96)
FRAMES = 6
FILES = ("project.json", "tracks.json", "points.csv")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with video.mp4 and masks/."""
    out = tmp_path_factory.mktemp("clip")
    write_rendered(out, 3, FRAMES, SIZE, 2)
    return out


@pytest.fixture
def served(clip, tmp_path):
    with Served(tmp_path / "work", clip / "video.mp4") as server:
        yield server


def truth(clip, frame):
    return read_ids(clip / "masks" / f"{frame:05d}.png")


def everything(server):
    """All of a project that is on disk, as bytes, but what is kept for undo and the exports."""
    folder = server.projects[0].folder
    masks = {p.name: p.read_bytes() for p in sorted((folder / "masks").iterdir())}
    return masks, {name: (folder / name).read_bytes() for name in FILES if (folder / name).exists()}


def swap(server, run):
    answer = server.client.post(server.url(f"/runs/{run}/swap"))
    assert answer.status_code == 200, answer.text


def test_runs_are_taken_back_and_done_again(clip, served):
    served.put_mask(0, truth(clip, 0))
    states = [everything(served)]
    ended = []
    for body in ({"begin": 0, "end": 3}, {"begin": 0, "end": 5, "objects": [1], "quality": "balanced"}):
        ended.append(served.job(kind="masks", **{"quality": "fast", **body})[0]["id"])
        states.append(everything(served))
    assert states[0] != states[1] != states[2]
    for run, state in ((1, 1), (0, 0), (0, 1), (1, 2), (1, 1)):
        swap(served, ended[run])
        assert everything(served) == states[state]
    about = served.client.get(served.url()).json()
    assert sorted(map(int, about["tracked"])) == [0, 1, 2, 3]


def test_a_run_of_points_is_taken_back(served):
    body = [{"id": 0, "name": "p", "keys": {0: [20.0, 30.0], 3: [25.0, 31.0]}}]
    assert served.client.put(served.url("/points"), json=body).status_code == 200
    followed = [served.client.get(served.url()).json()["followed"]]
    run = served.job(kind="points", begin=0, end=5, quality="fast")[0]["id"]
    followed.append(served.client.get(served.url()).json()["followed"])
    assert len(followed[1]) == FRAMES
    for state in (0, 1, 0):
        swap(served, run)
        now = {t: row for t, row in served.client.get(served.url()).json()["followed"].items() if row}
        assert now == followed[state]


def test_what_was_before_is_forgotten_with_the_page(clip, tmp_path):
    with Served(tmp_path / "work", clip / "video.mp4") as server:
        server.put_mask(0, truth(clip, 0))
        run = server.job(kind="masks", begin=0, end=2, quality="fast")[0]["id"]
        folder = server.projects[0].folder
        swap(server, run)
        swap(server, run)
        assert (folder / ".undo" / run).is_dir()
        for unknown in ("0" * 32, "../.."):
            assert server.client.post(server.url(f"/runs/{unknown}/swap")).status_code in (400, 404, 405)
    assert not (folder / ".undo").exists()
    assert sorted(p.name for p in (folder / "masks").iterdir()) == ["00000.png", "00001.png", "00002.png"]


HARD = ["davis", "youtubevos", "coco", "mots", "cvat", "csv", "npz"]


@pytest.mark.parametrize("format", HARD)
def test_what_is_exported_can_be_imported_and_taken_back(format, clip, tmp_path, served):
    for t in (0, 2, 3):
        served.put_mask(t, truth(clip, t))
    ended, _ = served.job(kind="export", format=format)
    assert ended["state"] == "done", ended
    exported = served.client.get(served.url(f"/exports/{ended['result']}")).content
    with Served(tmp_path / "other", clip / "video.mp4") as other:
        before = everything(other)
        answer = other.client.put(other.url("/import/1"), params={"name": ended["result"]}, content=exported)
        assert answer.status_code == 200, answer.text
        for t in (0, 2, 3):
            np.testing.assert_array_equal(other.mask(t), truth(clip, t))
        about = other.client.get(other.url()).json()
        assert {0, 2, 3} <= set(about["keys"])
        assert {o["id"] for o in about["objects"]} == {1, 2}
        if format not in ("davis", "mots", "npz"):  # which hold no names
            assert [o["name"] for o in about["objects"]] == ["Thing 1", "Thing 2"]
        swap(other, answer.json()["run"])
        assert everything(other)[0] == before[0]
        assert other.client.get(other.url()).json()["keys"] == []


def test_masks_and_boxes_of_one_picture_go_to_the_frame_that_is_shown(clip, served):
    mask = (clip / "masks" / "00000.png").read_bytes()
    assert served.client.put(served.url("/import/4?name=a.png"), content=mask).json()["frames"] == 1
    np.testing.assert_array_equal(served.mask(4), truth(clip, 0))
    box = {"imageHeight": SIZE[0], "imageWidth": SIZE[1], "imagePath": "a.png", "version": "5.0.0", "flags": {},
           "shapes": [{"label": "cat", "shape_type": "rectangle", "points": [[10, 20], [30, 40]]}]}  # fmt: skip
    answer = served.client.put(served.url("/import/2?name=a.json"), content=json.dumps(box).encode())
    assert answer.status_code == 200, answer.text
    about = served.client.get(served.url()).json()
    assert about["keys"] == [2, 4]
    assert (served.mask(2) > 0).sum() == 20 * 20
    assert (served.mask(2)[20:40, 10:30] > 0).all()


def test_points_are_imported_from_tables_and_from_what_was_tracked(clip, tmp_path, served):
    table = b"x,y,frame,name\n20,30,0,nose\n25.5,31,2,nose\n40,41,1,\n"
    answer = served.client.put(served.url("/import/0?name=points.csv"), content=table)
    assert answer.status_code == 200, answer.text
    about = served.client.get(served.url()).json()
    points = {p["name"]: p["keys"] for p in about["points"]}
    assert points == {"nose": {"0": [20, 30], "2": [25.5, 31]}, "Point 2": {"1": [40, 41]}}
    assert served.job(kind="points", begin=0, end=5, quality="fast")[0]["state"] == "done"
    for format in ("csv", "tapvid", "labelstudio", "cvat", "coco"):
        ended, _ = served.job(kind="export", format=format, what="points")
        if ended["state"] == "failed":
            assert "points" in ended["note"]
            continue
        exported = served.client.get(served.url(f"/exports/{ended['result']}")).content
        with Served(tmp_path / format, clip / "video.mp4") as other:
            answer = other.client.put(other.url("/import/0"), params={"name": ended["result"]}, content=exported)
            assert answer.status_code == 200, (format, answer.text)
            found = other.client.get(other.url()).json()
            assert len(found["points"]) == 2
            number = found["points"][0]["id"]
            x, y, _ = found["followed"]["2"][str(number)]
            assert (x, y) == pytest.approx((25.5, 31), abs=0.6), format


def test_imports_that_do_not_fit_change_nothing(clip, served, tmp_path):
    served.put_mask(0, truth(clip, 0))
    before = everything(served)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", b"{" * 10_000)
    late = "".join(
        f"{t},n{t},object,7,cat,5,5,20,20,,,1,,,96,72,99\n{t},n{t},point,,p,,,,,5,5,1,,,96,72,99\n" for t in (1, 50)
    )
    head = "frame,name,kind,id,label,left,top,right,bottom,x,y,visible,confidence,rle,width,height,frames\n"
    for name, content in (
        ("a.zip", bomb.getvalue()), ("a.zip", b"no archive"), ("a.json", b"[]"), ("a.xml", b"<x/>"), ("a.csv", b"a,b\n1,2\n"),
        ("a.csv", (head + late).encode()), ("a.csv", b"x,y\n500,1\n"), ("a.exe", b"MZ"),
        ("a.png", (clip / "video.mp4").read_bytes()[:5000]),
    ):  # fmt: skip
        answer = served.client.put(served.url("/import/0"), params={"name": name}, content=content)
        assert answer.status_code == 400, (name, answer.text)
        assert "\n" not in answer.json()["error"]
        assert "import-" not in answer.json()["error"]
        assert everything(served)[0] == before[0]
        about = served.client.get(served.url()).json()
        assert (about["keys"], [o["id"] for o in about["objects"]], about["points"]) == ([0], [1, 2], [])
    assert not list(served.projects[0].folder.glob("import-*"))


def test_the_command_line_tracks_in_a_workspace_and_the_page_shows_it(clip, tmp_path, capsys):
    video, work = clip / "video.mp4", tmp_path / "work"
    with Served(work, video) as server:
        server.put_mask(1, truth(clip, 1))
        server.put_mask(4, truth(clip, 4))
    assert main(["track", str(video), "--workspace", str(work), "--quality", "fast"]) == 0
    labels = [f"{clip / 'masks' / '00001.png'}@1", f"{clip / 'masks' / '00004.png'}@4"]
    given = ["--labels", labels[0], "--labels", labels[1], "--no-overlay"]
    assert main(["track", str(video), *given, "--quality", "fast", "--out", str(tmp_path / "out")]) == 0
    for t in range(1, FRAMES):
        ours = (work / "video" / "masks" / f"{t:05d}.png").read_bytes()
        assert ours == (tmp_path / "out" / "masks" / f"{t:05d}.png").read_bytes(), t
    with Served(work, video) as server:
        about = server.client.get(server.url()).json()
        assert about["keys"] == [1, 4]
        assert [o["name"] for o in about["objects"]] == ["Thing 1", "Thing 2"]
        assert sorted(map(int, about["tracked"])) == list(range(1, FRAMES))
        np.testing.assert_array_equal(server.mask(5), read_ids(tmp_path / "out" / "masks" / "00005.png"))
    capsys.readouterr()


def test_both_ways_from_one_key_frame_is_the_same_in_a_workspace(clip, tmp_path, capsys):
    video, label = clip / "video.mp4", f"{clip / 'masks' / '00004.png'}@4"
    command = ["track", str(video), "--labels", label, "--direction", "both", "--quality", "fast"]
    assert main([*command, "--workspace", str(tmp_path / "work")]) == 0
    assert main([*command, "--out", str(tmp_path / "out"), "--no-overlay"]) == 0
    for t in range(FRAMES):
        ours = (tmp_path / "work" / "video" / "masks" / f"{t:05d}.png").read_bytes()
        assert ours == (tmp_path / "out" / "masks" / f"{t:05d}.png").read_bytes(), t
    capsys.readouterr()


def test_labels_and_points_of_the_command_line_are_on_the_page(clip, tmp_path, capsys):
    video, work, first = clip / "video.mp4", tmp_path / "work", clip / "masks" / "00000.png"
    (tmp_path / "q.csv").write_text("x,y,t,name\n20,30,0,nose\n")
    command = ["track", str(video), "--workspace", str(work), "--quality", "fast"]
    assert main([*command, "--labels", str(first)]) == 0
    assert main([*command, "--points", str(tmp_path / "q.csv")]) == 0
    with open(work / "video" / "points.csv") as file:
        assert len(list(csv.DictReader(file))) == FRAMES
    with Served(work, video) as server:
        about = server.client.get(server.url()).json()
        assert about["keys"] == [0]
        assert about["points"] == [{"id": 0, "name": "nose", "keys": {"0": [20, 30]}}]
        assert len(about["followed"]) == len(about["tracked"]) == FRAMES
    capsys.readouterr()


def test_a_workspace_is_worked_in_by_one_at_a_time(clip, tmp_path, capsys):
    video, work = clip / "video.mp4", tmp_path / "work"
    with Workspace(work).reserved():
        for command in (["track", str(video)], ["app", str(video), "--port", "0", "--no-browser"]):
            assert main([*command, "--workspace", str(work)]) == 2
            assert "in use by another pixeltrail" in capsys.readouterr().err
    for more, said in (
        ([], "no frame is painted"), (["--resume"], "--resume"), (["--out", str(tmp_path / "o")], "give --out FOLDER, or"),
        (["--method", "dis"], "is a flow"),
    ):  # fmt: skip
        assert main(["track", str(video), "--workspace", str(work), *more]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_the_first_frame_needs_neither_torch_nor_fastapi(clip, tmp_path):
    code = (
        "import sys\n"
        "from starlette.testclient import TestClient\n"
        "import pixeltrail.cli.app\n"
        "from pixeltrail.app.server import application\n"
        "from pixeltrail.app.workspace import Workspace\n"
        f"work = Workspace({str(tmp_path / 'work')!r})\n"
        f"number = work.add({str(clip / 'video.mp4')!r}).id\n"
        "client = TestClient(application(work), base_url='http://127.0.0.1:8321')\n"
        "for path in ('', 'api/state', *(f'api/projects/{number}{p}' for p in ('', '/thumbs/0.jpg', '/masks/0'))):\n"
        "    assert client.get(path).status_code == 200, path\n"
        "assert not {'torch', 'cv2', 'scipy', 'fastapi'} & set(sys.modules)\n"
        "assert client.get('api/formats').status_code == 200\n"
        "assert 'fastapi' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
