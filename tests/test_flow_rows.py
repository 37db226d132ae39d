"""Rows of batches for flow: generated, of a data set, of videos, and of both."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pixeltrail.data.chairs import Pair
from pixeltrail.data.clips import CachedVideo, Frames
from pixeltrail.errors import InputError
from pixeltrail.training.flow import train_flow
from pixeltrail.training.flow_data import Pairs, flow_sampler_for
from pixeltrail.training.run import changed
from pixeltrail.weights import read_card
from shortflow import RUN, textured


def test_generated_rows_depend_on_their_numbers_alone():
    run = replace(RUN, batch_size=3)
    rows = Pairs(run, textures=[textured(i, 60, 80) for i in range(3)])
    frames, flow = rows.batch(5)
    assert frames.shape == (3, 2, 32, 48, 3)
    assert (flow.shape, flow.dtype) == ((3, 32, 48, 2), np.float32)
    again = Pairs(run, textures=[textured(i, 60, 80) for i in range(3)]).batch(5, range(1, 2))
    assert np.array_equal(again[0], frames[1:2])
    assert np.array_equal(again[1], flow[1:2])
    assert not np.array_equal(frames[0], frames[1])
    assert not np.array_equal(rows.batch(6)[0], frames)
    assert len(rows.names(0)) == 3


def test_rows_of_a_data_set_are_its_pairs_augmented():
    image = textured(0, 60, 80)
    pair = Pair(image, image, np.full((60, 80, 2), np.nan, np.float32), np.zeros((60, 80), np.bool_))
    frames, flow = Pairs(RUN, pairs=[pair]).batch(0)
    assert frames.shape == (2, 2, 32, 48, 3)
    assert np.isnan(flow).all()


def test_frames_of_videos_are_one_sequence(tmp_path):
    videos = []
    for k, frames in enumerate((3, 5)):
        np.save(tmp_path / f"{k}.npy", np.stack([np.full((8, 9, 3), 10 * k + t, np.uint8) for t in range(frames)]))
        videos.append(CachedVideo(f"v{k}", str(tmp_path / f"{k}.npy"), frames, 10.0))
    images = Frames(videos)
    assert [int(images[i][0, 0, 0]) for i in range(len(images))] == [0, 1, 2, 10, 11, 12, 13, 14]


def test_pairs_without_labels_are_of_the_videos(tmp_path):
    for k in range(2):
        np.save(tmp_path / f"{k}.npy", np.stack([textured(k, 40, 60)] * 6))
    listed = [{"name": f"v{k}", "path": f"{k}.npy", "frames": 6, "fps": 15.0} for k in range(2)]
    (tmp_path / "index.json").write_text(json.dumps(listed))
    run = changed(RUN, {"settings": {"objective": "photometric"}, "width": 0}, source="test")
    rows, sources, bad = flow_sampler_for(run, tmp_path, tmp_path / "cache")
    assert rows.batch(0, range(2)).shape == (2, 2, 32, 32, 3)
    assert (sources, bad) == (["v0", "v1"], [])
    generated, named, _ = flow_sampler_for(RUN, tmp_path, tmp_path / "cache")
    frames, flow = generated.batch(0, range(2))
    assert frames.shape == (2, 2, 32, 48, 3)
    assert flow.shape == (2, 32, 48, 2)
    assert named[1:] == ["textures of v0", "textures of v1"]


def test_videos_and_generated_pairs_share_a_batch(tmp_path):
    np.save(tmp_path / "0.npy", np.stack([textured(0, 40, 60)] * 6))
    (tmp_path / "index.json").write_text(json.dumps([{"name": "v", "path": "0.npy", "frames": 6, "fps": 15.0}]))
    changes = {"settings": {"objective": "photometric"}, "width": 0, "batch_size": 4, "rendered": 0.75}
    run = changed(RUN, changes, source="test")
    rows, sources, _ = flow_sampler_for(run, tmp_path, tmp_path / "cache")
    frames, flow = rows.batch(3)
    assert frames.shape == (4, 2, 32, 32, 3)
    known = np.isfinite(flow).all((1, 2, 3))
    assert [name != "v" for name in rows.names(3)] == known.tolist()
    assert known.sum() == 3
    assert np.isnan(flow[~known]).all()
    assert sources == ["v", "rendered by pixeltrail", "textures of v"]
    for row in range(4):  # whoever makes it
        alone = rows.batch(3, range(row, row + 1))
        np.testing.assert_array_equal(alone[0][0], frames[row])
        np.testing.assert_array_equal(alone[1][0], flow[row])
    few, sources, _ = flow_sampler_for(replace(run, rendered=0.1), tmp_path, tmp_path / "cache")  # not one row of four
    assert few.batch(0, range(4)).shape == (4, 2, 32, 32, 3)
    assert sources == ["v"]
    train_flow(replace(run, rendered=0.1, steps=1), few, tmp_path / "run", sources=sources)
    assert read_card(tmp_path / "run" / "last.safetensors")["labels"] == "none"
    with pytest.raises(InputError, match=r"rendered is 0\.9, which leaves no row"):
        flow_sampler_for(replace(run, rendered=0.9), tmp_path, tmp_path / "cache")
