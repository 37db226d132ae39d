// At the right: objects, points, tracking, seeing why, and files in and out.

import type { Adaptation, Formats, Job, Point, Thing } from "./api";
import { button, h, icon, say } from "./dom";
import type { Model } from "./model";
import type { Why } from "./why";

const section = (title: string, ...children: (Node | null)[]) => h("section", { className: "block" }, h("h2", {}, title), ...children);

export class Panel {
  private readonly objects = h("ul", { className: "things" });
  private readonly points = h("ul", { className: "things" });
  private readonly pointsBlock: HTMLElement;
  private readonly jobs = h("div", { className: "jobs" });
  private readonly method = h("select", { "aria-label": "Method" });
  private readonly quality = h("select", { "aria-label": "Quality", title: "Smaller pictures are followed faster" },
    h("option", { value: "fast" }, "Fast"), h("option", { value: "balanced", selected: true }, "Balanced"), h("option", { value: "best" }, "Best"));
  private readonly minutes = h("input", { type: "number", min: "0.1", max: "240", step: "0.5", value: "1", className: "frame-field", "aria-label": "Minutes of adaptation" });
  private readonly format = h("select", { "aria-label": "Format" });
  private readonly what = h("select", { "aria-label": "What to export" }, h("option", { value: "masks" }, "Masks"), h("option", { value: "points" }, "Points"));
  private readonly file = h("input", { type: "file", hidden: true, onchange: () => this.take() });
  private readonly export = button("Export and download", "Export", () => void this.model.begin({ kind: "export", format: this.format.value, what: this.what.value }), { className: "wide", disabled: true });
  private readonly adapted = h("div", { className: "adapted" });
  private readonly why = new Map<Why, HTMLButtonElement>();
  private readonly follow = h("input", { type: "checkbox", checked: true, onchange: () => (this.model.follow = this.follow.checked) });
  private readonly track: HTMLButtonElement[];
  readonly root: HTMLElement;

  constructor(private readonly model: Model) {
    this.track = [
      button("Track backward over the range (Shift+T)", null, () => this.begin(-1), { className: "wide" }),
      button("Track forward over the range (T)", null, () => this.begin(1), { className: "wide main" }),
    ];
    this.track[0]!.replaceChildren(icon("backward"), "Backward");
    this.track[1]!.replaceChildren("Forward", icon("forward"));
    this.pointsBlock = section("Points", this.points);
    const whys: [Why, string, string][] = [
      ["none", "Off", "Only the picture"], ["heat", "Looks at", "Hover over a pixel: what it looks at on the nearest key frame (W)"],
      ["pca", "Features", "Features as colours"], ["flow", "Motion", "Motion to the next frame as colours"],
      ["arrows", "Arrows", "Motion to the next frame as arrows"], ["trip", "There & back", "Where motion to the next frame and back does not come home"],
    ];
    for (const [why, label, title] of whys) {
      this.why.set(why, h("button", { type: "button", title, onclick: () => this.setWhy(why) }, label));
    }
    this.root = h("aside", { className: "panel", "aria-label": "Objects and tracking" },
      section("Objects", this.objects, button("Add object (N)", "+ Add object", () => model.addThing(), { className: "wide" })),
      this.pointsBlock,
      section("Track",
        h("p", { className: "muted" }, "From this frame to the end of the range. Ticked objects are followed; frames that you painted stay as they are."),
        h("div", { className: "row" }, ...this.track),
        h("div", { className: "pair" }, h("label", {}, "Method", this.method), h("label", {}, "Quality", this.quality)),
        h("label", { className: "inline" }, this.follow, " Show frames as they are tracked"),
        this.jobs,
        h("details", {}, h("summary", {}, "Adapt to this video"),
          h("p", { className: "muted" }, "Trains on this video for some minutes, without labels. What gains nothing is not used."),
          h("div", { className: "row" }, h("label", { className: "inline grow" }, "Minutes ", this.minutes),
            button("Adapt the weights to this video", "Adapt", () => void model.begin({ kind: "adapt", minutes: this.minutes.valueAsNumber || 1, quality: this.quality.value }))),
          this.adapted)),
      section("See why", h("div", { className: "segmented", role: "group", "aria-label": "See why" }, ...this.why.values())),
      section("Files",
        h("div", { className: "row" }, button("Import masks, boxes or points: a PNG for this frame, or any file that pixeltrail convert reads", "Import…", () => this.file.click(), { className: "wide" }), this.file),
        h("label", { className: "field" }, "Format", this.format),
        h("div", { className: "row" }, this.what, this.export)),
    );
  }

