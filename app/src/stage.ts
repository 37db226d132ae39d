// The picture: drawing, zoom and pan, and what each tool does with a pointer (mouse, pen or fingers).

import * as api from "./api";
import { fail, h, say } from "./dom";
import type { Model } from "./model";
import { decode } from "./runs";

type XY = [number, number];

export class Stage {
  readonly canvas = h("canvas", { className: "stage-canvas", tabIndex: 0, role: "img" });
  readonly inset = h("canvas", { className: "inset", width: 320, height: 180, hidden: true, "aria-label": "What the pixel looks at" });
  private readonly caption = h("figcaption");
  readonly figure = h("figure", { className: "looks", hidden: true }, this.inset, this.caption);
  readonly root = h("div", { className: "stage" }, this.canvas, this.figure);
  private readonly layer = document.createElement("canvas");
  private scale = 1;
  private x = 0;
  private y = 0;
  private fitted = true;
  private pointer: XY | null = null;
  private held = new Map<number, XY>();
  private drag: { kind: "pan" | "paint" | "box" | "point"; from: XY; before?: Uint8Array<ArrayBuffer>; last: XY; point?: number | null } | null = null;
  corners: XY[] = [];
  panning = false;
  private drawn = 0;
  private asking = 0;
  private asked: AbortController | null = null;

