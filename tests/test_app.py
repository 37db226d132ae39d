"""The page's server: what it saves is what the command line would have made, and every frame is the one that was meant."""

import csv
import io
import json
import shutil
import sys
import threading
import zipfile

import av
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the page needs pixeltrail[app]")
pytest.importorskip("httpx", reason="the page's tests need httpx")

from pixeltrail.app import runs
from pixeltrail.app.project import Thing
from pixeltrail.app.workspace import Workspace
from pixeltrail.cli import main
from pixeltrail.data.davis import read_ids
from pixeltrail.data.seek import Seeker
from pixeltrail.data.synthetic import render
from pixeltrail.data.video import VideoWriter, open_frames
from pixeltrail.demo import write_rendered
from pixeltrail.errors import InputError
from served import Served, over, told

SIZE = (72, 96)
FRAMES = 9


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


def first_mask(clip):
    return read_ids(clip / "masks" / "00000.png")


def test_masks_equal_those_of_the_command_line_bit_for_bit(clip, tmp_path, served):
    video, first = clip / "video.mp4", clip / "masks" / "00000.png"
    later = read_ids(clip / "masks" / "00005.png")
    served.put_mask(0, read_ids(first))
    served.put_mask(5, later)
    ended, said = served.job(kind="masks", begin=0, end=FRAMES - 1, quality="fast")
    assert ended["state"] == "done", ended
    out = tmp_path / "out"
    labels = ["--labels", str(first), "--labels", f"{clip / 'masks' / '00005.png'}@5"]
    assert main(["track", str(video), *labels, "--out", str(out), "--quality", "fast", "--no-overlay"]) == 0
    export, _ = served.job(kind="export", format="davis")
    archive = zipfile.ZipFile(io.BytesIO(served.client.get(served.url(f"/exports/{export['result']}")).content))
    exported = {name.rsplit("/", 1)[-1]: name for name in archive.namelist() if name.endswith(".png")}
    streamed = {head["frame"]: data for head, data in said if head["type"] == "mask"}
    assert set(streamed) == set(range(FRAMES)) - {0, 5}
    folder = served.workspace.root / "video" / "masks"
    for t in range(FRAMES):
        theirs = out / "masks" / f"{t:05d}.png"
        assert (folder / theirs.name).read_bytes() == theirs.read_bytes()
        page = read_ids(io_file(tmp_path, archive.read(exported[theirs.name])))
        np.testing.assert_array_equal(page, read_ids(theirs))
        np.testing.assert_array_equal(served.mask(t), read_ids(theirs))
        if t in streamed:
            np.testing.assert_array_equal(runs.decode(streamed[t], SIZE), read_ids(theirs))
    ours, cli = (json.loads((f / "tracks.json").read_text())["frames"] for f in (folder.parent, out))
    assert [r["objects"] for r in ours][1:5] == [r["objects"] for r in cli][1:5]


def io_file(folder, data):
    path = folder / "one.png"
    path.write_bytes(data)
    return path


def test_points_equal_those_of_the_command_line(clip, tmp_path, served):
    body = [{"id": i, "name": f"p{i}", "keys": {0: [20.0 + 9 * i, 30.0]}} for i in range(3)]
    assert served.client.put(served.url("/points"), json=body).status_code == 200
    assert served.job(kind="points", begin=0, end=FRAMES - 1, quality="fast")[0]["state"] == "done"
    (tmp_path / "q.csv").write_text("".join(f"{20 + 9 * i},30\n" for i in range(3)))
    query = ["--points", str(tmp_path / "q.csv"), "--quality", "fast", "--no-overlay", "--out", str(tmp_path / "out")]
    assert main(["track", str(clip / "video.mp4"), *query]) == 0
    with open(tmp_path / "out" / "points.csv") as a, open(served.workspace.root / "video" / "points.csv") as b:
        theirs, ours = list(csv.DictReader(a)), list(csv.DictReader(b))
    assert len(theirs) == len(ours) == 3 * FRAMES
    for one, other in zip(theirs, ours, strict=True):
        assert (one["frame"], one["point"]) == (other["frame"], other["point"])
        np.testing.assert_allclose([float(one[k]) for k in "xy"], [float(other[k]) for k in "xy"], atol=2e-3)