  /** Files of these kinds can be imported, and exported. */
  offer({ writes, reads }: Formats): void {
    this.file.accept = reads.join(",");
    this.export.disabled = false;
    const names: Record<string, string> = { mp4: "Overlay video (MP4)", webm: "Overlay video (WebM)", gif: "Overlay (GIF)", davis: "DAVIS masks (PNG)", cutouts: "Cut-outs (PNG)" };
    this.format.replaceChildren(...Object.entries(writes).map(([key, title]) => h("option", { value: key }, names[key] ?? title)));
  }

  update(): void {
    const { model } = this;
    this.root.hidden = !model.project;
    if (!model.project) return;
    const typing = document.activeElement?.classList.contains("name") ?? false; // a list that is made anew would take the field away
    if (!typing) {
      this.objects.replaceChildren(...model.things.map((t) => this.thing(t)));
      if (!model.things.length) this.objects.append(h("li", { className: "empty" }, "No object yet. Choose the brush and paint one: it is made by itself."));
    }
    this.pointsBlock.hidden = !model.points.length;
    if (!typing) this.points.replaceChildren(...model.points.map((p) => this.point(p)));
    const methods = [["standard", "Standard"], ...((model.project.adapted?.kept ?? "original") !== "original" ? [["adapted", "Adapted"]] : [])] as const;
    if (this.method.options.length !== methods.length) {
      this.method.replaceChildren(...methods.map(([value, label]) => h("option", { value: value! }, label!)));
    }
    this.adapted.replaceChildren(...(model.project.adapted ? this.gain(model.project.adapted) : []));
    for (const [why, made] of this.why) made.setAttribute("aria-pressed", String(model.why === why));
    for (const made of this.track) made.disabled = !!model.running;
    this.jobs.replaceChildren(...[...model.jobs.values()].map((j) => this.job(j)));
  }

  private thing(t: Thing): HTMLElement {
    const { model } = this;
    const colour = h("input", { type: "color", value: t.color, className: "colour", "aria-label": `Colour of ${t.name}`, onchange: (e: Event) => model.change(t.id, "colour", { color: (e.target as HTMLInputElement).value }) });
    const name = this.name(t.name, `Name of object ${t.id}`, (given) => model.change(t.id, "rename", { name: given || `Object ${t.id}` }));
    name.addEventListener("focus", () => this.select(t.id));
    const sure = model.project!.tracked[model.frame]?.[t.id];
    const ticked = h("input", { type: "checkbox", checked: model.chosen.has(t.id), title: "Follow when tracking", "aria-label": `Follow ${t.name}`, onchange: (e: Event) => void ((e.target as HTMLInputElement).checked ? model.chosen.add(t.id) : model.chosen.delete(t.id)) });
    return h("li", { className: t.id === model.selected ? "selected" : "", "aria-current": String(t.id === model.selected), onclick: (e: Event) => e.target === e.currentTarget && this.select(t.id) },
      ticked, colour, name,
      h("span", { className: "muted sureness", title: "How sure the tracker is on this frame" }, sure === undefined || model.isKey ? "" : sure ? `${Math.round(100 * sure)} %` : "gone"),
      button(`${t.hidden ? "Show" : "Hide"} ${t.name}`, t.hidden ? "hidden" : "eye", () => model.change(t.id, "hide", { hidden: !t.hidden }), { className: "plain", "aria-pressed": String(t.hidden) }),
      button(`${t.locked ? "Unlock" : "Lock"} ${t.name}`, t.locked ? "lock" : "open", () => model.change(t.id, "lock", { locked: !t.locked }), { className: "plain", "aria-pressed": String(t.locked) }),
      button(`Delete ${t.name}`, "bin", () => model.change(t.id, "delete object", { deleted: true }), { className: "plain" }));
  }