  constructor(private readonly model: Model) {
    const c = this.canvas;
    c.addEventListener("pointerdown", (e) => this.down(e));
    c.addEventListener("pointermove", (e) => this.move(e));
    c.addEventListener("pointerup", (e) => this.up(e));
    c.addEventListener("pointercancel", (e) => this.up(e));
    c.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.draw();
    });
    c.addEventListener("wheel", (e) => {
      e.preventDefault();
      this.zoom(Math.exp(-e.deltaY * (e.ctrlKey ? 0.01 : 0.0015)), [e.offsetX, e.offsetY]);
    }, { passive: false });
    c.addEventListener("contextmenu", (e) => e.preventDefault());
    c.addEventListener("dblclick", () => this.model.tool === "polygon" && this.closePolygon());
    new ResizeObserver(() => (this.fitted ? this.fit() : this.draw())).observe(this.root);
  }

  /** The project, the frame or its mask is another one. */
  update(what: string): void {
    const { project } = this.model;
    if (what === "project") {
      this.corners = [];
      this.figure.hidden = true;
      if (project) {
        this.layer.width = project.width;
        this.layer.height = project.height;
        this.fit();
      }
    }
    if (!project) return this.draw();
    if (what === "frame") this.corners = [];
    if (what !== "points") this.tint(0, 0, project.width, project.height);
    this.canvas.setAttribute("aria-label", this.model.picture ? `Frame ${this.model.frame} of ${project.name}` : "Loading");
    this.draw();
  }

  fit(): void {
    const { project } = this.model;
    const { clientWidth: w, clientHeight: high } = this.root;
    if (!project || !w || !high) return;
    this.scale = Math.min((w - 32) / project.width, (high - 32) / project.height);
    this.x = (w - project.width * this.scale) / 2;
    this.y = (high - project.height * this.scale) / 2;
    this.fitted = true;
    this.draw();
  }

  zoom(by: number, at?: XY): void {
    const [px, py] = at ?? [this.root.clientWidth / 2, this.root.clientHeight / 2];
    const scale = Math.min(64, Math.max(0.05, this.scale * by));
    this.x = px - ((px - this.x) * scale) / this.scale;
    this.y = py - ((py - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.draw();
  }

  /** Pixel centres are at whole numbers: the first pixel reaches from -0.5 to 0.5. */
  private at(e: { offsetX: number; offsetY: number }): XY {
    return [(e.offsetX - this.x) / this.scale - 0.5, (e.offsetY - this.y) / this.scale - 0.5];
  }
  private inside = ([x, y]: XY) =>
    x >= -0.5 && y >= -0.5 && x < this.model.project!.width - 0.5 && y < this.model.project!.height - 0.5;

  // Pointers

  private down(e: PointerEvent): void {
    const { model } = this;
    if (!model.project || !model.picture) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(e.pointerId);
    this.held.set(e.pointerId, [e.offsetX, e.offsetY]);
    if (this.held.size === 2) return this.cancel(); // two fingers zoom and pan
    const from = this.at(e);
    this.pointer = from;
    model.hands = true;
    if (model.running) model.left = true;
    if (e.button === 1 || e.button === 2 || model.tool === "pan" || this.panning) {
      this.drag = { kind: "pan", from: [e.offsetX, e.offsetY], last: [e.offsetX, e.offsetY] };
    } else if (model.tool === "brush" || model.tool === "eraser") {
      if (!this.mayPaint()) return;
      this.drag = { kind: "paint", from, last: from, before: model.ids.slice() };
      this.stroke(from, from, e);
    } else if (model.tool === "box") {
      if (this.mayPaint()) this.drag = { kind: "box", from, last: from };
    } else if (model.tool === "polygon") {
      this.corner(from);
    } else if (model.tool === "point" && this.inside(from)) {
      this.drag = { kind: "point", from, last: from, point: this.nearest(from) };
    } else if (model.tool === "fill" && this.inside(from)) void this.fill(from, e.altKey);
    this.draw();
  }

  private move(e: PointerEvent): void {
    const { model, drag } = this;
    if (!model.project) return;
    const before = this.held.get(e.pointerId);
    if (before && this.held.size === 2) return this.pinch(e, before);
    if (before) this.held.set(e.pointerId, [e.offsetX, e.offsetY]);
    this.pointer = this.at(e);
    if (drag?.kind === "pan") {
      this.x += e.offsetX - drag.last[0];
      this.y += e.offsetY - drag.last[1];
      this.fitted = false;
      drag.last = [e.offsetX, e.offsetY];
    } else if (drag?.kind === "paint") {
      for (const part of e.getCoalescedEvents?.() ?? [e]) {
        const to = this.at(part);
        this.stroke(drag.last, to, e);
        drag.last = to;
      }
    } else if (drag) drag.last = this.pointer;
    else if (model.why === "heat") this.look();
    this.draw();
  }

  private up(e: PointerEvent): void {
    const { model, drag } = this;
    this.held.delete(e.pointerId);
    this.drag = null;
    model.hands = this.corners.length > 0;
    if (!drag || !model.project) return;
    if (drag.kind === "paint") model.painted(model.tool === "eraser" ? "erase" : "paint", drag.before!);
    if (drag.kind === "box") {
      const [[ax, ay], [bx, by]] = [drag.from, drag.last].map((p) => p.map(Math.round) as XY) as [XY, XY];
      const { width } = model.project;
      const within = (v: number, a: number, b: number) => v >= Math.min(a, b) && v <= Math.max(a, b);
      const inside = (i: number) => within(i % width, ax, bx) && within(Math.floor(i / width), ay, by);
      if (ax !== bx && ay !== by) this.set("box", inside, model.selected);
    }
    if (drag.kind === "point" && this.inside(drag.last)) model.placePoint(drag.point ?? null, ...drag.last);
    this.draw();
  }

  /** Leave what was begun: a stroke, a box, a polygon. */
  cancel(): void {
    if (this.drag?.before) {
      this.model.ids = this.drag.before;
      this.update("mask");
    }
    this.drag = null;
    this.corners = [];
    this.model.hands = false;
    this.draw();
  }

  private pinch(e: PointerEvent, before: XY): void {
    const other = [...this.held].find(([id]) => id !== e.pointerId)![1];
    const now: XY = [e.offsetX, e.offsetY];
    const spread = (p: XY) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
    this.x += (now[0] - before[0]) / 2;
    this.y += (now[1] - before[1]) / 2;
    this.zoom(spread(now) / spread(before), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
    this.held.set(e.pointerId, now);
  }

  // Painting

  /** There is an object to paint, made where there is none, and it may be changed. */
  private mayPaint(): boolean {
    const { model } = this;
    if (model.playing) model.playing = false;
    const thing = model.current ?? (model.tool === "eraser" ? undefined : model.addThing());
    if (thing?.locked) say(`${thing.name} is locked. Unlock it to change it.`);
    return model.tool === "eraser" || (thing !== undefined && !thing.locked);
  }

  private frozen(): Uint8Array {
    const locked = new Uint8Array(256);
    for (const t of this.model.things) if (t.locked) locked[t.id] = 1;
    return locked;
  }

  private stroke(from: XY, to: XY, e: PointerEvent): void {
    const { ids, project, selected, tool } = this.model;
    const { width, height } = project!;
    const r = Math.max(0.5, this.model.radius * (e.pointerType === "pen" ? 0.4 + 0.6 * e.pressure : 1));
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    const long = dx * dx + dy * dy;
    const x0 = Math.max(0, Math.ceil(Math.min(from[0], to[0]) - r));
    const x1 = Math.min(width - 1, Math.floor(Math.max(from[0], to[0]) + r));
    const y0 = Math.max(0, Math.ceil(Math.min(from[1], to[1]) - r));
    const y1 = Math.min(height - 1, Math.floor(Math.max(from[1], to[1]) + r));
    const frozen = this.frozen();
    const value = tool === "eraser" ? 0 : selected;
    for (let y = y0; y <= y1; y++) {
      for (let x = x0; x <= x1; x++) {
        const s = long ? Math.min(1, Math.max(0, ((x - from[0]) * dx + (y - from[1]) * dy) / long)) : 0;
        const [u, v] = [x - from[0] - s * dx, y - from[1] - s * dy];
        const i = y * width + x;
        if (u * u + v * v <= r * r && !frozen[ids[i]!]) ids[i] = value;
      }
    }
    this.tint(x0 - 2, y0 - 2, x1 - x0 + 5, y1 - y0 + 5);
  }

  private corner(at: XY): void {
    if (!this.corners.length && !this.mayPaint()) return;
    const first = this.corners[0];
    if (first && this.corners.length > 2 && Math.hypot(at[0] - first[0], at[1] - first[1]) * this.scale < 10) {
      return this.closePolygon();
    }
    this.corners.push(at);
  }

  closePolygon(): void {
    if (this.corners.length > 2) this.area("polygon", this.corners);
    this.corners = [];
    this.model.hands = false;
    this.draw();
  }

  private area(label: string, corners: XY[]): void {
    const { width, height } = this.model.project!;
    const canvas = new OffscreenCanvas(width, height);
    const paint = canvas.getContext("2d", { willReadFrequently: true })!;
    paint.translate(0.5, 0.5);
    paint.beginPath();
    corners.forEach(([x, y]) => paint.lineTo(x, y));
    paint.fill();
    const alpha = paint.getImageData(0, 0, width, height).data;
    this.set(label, (i) => alpha[4 * i + 3]! >= 128, this.model.selected);
  }

  private set(label: string, inside: (i: number) => boolean, value: number): void {
    const { model } = this;
    const [before, frozen] = [model.ids.slice(), this.frozen()];
    for (let i = 0; i < before.length; i++) if (inside(i) && !frozen[before[i]!]) model.ids[i] = value;
    this.update("mask");
    model.painted(label, before);
  }

  private async fill([x, y]: XY, remove: boolean): Promise<void> {
    const { model } = this;
    if (!this.mayPaint()) return;
    const [frame, project] = [model.frame, model.project!];
    try {
      this.canvas.classList.add("busy");
      const runs = await api.fill(project.id, frame, Math.round(x), Math.round(y), model.tolerance);
      if (model.frame !== frame || model.project !== project) return;
      const found = decode(runs, project.width * project.height);
      const selected = model.selected;
      if (remove) this.set("magic erase", (i) => found[i] === 1 && model.ids[i] === selected, 0);
      else this.set("magic fill", (i) => found[i] === 1, selected);
    } catch (error) {
      fail(error);
    } finally {
      this.canvas.classList.remove("busy");
    }
  }

  private nearest([x, y]: XY): number | null {
    const here = Object.entries(this.model.project!.followed[this.model.frame] ?? {});
    const close = here.find(([, p]) => Math.hypot(p[0] - x, p[1] - y) * this.scale < 10);
    return close ? Number(close[0]) : null;
  }

  // Seeing why

  /** The key frame that lies nearest, but not the one that is shown. */
  private reference(): number {
    const { project, frame } = this.model;
    const others = project!.keys.filter((k) => k !== frame);
    return others.sort((a, b) => Math.abs(a - frame) - Math.abs(b - frame))[0] ?? Math.max(0, frame - 1);
  }

  private look(): void {
    clearTimeout(this.asking);
    this.asking = window.setTimeout(async () => {
      const { model } = this;
      if (!this.pointer || !model.project || model.why !== "heat" || !this.inside(this.pointer)) return;
      const [x, y] = this.pointer.map(Math.round) as XY;
      const reference = this.reference();
      this.asked?.abort();
      this.asked = new AbortController();
      try {
        const id = model.project.id;
        const [seen, heat] = await Promise.all([
          api.picture(id, `frames/${reference}.jpg`, this.asked.signal),
          api.picture(id, `heat/${model.frame}?x=${x}&y=${y}&reference=${reference}`, this.asked.signal),
        ]);
        this.inset.height = Math.round((320 * seen.height) / seen.width);
        const paint = this.inset.getContext("2d")!;
        paint.drawImage(seen, 0, 0, 320, this.inset.height);
        paint.fillStyle = "rgb(0 0 0 / 45%)";
        paint.fillRect(0, 0, 320, this.inset.height);
        paint.drawImage(heat, 0, 0, 320, this.inset.height);
        this.caption.textContent = `(${x}, ${y}) looks here on frame ${reference}`;
        const right = this.x + x * this.scale > this.root.clientWidth - 400;
        this.figure.classList.toggle("left", right); // not over what is looked at
        this.figure.hidden = this.inset.hidden = false;
      } catch (error) {
        fail(error);
      }
    }, 120);
  }

  // Drawing

  /** Colours of the mask in a rectangle: a tint, and a line where an object ends. */
  private tint(left: number, top: number, wide: number, high: number): void {
    const { ids, project, things } = this.model;
    const { width, height } = project!;
    const [x0, y0] = [Math.max(0, left), Math.max(0, top)];
    const [x1, y1] = [Math.min(width, left + wide), Math.min(height, top + high)];
    if (x1 <= x0 || y1 <= y0) return;
    const image = new ImageData(x1 - x0, y1 - y0);
    const out = new Uint32Array(image.data.buffer);
    const [soft, line] = [new Uint32Array(256), new Uint32Array(256)];
    for (const t of things) {
      if (t.hidden) continue;
      const rgb = parseInt(t.color.slice(1), 16);
      const bgr = ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16);
      soft[t.id] = (bgr | (110 << 24)) >>> 0;
      line[t.id] = (bgr | (255 << 24)) >>> 0;
    }
    for (let y = y0, k = 0; y < y1; y++) {
      for (let x = x0; x < x1; x++, k++) {
        const i = y * width + x;
        const id = ids[i]!;
        if (!id) continue;
        const edge =
          (x > 0 && ids[i - 1] !== id) || (x + 1 < width && ids[i + 1] !== id) ||
          (y > 0 && ids[i - width] !== id) || (y + 1 < height && ids[i + width] !== id);
        out[k] = edge ? line[id]! : soft[id]!;
      }
    }
    this.layer.getContext("2d")!.putImageData(image, x0, y0);
  }

  draw(): void {
    if (!this.drawn) this.drawn = requestAnimationFrame(() => this.paint());
  }

  private paint(): void {
    this.drawn = 0;
    const { model, canvas } = this;
    const dense = window.devicePixelRatio || 1;
    const [w, high] = [this.root.clientWidth, this.root.clientHeight];
    if (canvas.width !== Math.round(w * dense) || canvas.height !== Math.round(high * dense)) {
      canvas.width = Math.round(w * dense);
      canvas.height = Math.round(high * dense);
    }
    canvas.style.cursor = model.tool === "pan" || this.panning ? "grab" : model.tool === "brush" || model.tool === "eraser" ? "none" : "crosshair";
    const paint = canvas.getContext("2d")!;
    paint.setTransform(dense, 0, 0, dense, 0, 0);
    paint.clearRect(0, 0, w, high);
    const { project, picture } = model;
    if (!project || !picture) return;
    paint.imageSmoothingEnabled = this.scale < 3;
    const box = [this.x, this.y, project.width * this.scale, project.height * this.scale] as const;
    paint.drawImage(picture, ...box);
    if (model.overlay) {
      paint.globalAlpha = 0.85;
      paint.drawImage(model.overlay, ...box);
      paint.globalAlpha = 1;
    }
    paint.imageSmoothingEnabled = false;
    paint.drawImage(this.layer, ...box);
    paint.imageSmoothingEnabled = true;
    this.marks(paint);
  }

  private marks(paint: CanvasRenderingContext2D): void {
    const { model, pointer, drag } = this;
    const to = ([x, y]: XY): XY => [this.x + (x + 0.5) * this.scale, this.y + (y + 0.5) * this.scale];
    const outlined = (path: () => void, color: string) => {
      for (const [width, style] of [[3.5, "rgb(0 0 0 / 65%)"], [1.5, color]] as const) {
        paint.beginPath();
        path();
        paint.lineWidth = width;
        paint.strokeStyle = style;
        paint.stroke();
      }
    };
    const color = model.current?.color ?? "#ffffff";
    if (this.corners.length) {
      const line = pointer ? [...this.corners, pointer] : this.corners;
      outlined(() => line.map(to).forEach((p) => paint.lineTo(...p)), color);
      outlined(() => paint.arc(...to(this.corners[0]!), 5, 0, 7), "#ffffff");
    }
    if (drag?.kind === "box") {
      const [a, b] = [to(drag.from), to(drag.last)];
      outlined(() => paint.rect(a[0], a[1], b[0] - a[0], b[1] - a[1]), color);
    }
    for (const [id, [x, y, sure]] of Object.entries(model.project!.followed[model.frame] ?? {})) {
      const moving = drag?.kind === "point" && drag.point === Number(id);
      const [px, py] = to(moving ? drag.last : [x, y]);
      paint.globalAlpha = Math.max(0.35, sure);
      outlined(() => paint.arc(px, py, 5, 0, 7), `hsl(${(Number(id) * 137.5) % 360} 90% 65%)`);
      paint.globalAlpha = 1;
      const name = model.points.find((p) => p.id === Number(id))?.name ?? "";
      paint.font = "12px system-ui, sans-serif";
      paint.lineWidth = 3;
      paint.strokeStyle = "rgb(0 0 0 / 65%)";
      paint.strokeText(name, px + 8, py - 6);
      paint.fillStyle = "#ffffff";
      paint.fillText(name, px + 8, py - 6);
    }
    if (pointer && (model.tool === "brush" || model.tool === "eraser") && !this.panning) {
      outlined(() => paint.arc(...to(pointer), Math.max(2, model.radius * this.scale), 0, 7), model.tool === "eraser" ? "#ffffff" : color);
    }
  }
}