def test_correct_on_any_frame_and_go_on_both_ways(clip, served):
    served.put_mask(4, first_mask(clip))
    assert served.job(kind="masks", begin=4, end=6, quality="fast")[0]["state"] == "done"
    assert served.job(kind="masks", begin=4, end=2, quality="fast")[0]["state"] == "done"
    about = served.client.get(served.url()).json()
    assert about["keys"] == [4]
    assert sorted(map(int, about["tracked"])) == [2, 3, 4, 5, 6]
    corrected = np.where(served.mask(5) == 1, 1, 0).astype(np.uint8)  # object 2 is rubbed out on frame 5
    corrected[:8, :8] = 1
    before = served.mask(3)
    assert served.client.put(served.url("/masks/5"), content=runs.encode(corrected)).json()["key"]
    assert served.job(kind="masks", begin=5, end=7, quality="fast")[0]["state"] == "done"
    np.testing.assert_array_equal(served.mask(5), corrected)  # what was painted stays as it is
    np.testing.assert_array_equal(served.mask(3), before)
    assert 2 not in served.mask(7), "an object that was erased on a key frame is gone from there on"
    assert 1 in served.mask(7)


def test_only_chosen_objects_change_and_locked_ones_stay(clip, served):
    served.put_mask(0, first_mask(clip))
    served.job(kind="masks", begin=0, end=2, quality="fast")
    before = served.mask(2)
    moved = np.roll(first_mask(clip), 6, axis=1)
    served.client.put(served.url("/masks/0"), content=runs.encode(moved))
    served.job(kind="masks", begin=0, end=2, quality="fast", objects=[1])
    after = served.mask(2)
    np.testing.assert_array_equal(after == 2, before == 2)
    assert (after == 1).any()
    assert ((after == 1) != (before == 1)).any()


def test_a_job_is_paused_gone_on_with_and_cancelled(clip, served):
    served.put_mask(0, first_mask(clip))
    with served.events() as socket:
        job = served.client.post(
            served.url("/jobs"), json={"kind": "masks", "end": FRAMES - 1, "quality": "best"}
        ).json()
        action = served.url(f"/jobs/{job['id']}")
        while (head := told(socket)[0]).get("done", 0) < 1:
            pass
        assert served.client.post(f"{action}/pause").status_code == 200
        assert served.client.get(served.url()).json()["jobs"][0]["state"] == "paused"
        assert served.client.post(f"{action}/resume").status_code == 200
        assert served.client.post(f"{action}/cancel").status_code == 200
        while not (head["type"] == "job" and over(head)):
            head = told(socket)[0]
    assert head["state"] == "cancelled"
    assert served.client.get(served.url()).json()["jobs"] == []
    assert not list(served.workspace.root.rglob("*.part"))
    assert served.client.post(f"{action}/cancel").status_code == 400


def test_what_was_done_survives_a_crash_and_a_new_start(clip, tmp_path):
    with Served(tmp_path / "work", clip / "video.mp4") as server:
        server.put_mask(0, first_mask(clip))
        server.job(kind="masks", begin=0, end=3, quality="fast")
        about, masks = server.client.get(server.url()).json(), [server.mask(t) for t in range(4)]
        folder = server.projects[0].folder
        (folder / "masks" / "00007.png").write_bytes(
            (folder / "masks" / "00000.png").read_bytes()
        )  # written, not listed
        (folder / "masks" / "00008.png.part").write_bytes(b"half")
        again = Workspace(tmp_path / "work")  # as after kill -9: the first has not been closed
        project = again.add(clip / "video.mp4")
        assert project.id == about["id"]
        assert set(project.rows) == {0, 1, 2, 3, 7}
        assert project.describe()["keys"] == about["keys"] == [0]
        for t in range(4):
            np.testing.assert_array_equal(project.mask(t), masks[t])
        assert not (folder / "masks" / "00008.png.part").exists()


def test_a_deleted_object_comes_back_until_the_project_is_closed(clip, tmp_path):
    with Served(tmp_path / "work", clip / "video.mp4") as server:
        server.put_mask(0, first_mask(clip))
        things = server.client.get(server.url()).json()["objects"]
        for gone in (True, False, True):
            things[0]["deleted"] = gone
            server.client.put(server.url("/objects"), json=things)
            assert (1 in server.mask(0)) is not gone
        folder = server.projects[0].folder
    assert 1 not in read_ids(folder / "masks" / "00000.png")
    assert [t["id"] for t in json.loads((folder / "project.json").read_text())["objects"]] == [2]


def test_exports_of_every_format_can_be_downloaded_and_converted(clip, tmp_path, served, capsys):
    served.put_mask(0, first_mask(clip))
    served.put_mask(1, first_mask(clip))
    for format in served.client.get("/api/formats").json()["writes"]:
        ended, _ = served.job(kind="export", format=format)
        if ended["state"] == "failed":  # it cannot hold masks, and says so
            assert "masks" in ended["note"], ended
        else:
            answer = served.client.get(served.url(f"/exports/{ended['result']}"))
            assert answer.status_code == 200
            assert len(answer.content) > 50
    assert not [p for p in (served.projects[0].folder / "exports").iterdir() if p.name.startswith("new-")]
    folder = served.projects[0].folder
    assert main(["convert", str(folder), str(tmp_path / "coco.json"), "--to", "coco"]) == 0
    assert "Thing 1" in json.dumps(served.client.get(served.url("/exports/video-coco.json")).json())
    capsys.readouterr()