  private point(p: Point): HTMLElement {
    const { model } = this;
    const dot = h("span", { className: "dot" });
    dot.style.background = `hsl(${(p.id * 137.5) % 360} 90% 65%)`;
    const renamed = (given: string) => model.points.map((q) => (q.id === p.id ? { ...q, name: given || `Point ${p.id + 1}` } : q));
    return h("li", {}, dot, this.name(p.name, `Name of point ${p.id + 1}`, (given) => model.setPoints("rename", renamed(given))),
      button(`Delete ${p.name}`, "bin", () => model.setPoints("delete point", model.points.filter((q) => q.id !== p.id)), { className: "plain" }));
  }

  /** A name that can be changed: Enter takes it, Escape leaves it as it was. */
  private name(value: string, label: string, take: (given: string) => void): HTMLInputElement {
    const field = h("input", { type: "text", value, maxLength: 60, className: "name", title: value, "aria-label": label });
    field.addEventListener("keydown", (e) => {
      if (e.key === "Escape") field.value = value;
      if (e.key === "Escape" || e.key === "Enter") field.blur();
    });
    field.addEventListener("blur", () => {
      const given = field.value.trim();
      if (given !== value) take(given);
      else this.update();
    });
    return field;
  }

  /** What adapting has changed, on frames that it was not trained on. */
  private gain({ kept, together, before, after }: Adaptation): Node[] {
    const line = (what: string, ...values: number[]) =>
      h("tr", {}, h("th", { scope: "row" }, what), ...values.map((value) => h("td", {}, `${(100 * value).toFixed(1)} %`)));
    const shown = this.model.why === "compare";
    return [
      h("table", {}, h("tr", {}, h("th", {}, "Unseen frames"), h("th", { scope: "col" }, "before"), h("th", { scope: "col" }, "after")),
        together ? line("moving alike, looking alike", ...together) : null,
        line("found in another view", before.view, after.view), line("found there and back", before.cycle, after.cycle)),
      kept === "original" ? h("p", { className: "muted" }, "No gain: the weights stay as they are.")
        : button("Compare the nearest key frame's mask, carried here before and after adapting", shown ? "Hide before / after" : "Show before / after", () => this.setWhy(shown ? "none" : "compare"), { className: "wide", "aria-pressed": String(shown) }),
    ];
  }

  private select(id: number): void {
    this.model.selected = id;
    this.objects.querySelectorAll("li").forEach((li, i) => li.classList.toggle("selected", this.model.things[i]?.id === id));
    this.model.changed("tool");
  }

  private job(job: Job): HTMLElement {
    const { model } = this;
    const what = { masks: "Tracking", points: "Following points", adapt: "Adapting", export: "Exporting" }[job.kind];
    const state = job.state === "waiting" ? "waiting" : job.state === "paused" ? "paused" : job.total ? `${job.done} of ${job.total}` : "starting";
    return h("div", { className: "job" },
      h("div", { className: "row" }, h("span", { className: "grow" }, `${what}: ${state}`),
        job.kind === "export" || job.kind === "adapt" ? null : button(job.state === "paused" ? "Go on" : "Pause", job.state === "paused" ? "play" : "pause", () => model.act(job, job.state === "paused" ? "resume" : "pause"), { className: "plain" }),
        button("Cancel", "stop", () => model.act(job, "cancel"), { className: "plain" })),
      h("progress", { max: Math.max(1, job.total), value: job.done, "aria-label": what }),
      job.note ? h("span", { className: "muted" }, job.note) : null);
  }

  setWhy(why: Why): void {
    this.model.why = why;
    this.model.changed("tool");
    void this.model.explain();
  }

  /** Follows points where the point tool is chosen or there is nothing else, else objects. */
  begin(step: 1 | -1): void {
    const { model } = this;
    if (!model.project || model.running) return;
    const end = step > 0 ? Math.max(model.range[1], model.frame) : Math.min(model.range[0], model.frame);
    const points = model.points.length > 0 && (model.tool === "point" || !model.things.length);
    if (!points && !model.ids.some((id) => id)) return say(`Frame ${model.frame} shows no object. Paint one here, then track from it.`);
    void model.begin({
      kind: points ? "points" : "masks", begin: model.frame, end, method: this.method.value || "standard", quality: this.quality.value,
      objects: model.things.map((t) => t.id).filter((i) => model.chosen.has(i)),
    });
  }

  private take(): void {
    const file = this.file.files?.[0];
    this.file.value = "";
    if (file) this.model.import(file);
  }
}
