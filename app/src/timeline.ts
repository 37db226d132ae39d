// Below the picture: play and step, and the scrubber with thumbnails, key frames, and how sure the tracker was.

import * as api from "./api";
import { button, h, icon, say } from "./dom";
import type { Model } from "./model";

const THUMBS = 46;
const STRIP = 14;
/** Instead of how sure the tracker was: it has been here, and found none of the objects. */
const GONE = 2;
/** Frames in doubt that lie closer together are one stretch. */
const APART = 8;

export class Timeline {
  private readonly canvas = h("canvas", { className: "strip", tabIndex: 0, role: "slider", "aria-label": "Frame", "aria-valuemin": 0 });
  private readonly field = h("input", { type: "number", min: "0", className: "frame-field", "aria-label": "Frame number", onchange: () => void this.model.show(this.field.valueAsNumber || 0) });
  private readonly total = h("span", { className: "muted" });
  private readonly begin = h("input", { type: "number", min: "0", className: "frame-field", "aria-label": "First frame of the range", onchange: () => this.setRange() });
  private readonly end = h("input", { type: "number", min: "0", className: "frame-field", "aria-label": "Last frame of the range", onchange: () => this.setRange() });
  private readonly playing = button("Play or pause (space)", "play", () => this.play());
  private readonly looping = button("Loop (L)", "loop", () => this.loop(), { "aria-pressed": "false" });
  private thumbs = new Map<number, HTMLImageElement>();
  private last = 0;
  private drawn = 0;
  readonly root = h("section", { className: "timeline", "aria-label": "Timeline" },
    h("div", { className: "transport" },
      button("Previous key frame ([)", "lastKey", () => this.key(-1)),
      button("One frame back (←)", "last", () => void this.model.show(this.model.frame - 1)),
      this.playing,
      button("One frame on (→)", "next", () => void this.model.show(this.model.frame + 1)),
      button("Next key frame (])", "nextKey", () => this.key(1)),
      this.looping,
      h("label", { className: "inline" }, "Frame ", this.field), this.total,
      h("span", { className: "space" }),
      button("Go to the next frame where the tracker doubts (D)", "Next doubt", () => this.doubt()),
      h("span", { className: "inline" }, "Range ", this.begin, " – ", this.end),
    ),
    this.canvas,
    h("div", { className: "legend muted" },
      h("span", { className: "swatch key" }), "key frame", h("span", { className: "swatch sure" }), "sure",
      h("span", { className: "swatch doubt" }), "in doubt", h("span", { className: "swatch gone" }), "nothing found", h("span", { className: "swatch none" }), "not tracked yet"),
  );

