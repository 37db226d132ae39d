"""Every recipe that we ship: it can be read, its first losses are known numbers, and a step lowers them;
and what is no recipe is refused.

``python tests/test_recipes.py`` prints the numbers, for a recipe that is new or was changed on purpose.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pixeltrail import catalogue
from pixeltrail.data.synthetic import render
from pixeltrail.errors import InputError, UnknownNameError
from pixeltrail.tracker import Tracker
from pixeltrail.training.run import Run, changed, parse_set, read_recipe, to_toml
from pixeltrail.types import Batch
from shortrun import RUN

FOLDER = Path(__file__).parents[1] / "recipes"  # those for flow: test_flow_training.py
RECIPES = sorted(str(f.relative_to(FOLDER).with_suffix("")) for f in FOLDER.rglob("*.toml") if f.parent.name != "flow")

# Networks small enough for a test; all else is the recipe's.
SMALL = {
    "dul": {"width": 8},
    "mast": {"width": 8, "channels": 16},
    "corrflow": {"width": 8, "channels": 16},
    "colorization": {"width": 8, "channels": 16},
    "crw": {"width": 8, "dim": 16},
    "cycletime": {"width": 8, "channels": 16, "grid": 21},
    "uvc": {"width": 8, "code_width": 4, "code": 8},
    "cpfs": {"width": 12, "fc": 32, "hidden": 32},
}

# The terms of the first step, seed 0, of two rendered clips of 64² pixels, in 32-bit floats.
GOLDEN: dict[str, dict[str, float]] = {
    "colorization": {"colour": 1.487},
    "corrflow": {"forward": 4.42141, "cycle": 0.518513},
    "cpfs": {"kta": 0.204706},
    "crw": {"walk_1": 0.711413, "walk_2": 0.977788, "walk_3": 1.11707},
    "cycletime": {"similarity": -0.00234651, "skip": 0.0266879, "long": 0.00533752},
    "default": {"self_training": 6.48464, "cross_view": 2.21218},
    "dul": {"self_training": 6.68859, "cross_view": 2.27612},
    "mast": {"colour": 0.983107},
    "mast_memory": {"colour": 1.05919},
    "small/colorization": {"colour": 1.487},
    "small/corrflow": {"forward": 4.42141, "cycle": 0.518513},
    "small/cpfs": {"kta": 0.659282},
    "small/crw": {"walk_1": 0.711413, "walk_2": 0.977788, "walk_3": 1.11707},
    "small/cycletime": {"similarity": -0.0024012, "skip": 0.0186381, "long": 0.00372648, "own": 0.186389},
    "small/dul": {"self_training": 6.68859, "cross_view": 2.27612},
    "small/mast": {"colour": 0.983107},
    "small/uvc": {"colour": 2.46893, "reverse": 0.252945, "reconstruction": 2.59826},
    "uvc": {"colour": 2.63236, "reverse": 0.311104, "reconstruction": 2.59826},
}


def shrunk(name: str) -> Run:
    run = read_recipe(FOLDER / f"{name}.toml")
    return changed(replace(run, start=""), {"settings": SMALL[run.method], "batch_size": 2, "size": 64}, source="test")


def begun(run: Run) -> Tracker:
    torch.manual_seed(run.seed)
    return catalogue.build(run.method, **run.settings).train()


def terms_of(run: Run, tracker: Tracker) -> dict[str, torch.Tensor]:
    made = [render(7 + i, frames=run.frames, size=(64, 64), objects=1, speed=2.0) for i in range(2)]
    clip = torch.from_numpy(np.stack([m.frames for m in made])).movedim(-1, 2).float() / 255
    flow = torch.from_numpy(np.stack([m.flow[0] for m in made])).movedim(-1, 1)
    torch.manual_seed(1)
    return tracker.objective(tracker, Batch(clip, torch.Generator().manual_seed(run.seed), 0.0, flow))


@pytest.mark.parametrize("name", RECIPES)
class TestEveryRecipe:
    def test_first_losses_are_what_they_were(self, name):
        run = shrunk(name)
        terms = {k: float(v.detach()) for k, v in terms_of(run, begun(run)).items()}
        assert terms == pytest.approx(GOLDEN[name], rel=1e-3, abs=1e-7)

    def test_one_step_lowers_the_loss(self, name):
        run = shrunk(name)
        tracker = begun(run)
        optimizer = torch.optim.AdamW(tracker.parameters(), lr=1e-4)
        before = sum(terms_of(run, tracker).values())
        before.backward()
        optimizer.step()
        assert float(sum(terms_of(run, tracker).values()).detach()) < float(before.detach())

    def test_it_says_what_it_departs_from_and_survives_being_resolved(self, name, tmp_path):
        run = read_recipe(FOLDER / f"{name}.toml")
        assert (FOLDER / f"{name}.toml").read_text().startswith("# ")
        (tmp_path / "recipe.toml").write_text(to_toml(run))
        assert read_recipe(tmp_path / "recipe.toml") == run
        catalogue.module(run.method)


def test_recipes_are_checked(tmp_path):
    assert changed(Run(), parse_set(["lr=1e-4", "steps=5", "settings.width=16", "method=mast"]), source="--set") == Run(
        lr=1e-4, steps=5, settings={"width": 16}, method="mast"
    )
    assert parse_set(["compile=true", "even=false"]) == {"compile": True, "even": False}  # an "e" alone makes no number
    with pytest.raises(UnknownNameError, match="did you mean batch_size"):
        changed(Run(), {"batchsize": 3}, source="r.toml")
    for values in (
        {"steps": 0},
        {"lr": 0.0},
        {"precision": "fp8"},
        {"span": [2, 1]},
        {"steps": "many"},
        {"crop": 3},
        {"shards": 3},
        {"seed": -1},
        {"rendered": 2.0},
        {"clip_gradient": -1.0},
    ):
        with pytest.raises(InputError):
            changed(Run(), values, source="r.toml")
    file = tmp_path / "r.toml"
    file.write_text(to_toml(RUN))
    assert read_recipe(file) == RUN
    file.write_text("steps = = 3")
    with pytest.raises(InputError, match="not TOML"):
        read_recipe(file)


def test_every_published_method_has_its_papers_recipe_and_one_of_the_common_budget():
    for method in SMALL:
        assert {method, f"small/{method}"} <= set(RECIPES)
        assert {read_recipe(FOLDER / f"{name}.toml").method for name in (method, f"small/{method}")} == {method}


def test_the_second_stage_of_mast_goes_on_from_the_first():
    first, second = read_recipe(FOLDER / "mast.toml"), read_recipe(FOLDER / "mast_memory.toml")
    assert (first.method, first.settings) == (second.method, second.settings)
    assert second.start
    assert second.frames > first.frames


if __name__ == "__main__":
    for recipe in RECIPES:
        golden = {
            k: float(f"{float(v.detach()):.6g}") for k, v in terms_of(shrunk(recipe), begun(shrunk(recipe))).items()
        }
        print(f'    "{recipe}": {golden},'.replace("'", '"'))