def test_an_uploaded_video_has_the_same_frames(clip, served):
    answer = served.client.put("/api/upload?name=my film.mp4", content=(clip / "video.mp4").read_bytes())
    number = answer.json()["id"]
    assert served.client.get(f"/api/projects/{number}").json()["name"] == "my film.mp4"
    ours, theirs = (
        served.client.get(f"/api/projects/{n}/frames/5.jpg").content for n in (number, served.projects[0].id)
    )
    assert ours == theirs
    before = sorted(served.workspace.root.iterdir())
    answer = served.client.put("/api/upload?name=my bad.mp4", content=b"no video at all")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("my bad.mp4: is not a video")
    assert sorted(served.workspace.root.iterdir()) == before


def test_what_the_page_asks_of_the_encoder(clip, served):
    truth = first_mask(clip) == 1
    y, x = (int(v) for v in np.argwhere(truth).mean(0))
    found = served.client.post(served.url("/fill/0"), json={"x": x, "y": y, "tolerance": 0.5})
    mask = runs.decode(found.content, SIZE) > 0
    assert mask[y, x]
    for path in (
        f"/heat/3?x={x}&y={y}&reference=0",
        *(f"/views/{kind}/0" for kind in ("pca", "flow", "arrows", "trip")),
    ):
        answer = served.client.get(served.url(path))
        assert answer.headers["content-type"] == "image/png", answer.text
    for path in ("/heat/3?x=-1&y=0&reference=0", "/heat/3?x=0&y=0&reference=99", "/views/pca/99", "/frames/99.jpg"):
        answer = served.client.get(served.url(path))
        assert answer.status_code == 400
        assert "error" in answer.json()


def test_a_job_that_cannot_be_done_says_why(clip, served):
    ended, _ = served.job(kind="masks", begin=0, end=2)
    assert ended["state"] == "failed"
    assert "paint one" in ended["note"]
    for body in ({"kind": "masks", "begin": 0, "end": FRAMES}, {"kind": "export", "format": "nonsense"}):
        assert served.client.post(served.url("/jobs"), json=body).status_code == 400
    assert served.job(kind="masks", begin=0, end=1, method="adapted")[0]["note"].startswith("nothing is adapted")


def test_eight_people_with_twenty_jobs_each_get_their_own_masks(tmp_path):
    """Every project has a video and an object of its own, and all track at the same time: each mask of each job is, bit for
    bit, what the project gets when it is alone."""
    size, count, objects = (32, 48), 3, range(1, 9)
    method = tmp_path / "colours.py"  # quick, and each mask still depends on all that its project has
    method.write_text("from pixeltrail.predictors import raw_colour\n\n\ndef build():\n    return raw_colour()\n")
    videos, truths = [tmp_path / f"{k}.mp4" for k in objects], []
    for k, path in zip(objects, videos, strict=True):
        scene = render(k, frames=count, size=size, objects=1)
        truths.append(np.where(scene.labels[0] > 0, k, 0).astype(np.uint8))
        with VideoWriter(path, 10, size) as video:
            for frame in scene.frames:
                video.write(frame)

    def masks(said: list) -> dict[int, np.ndarray]:
        return {head["frame"]: runs.decode(data, size) for head, data in said if head["type"] == "mask"}

    wanted = []
    for video, truth in zip(videos, truths, strict=True):
        with Served(tmp_path / video.stem, video, method=str(method)) as alone:
            alone.put_mask(0, truth)
            wanted.append(masks(alone.job(kind="masks", begin=0, end=count - 1, quality="fast")[1]))
    assert all(k in found[1] for k, found in zip(objects, wanted, strict=True))
    wrong: list[str] = []
    with Served(tmp_path / "work", *videos, method=str(method)) as server:

        def user(k: int) -> None:
            server.put_mask(0, truths[k], k)
            for turn in range(20):
                ended, said = server.job(k, kind="masks", begin=0, end=count - 1, quality="fast")
                found = masks(said)
                same = found.keys() == wanted[k].keys() and all((found[t] == wanted[k][t]).all() for t in found)
                if (
                    ended["state"] != "done"
                    or not same
                    or {h["job"] for h, _ in said if h["type"] == "mask"} != {ended["id"]}
                ):
                    wrong.append(f"user {k}, job {turn}: {ended}")
            done.append(k)

        done: list[int] = []
        threads = [threading.Thread(target=user, args=(k,)) for k in range(8)]
        [thread.start() for thread in threads]
        [thread.join(240) for thread in threads]
        assert sorted(done) == list(range(8))
        assert wrong == []


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9", "mpeg4"])
def test_every_frame_is_the_one_that_was_meant(codec, tmp_path):
    """Each picture carries its number in its grey levels; jumps anywhere land on it exactly."""
    path = tmp_path / ("a.webm" if codec == "libvpx-vp9" else "a.mp4")
    options = {"libx264": {"bf": "3", "g": "12"}, "libvpx-vp9": {"g": "12", "cpu-used": "8"}, "mpeg4": {"g": "12"}}[
        codec
    ]
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for t in range(180):
            picture = np.zeros((32, 64, 3), np.uint8)
            for bit in range(8):
                picture[:, 8 * bit : 8 * bit + 8] = 255 * (t >> bit & 1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode(None))
    source = open_frames(path)
    exact = [frame.image for frame in source.frames()]
    seeker = Seeker(source)
    assert seeker.count() == len(exact) == 180
    order = [170, 3, 2, 100, 101, 150, 60, 179, 0, *np.random.default_rng(0).integers(0, 180, 12).tolist()]
    for t in order:
        np.testing.assert_array_equal(seeker.frame(t), exact[t])
        key = seeker.key_near(t, 12)  # there is one in each dozen frames
        assert abs(key - t) <= 12
        assert seeker.key_near(key, 1) == key
        assert seeker.key_near(t, 0) == t
    with pytest.raises(InputError, match="beyond"):
        seeker.frame(180)
    np.testing.assert_array_equal(seeker.frame(5), exact[5])


