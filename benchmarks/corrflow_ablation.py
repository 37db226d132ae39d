"""CorrFlow's ablation, as Markdown: each of its four ingredients switched off, at the small budget of recipes/small.

``python benchmarks/corrflow_ablation.py CLIPS DAVIS --steps N`` trains what is not trained yet (a run that was stopped
goes on), then tracks under CorrFlow's own protocol and under the one that is the same for all, frames at 240 pixels.
"""

from __future__ import annotations

from measure import ROOT, arguments, common, heading, line, own, scores_for, setting, trained

from pixeltrail import weights

# Beside each: what the paper measured on DAVIS-2017 val after training on Kinetics (J, F), another test.
VARIANTS = {
    "full": ((), (0.477, 0.513)),
    "without colour dropout": (("settings.keep=1.0",), (0.405, 0.395)),
    "without restricted attention": (("settings.radius=0",), (0.408, 0.397)),
    "without scheduled sampling": (("settings.sampling=[1.0, 1.0]",), (0.402, 0.392)),
    "without cycle": (("settings.cycle=0.0",), (0.410, 0.404)),
}


def main() -> None:
    args = arguments(__doc__, "data").parse_args()
    scores = scores_for(args)
    recipe = ROOT / "recipes" / "small" / "corrflow.toml"
    print(f"{setting(scores)}; recipes/small/corrflow.toml, {args.steps or 'its own'} steps {' '.join(args.set)}\n")
    heading(
        "240 pixels", "J&F", "J", "F", "common protocol: J&F", "minutes",
        "paper, DAVIS-2017 val (another test): J", "F",
    )  # fmt: skip
    for title, (settings, paper) in VARIANTS.items():
        if args.only in title:
            file = trained(args.out / title.replace(" ", "-"), args, *args.set, *settings, recipe=recipe)
            tracker = weights.load(file, device=args.device)
            found, same = scores(title, own(tracker)), scores(f"{title}, common", common(tracker))
            minutes = f"{weights.read_card(file)['seconds'] / 60:.0f}"
            line(title, found["J&F"], found["J"], found["F"], same["J&F"], minutes, *paper)
    scores.note()


if __name__ == "__main__":
    main()
