"""Linear probes: the measures against plain loops, and each data set's layout from its files to the table."""

import json

import numpy as np
import PIL.Image
import pytest
import torch

from pixeltrail import catalogue
from pixeltrail.cli import main
from pixeltrail.data.images import write_image
from pixeltrail.data.voc import CLASSES, image_folders, voc_classification, voc_segmentation
from pixeltrail.errors import InputError
from pixeltrail.evaluation.probe import Settings, average_precision, pooled, probe
from pixeltrail.jobs.layers import layers_of
from pixeltrail.types import davis_palette

SIDE = 48
COLOURS = np.array([[60, 60, 60], [220, 40, 40], [40, 200, 60]], np.uint8)
MINE = """
from pixeltrail.methods.cpfs import build as whole

def build():
    return whole(width=6, fc=16, hidden=16, dim=4)
"""


def scene(seed: int, classes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a block of colour for each class, and the class of each pixel."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((SIDE, SIDE + 16), np.uint8)
    for c in classes:
        top, left = 24 * (c - 1), int(rng.integers(0, 32))
        truth[top : top + 24, left : left + 32] = c
    noise = rng.integers(-25, 25, (*truth.shape, 3))
    return np.clip(COLOURS[truth].astype(int) + noise, 0, 255).astype(np.uint8), truth


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Both years in one folder: aeroplanes are red, bicycles green; the first picture's bicycle is hard to tell."""
    root = tmp_path_factory.mktemp("VOC")
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    lists: dict[str, list[str]] = {}
    for split, other, ids in (("trainval", "train", range(16)), ("test", "val", range(16, 24))):
        for i in ids:
            name, classes = f"{i:06d}", ((1,), (2,), (1, 2), ())[i % 4]
            image, truth = scene(i, classes)
            write_image(root / "JPEGImages" / f"{name}.jpg", image)
            truth[:2] = 255
            mask = PIL.Image.fromarray(truth)
            mask.putpalette(davis_palette().flatten().tolist())
            mask.save(root / "SegmentationClass" / f"{name}.png")
            lists.setdefault(f"Segmentation/{other}", []).append(name)
            for number, label in enumerate(CLASSES, 1):
                said = "1" if number in classes else "0" if (i, number) == (0, 2) else "-1"
                lists.setdefault(f"Main/{label}_{split}", []).append(f"{name} {said:>2}")
    for name, lines in lists.items():
        (root / "ImageSets" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 8), ("val", 4)):
        for c, name in ((1, "n01"), (2, "n02")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image, _ = scene(100 * count + 10 * c + i, (c,))
                PIL.Image.fromarray(image).save(root / split / name / f"{i}.JPEG")
    return root


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return str(file)


class TestMeasures:
    def test_average_precision_over_eleven_levels(self):
        rng = np.random.default_rng(0)
        for _ in range(20):
            scores, truth = rng.normal(size=30), rng.integers(-1, 2, 30)
            ranked = [t for _, t in sorted(zip(-scores, truth, strict=True), key=lambda p: p[0]) if t >= 0]
            best = []
            for level in range(11):
                reached = [
                    sum(ranked[: n + 1]) / (n + 1)
                    for n in range(len(ranked))
                    if sum(ranked[: n + 1]) / sum(ranked) >= level / 10
                ]
                best.append(max(reached))
            assert average_precision(scores, truth) == pytest.approx(sum(best) / 11, abs=1e-12)
        assert average_precision(np.array([2.0, 1.0, 0.0]), np.array([1, -1, 0])) == 1
        assert np.isnan(average_precision(np.zeros(2), np.zeros(2, int)))

    def test_layers_are_pooled_to_about_nine_thousand_numbers(self):
        shapes = {
            (96, 56): 96 * 10 * 10,
            (256, 28): 256 * 36,
            (384, 14): 384 * 25,
            (256, 14): 256 * 36,
            (512, 3): 512 * 9,
        }
        for (channels, side), values in shapes.items():
            x = torch.rand(1, channels, side, side)
            found = pooled(x)
            assert found[0].numel() == values
            torch.testing.assert_close(found.mean((2, 3)), x.mean((2, 3)), rtol=0.1, atol=0)

    def test_mean_iou_is_that_of_a_plain_count(self):
        """Layers that hold the true classes are read without a mistake but at edges; constant ones say one class."""
        pictures = [(image, truth.astype(np.int64)) for image, truth in (scene(s, (1, 2)) for s in range(6))]

        def layers(rgb):
            bright = torch.stack([(rgb[:, 0] > 0.6), (rgb[:, 1] > 0.55)], 1).float()
            return {"seen": bright, "nothing": torch.zeros_like(bright)}

        settings = Settings(size=SIDE, epochs=40, batch=3, lr=0.1, seed=1)
        report = probe(layers, pictures, pictures, 3, "pixels", settings)
        assert report.scores["seen"] > 0.95
        share = np.bincount(np.concatenate([t.ravel() for _, t in pictures]), minlength=3) / (6 * SIDE * (SIDE + 16))
        assert report.scores["nothing"] == pytest.approx(share.max() / 3, abs=0.02)


class TestLayouts:
    def test_voc_classification(self, voc):
        pictures = voc_classification(voc, "trainval")
        assert (len(pictures), pictures.classes[:2]) == (16, ("aeroplane", "bicycle"))
        image, truth = pictures[0]
        assert image.shape == (SIDE, SIDE + 16, 3)
        assert truth[:3].tolist() == [1, -1, 0]
        assert pictures[2][1][:3].tolist() == [1, 1, 0]

    def test_voc_segmentation(self, voc):
        pictures = voc_segmentation(voc, "val")
        image, truth = pictures[2]
        assert (len(pictures), len(pictures.classes)) == (8, 21)
        assert truth.shape == image.shape[:2]
        assert set(np.unique(truth)) == {-1, 0, 1, 2}
        assert (truth[:2] == -1).all()

    def test_folders(self, folders):
        pictures = image_folders(folders, "val")
        assert (len(pictures), pictures.classes) == (8, ("n01", "n02"))
        assert [int(pictures[i][1]) for i in (0, 3, 4)] == [0, 0, 1]

    def test_what_is_missing_is_named(self, voc, folders, tmp_path):
        with pytest.raises(InputError, match="aeroplane_2013"):
            voc_classification(voc, "2013")
        with pytest.raises(InputError, match="train/CLASS"):
            image_folders(voc, "train")
        with pytest.raises(InputError, match="n03"):
            image_folders(folders, "val", ["n01", "n03"])
        (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
        list_of = tmp_path / "ImageSets" / "Segmentation" / "val.txt"
        for names, said in (("\n", "no picture"), ("000001\n", "missing"), ("../../etc\n", "missing")):
            list_of.write_text(names)
            with pytest.raises(InputError, match=said):
                voc_segmentation(tmp_path, "val")


class TestProbes:
    def test_every_tracker_has_layers(self):
        x = torch.rand(1, 3, 64, 64)
        torch.manual_seed(0)
        cpfs = catalogue.build("cpfs", width=6, fc=16)
        found = layers_of(cpfs)(x)
        assert [tuple(v.shape[1:]) for v in found.values()] == [
            (6, 16, 16), (16, 8, 8), (24, 4, 4), (24, 4, 4), (16, 4, 4),
        ]  # fmt: skip
        dul = catalogue.build("dul", width=8).eval()
        found = layers_of(dul)(x)
        assert list(found) == ["conv1", "layer1", "layer2", "layer3"]
        assert not found["conv1"].requires_grad or found["conv1"].shape[1] == 8
        with torch.inference_mode():
            whole = dul.embed(x)
        torch.testing.assert_close(found["layer3"], whole[:, : found["layer3"].shape[1]])
        assert next(iter(layers_of(catalogue.build("mast", width=8, channels=8))(x))) == "conv1"

    @pytest.mark.parametrize(("dataset", "measure", "least"), [("voc2007", "mAP", 0.8), ("voc2012", "mIoU", 0.3)])
    def test_voc_from_end_to_end(self, voc, mine, tmp_path, capsys, dataset, measure, least):
        out = tmp_path / "report.json"
        ask = ["evaluate", "probe", str(voc), "--dataset", dataset, "--method", mine, "--size", "48", "--epochs", "25"]
        assert main([*ask, "--batch", "8", "--lr", "1e-2", "--threads", "1", "--out", str(out)]) == 0
        said = capsys.readouterr().out
        rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in said.splitlines() if "│" in line}
        assert rows["measured"][5].strip() == ""  # the last column is of networks that were fine-tuned
        for name, values in (("class labels", ("79.9", "48.0")), ("CPFS-KTA", ("65.3", "41.5"))):
            row = rows[f"source, VOC-{dataset[3:]}: {name}"]
            assert [cell.strip() for cell in row] == ["", "", "", "", "", values[measure == "mIoU"]]
        report = json.loads(out.read_text())
        assert (report["measure"], report["trained_on"], report["tested_on"]) == (measure, 16, 8)
        assert list(report["scores"]) == ["conv1", "conv2", "conv3", "conv4", "conv5"]
        assert max(report["scores"].values()) > least
        assert f"{100 * report['scores']['conv2']:.1f}" in said

    def test_folders_from_end_to_end(self, folders, mine, tmp_path, capsys):
        out = tmp_path / "report.json"
        ask = ["evaluate", "probe", str(folders), "--dataset", "imagenet", "--method", mine, "--size", "48"]
        ask += ["--epochs", "8", "--batch", "5", "--threads", "1"]  # the last batch would be of one picture
        assert main([*ask, "--out", str(out)]) == 0
        said = capsys.readouterr().out
        assert "CPFS-CE-rev" in said
        assert "30.1" in said
        first = json.loads(out.read_text())
        assert first["measure"] == "top-1"
        assert min(first["scores"].values()) >= 0.75
        assert main([*ask, "--out", str(out)]) == 0
        assert json.loads(out.read_text()) == first  # a seed decides everything
        assert main([*ask[:4], "cifar", *ask[5:]]) == 2
        assert "there are voc2007, voc2012, imagenet" in capsys.readouterr().err