def test_a_video_that_was_cut_short_has_as_many_frames_as_are_there(tmp_path):
    """Its table of samples, in front, still lists them all."""
    whole, part = tmp_path / "whole.mp4", tmp_path / "part.mp4"
    with VideoWriter(whole, 10, (64, 96)) as out:
        for frame in render(0, frames=40, size=(64, 96), objects=2).frames:
            out.write(frame)
    content = whole.read_bytes()
    part.write_bytes(content[: len(content) * 2 // 3])
    assert Seeker(open_frames(whole)).count() == 40
    seeker = Seeker(open_frames(part))
    assert 0 < seeker.count() < 40
    assert seeker.count() == len(seeker.index.stamps()[0])


def test_runs_are_exact_and_refuse_what_does_not_fit():
    ids = np.random.default_rng(0).integers(0, 3, (11, 7)).astype(np.uint8)
    np.testing.assert_array_equal(runs.decode(runs.encode(ids), (11, 7)), ids)
    for data in (b"", b"abc", runs.encode(ids)[:-1], b"\xff\xff\xff\xff"):
        with pytest.raises(InputError):
            runs.decode(data, (11, 7))
    with pytest.raises(InputError):
        runs.decode(runs.encode(ids), (12, 7))


def test_what_is_painted_while_tracking_goes_on_is_kept(clip, tmp_path):
    project = Workspace(tmp_path / "work").add(clip / "video.mp4")
    ids = first_mask(clip)
    project.set_things([Thing(1, "", "#ff0000"), Thing(2, "", "#00ff00")])
    project.edit(3, ids)
    kept = project.track(3, np.zeros(SIZE, np.uint8), [1, 2], {1: 0.5, 2: 0.5})
    np.testing.assert_array_equal(kept, ids)
    np.testing.assert_array_equal(project.mask(3), ids)


def test_a_project_whose_folder_was_taken_away_does_not_keep_others_from_being_saved(clip, tmp_path, capsys):
    workspace = Workspace(tmp_path / "work")
    write_rendered(tmp_path / "second", 4, FRAMES, SIZE, 2)
    lost, other = workspace.add(clip / "video.mp4"), workspace.add(tmp_path / "second" / "video.mp4")
    other.set_things([Thing(1, "kept", "#ff0000", deleted=True)])
    shutil.rmtree(lost.folder)
    workspace.close()
    assert capsys.readouterr().err.count("error: ") == 1
    assert json.loads((other.folder / "project.json").read_text())["objects"] == []


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "websockets"])
def test_without_the_extra_it_says_what_to_install(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["app", "--workspace", str(tmp_path / "work")]) == 2
    assert "pip install 'pixeltrail[app]'" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_a_video_that_is_not_there_leaves_no_workspace(tmp_path, capsys):
    place = tmp_path / "work"
    assert main(["app", str(tmp_path / "none.mp4"), "--workspace", str(place)]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not place.exists()