  constructor(private readonly model: Model) {
    let held = false;
    const go = (e: PointerEvent) => {
      const t = this.frameAt(e.offsetX);
      const image = model.ready(t) ? null : this.thumb(this.thumbAt(e.offsetX));
      if (image?.complete && image.naturalWidth) model.peek(t, image);
      void model.show(t);
    };
    this.canvas.addEventListener("pointerdown", (e) => {
      held = true;
      this.canvas.setPointerCapture(e.pointerId);
      go(e);
    });
    this.canvas.addEventListener("pointermove", (e) => {
      if (held) go(e);
      else if (model.project) this.canvas.title = `Frame ${this.frameAt(e.offsetX)}`;
    });
    const leave = () => (held = false);
    this.canvas.addEventListener("pointerup", leave);
    this.canvas.addEventListener("pointercancel", leave);
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  update(what: string): void {
    const { project } = this.model;
    const frame = this.model.glance?.frame ?? this.model.frame;
    if (what === "project") this.thumbs.clear();
    this.root.hidden = !project;
    if (!project) return;
    this.total.textContent = `of ${project.count - 1}`;
    this.field.max = this.begin.max = this.end.max = String(project.count - 1);
    this.field.value = String(frame);
    [this.begin.value, this.end.value] = this.model.range.map(String) as [string, string];
    this.canvas.setAttribute("aria-valuemax", String(project.count - 1));
    this.canvas.setAttribute("aria-valuenow", String(frame));
    this.playing.replaceChildren(icon(this.model.playing ? "pause" : "play"));
    this.looping.setAttribute("aria-pressed", String(this.model.loop));
    this.draw();
  }

  private setRange(): void {
    const most = this.model.project!.count - 1;
    const a = Math.min(most, Math.max(0, this.begin.valueAsNumber || 0));
    const b = Math.min(most, Math.max(0, Number.isNaN(this.end.valueAsNumber) ? most : this.end.valueAsNumber));
    this.model.range = [Math.min(a, b), Math.max(a, b)];
    this.model.changed("strip");
  }

  mark(which: 0 | 1): void {
    const [a, b] = this.model.range;
    const { frame } = this.model;
    this.model.range = which ? [Math.min(a, frame), frame] : [frame, Math.max(b, frame)];
    this.model.changed("strip");
  }

  loop(): void {
    this.model.loop = !this.model.loop;
    this.update("strip");
  }

  play(): void {
    const { model } = this;
    model.playing = !model.playing && !!model.project;
    this.update("strip");
    if (model.playing) {
      if (model.frame >= model.range[1]) void model.show(model.range[0]);
      this.last = performance.now();
      requestAnimationFrame((now) => this.tick(now));
    }
  }

  private tick(now: number): void {
    const { model } = this;
    if (!model.playing || !model.project) return this.update("strip");
    const next = model.frame >= model.range[1] ? (model.loop ? model.range[0] : -1) : model.frame + 1;
    if (next < 0) {
      model.playing = false;
      return this.update("strip");
    }
    for (let k = 0; k < 6; k++) model.prefetch(next + k);
    if (now - this.last >= 1000 / model.project.fps && model.ready(next)) {
      this.last = Math.max(this.last + 1000 / model.project.fps, now - 100);
      void model.show(next);
    }
    requestAnimationFrame((t) => this.tick(t));
  }

  key(step: 1 | -1): void {
    const keys = this.model.project?.keys ?? [];
    const next = step > 0 ? keys.find((k) => k > this.model.frame) : keys.findLast((k) => k < this.model.frame);
    if (next !== undefined) void this.model.show(next);
  }

  /** How sure the tracker was of a frame: of its least certain object or point that is there; GONE where none is. */
  private sure(t: number): number | null {
    const { project, things, points } = this.model;
    const [masks, places] = [project!.tracked[t], project!.followed[t]];
    if (!masks && !places) return null;
    let least = Infinity;
    for (const { id } of masks ? things : []) if (masks![id]! > 0) least = Math.min(least, masks![id]!);
    for (const { id } of places ? points : []) if (places![id]) least = Math.min(least, places![id]![2]);
    return least < Infinity ? least : GONE;
  }

  /** Goes to the worst frame of the next stretch among the tenth of frames that the tracker was least sure of. */
  doubt(): void {
    const { project, frame } = this.model;
    if (!project) return;
    const keys = new Set(project.keys);
    const sure = Array.from({ length: project.count }, (_, t) => (keys.has(t) ? null : this.sure(t)));
    const known = sure.filter((c): c is number => c !== null && c !== GONE).sort((a, b) => a - b);
    if (!known.length) return say("Nothing is tracked yet.");
    const limit = known[Math.floor(known.length / 10)]!;
    const worst: number[] = [];
    let last = -Infinity;
    sure.forEach((c, t) => {
      if (c === null || c > limit) return;
      if (t - last > APART) worst.push(t);
      else if (c < sure[worst.at(-1)!]!) worst[worst.length - 1] = t;
      last = t;
    });
    void this.model.show(worst.find((t) => t > frame) ?? worst[0]!);
  }

  private frameAt(x: number): number {
    const { count } = this.model.project!;
    return Math.max(0, Math.min(count - 1, Math.floor((x / this.canvas.clientWidth) * count)));
  }

  /** Width of a thumbnail. */
  private get wide(): number {
    return (THUMBS * this.model.project!.width) / this.model.project!.height;
  }

  /** The frame whose thumbnail lies there. */
  private thumbAt(x: number): number {
    const middle = (Math.floor(x / this.wide + 1e-6) + 0.5) * this.wide;
    return this.frameAt(Math.min(this.canvas.clientWidth - 1, middle));
  }

  private draw(): void {
    if (!this.drawn) this.drawn = requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    this.drawn = 0;
    const { project, range } = this.model;
    if (!project) return;
    const frame = this.model.glance?.frame ?? this.model.frame;
    const dense = window.devicePixelRatio || 1;
    const w = this.canvas.clientWidth;
    const high = THUMBS + STRIP + 12;
    this.canvas.width = Math.round(w * dense);
    this.canvas.height = Math.round(high * dense);
    const paint = this.canvas.getContext("2d")!;
    paint.scale(dense, dense);
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const wide = this.wide;
    for (let x = 0; x < w && this.model.picture; x += wide) { // what is shown large comes first
      const image = this.thumb(this.thumbAt(x));
      if (image.complete && image.naturalWidth) paint.drawImage(image, x, 0, wide, THUMBS);
    }
    const per = w / project.count;
    const y = THUMBS + 2;
    paint.fillStyle = colour("--none");
    paint.fillRect(0, y, w, STRIP);
    const columns = Math.min(project.count, Math.ceil(w)); // several frames may share a column: the worst one counts
    for (let c = 0; c < columns; c++) {
      let worst: number | null = null;
      const [from, to] = [Math.floor((c * project.count) / columns), Math.max(1, Math.floor(((c + 1) * project.count) / columns))];
      for (let t = from; t < to; t++) {
        const sure = this.sure(t);
        if (sure !== null && (worst === null || sure < worst)) worst = sure;
      }
      if (worst === null) continue;
      paint.fillStyle = worst === GONE ? colour("--gone") : `hsl(${Math.round(150 * Math.max(0, Math.min(1, (worst - 0.3) / 0.6)))} 65% 48%)`;
      paint.fillRect((c * w) / columns, y, Math.max(1, w / columns) + 0.5, STRIP);
    }
    paint.fillStyle = colour("--mark");
    for (const t of project.keys) {
      const x = Math.max(5, Math.min(w - 5, (t + 0.5) * per));
      paint.beginPath();
      for (const [dx, dy] of [[0, -5], [5, 0], [0, 5], [-5, 0]] as const) paint.lineTo(x + dx, y + STRIP / 2 + dy);
      paint.fill();
      paint.strokeStyle = "#000000";
      paint.lineWidth = 1;
      paint.closePath();
      paint.stroke();
    }
    paint.fillStyle = "rgb(0 0 0 / 50%)";
    paint.fillRect(0, 0, range[0] * per, THUMBS);
    paint.fillRect((range[1] + 1) * per, 0, w, THUMBS);
    paint.fillStyle = colour("--accent");
    for (const x of [range[0] * per, (range[1] + 1) * per - 3]) if (range[0] > 0 || range[1] < project.count - 1) paint.fillRect(x, 0, 3, THUMBS);
    const x = (frame + 0.5) * per;
    paint.fillStyle = "#000000";
    paint.fillRect(x - 2.5, 0, 5, high);
    paint.fillStyle = colour("--head");
    paint.fillRect(x - 1.5, 0, 3, high);
    paint.beginPath();
    for (const [dx, dy] of [[-6, high], [6, high], [0, high - 9]] as const) paint.lineTo(x + dx, dy);
    paint.fill();
  }

  private thumb(t: number): HTMLImageElement {
    let image = this.thumbs.get(t);
    if (!image) {
      image = new Image();
      image.onload = () => this.draw();
      image.src = api.thumb(this.model.project!.id, t);
      this.thumbs.set(t, image);
      if (this.thumbs.size > 300) this.thumbs.delete(this.thumbs.keys().next().value!);
    }
    return image;
  }
}
