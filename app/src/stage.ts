// The picture: drawing, zoom and pan, and what each tool does with a pointer (mouse, pen or fingers).

import * as api from "./api";
import type { Project } from "./api";
import { fail, h, say } from "./dom";
import { Looks } from "./looks";
import { box, frozen, polygon, stroke, tint, type XY } from "./masks";
import type { Model } from "./model";
import { decode } from "./runs";
import { LEGENDS } from "./why";

export class Stage {
  readonly canvas = h("canvas", { className: "stage-canvas", tabIndex: 0, role: "img" });
  readonly looks: Looks;
  private readonly legend = h("p", { className: "why", hidden: true });
  readonly root = h("div", { className: "stage" }, this.canvas, this.legend);
  private readonly layer = document.createElement("canvas");
  /** Two more of them: masks before and after adapting, the border between them where the pointer was last. */
  private readonly sides = [document.createElement("canvas"), document.createElement("canvas")] as const;
  private border = 0.5;
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

  constructor(private readonly model: Model) {
    this.looks = new Looks(model);
    this.root.append(this.looks.root);
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
      this.looks.hide();
      if (project) {
        Object.assign(this.layer, { width: project.width, height: project.height });
        this.fit();
      }
    }
    if (!project) return this.draw();
    if (what === "frame") this.corners = [];
    if (this.model.why !== "heat") this.looks.hide();
    this.legend.textContent = this.model.waiting || LEGENDS[this.model.why];
    this.legend.hidden = !this.legend.textContent;
    this.canvas.setAttribute("aria-label", this.model.picture ? `Frame ${this.model.frame} of ${project.name}` : "Loading");
    const all = [0, 0, project.width, project.height] as const;
    if (!["frame", "mask", "objects"].includes(what)) return this.draw();
    tint(this.layer, this.model.ids, this.model.things, [...all]);
    this.sides.forEach((side, k) => {
      const ids = this.model.compared?.[k];
      Object.assign(side, ids ? { width: project.width, height: project.height } : { width: 0, height: 0 });
      if (ids) tint(side, ids, this.model.things, [...all]);
    });
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
    else if (model.why === "heat" && this.inside(this.pointer)) {
      this.looks.at(this.pointer, e.offsetX > this.root.clientWidth - 400);
    }
    if (model.compared) this.border = Math.min(1, Math.max(0, (this.pointer[0] + 0.5) / model.project.width));
    this.draw();
  }

  private up(e: PointerEvent): void {
    const { model, drag } = this;
    this.held.delete(e.pointerId);
    this.drag = null;
    model.hands = this.corners.length > 0;
    if (!drag || !model.project) return;
    if (drag.kind === "paint") model.painted(model.tool === "eraser" ? "erase" : "paint", drag.before!);
    if (drag.kind === "box") this.set("box", box(drag.from, drag.last, model.project.width), model.selected);
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

  private stroke(from: XY, to: XY, e: PointerEvent): void {
    const { ids, project, selected, tool, things, radius } = this.model;
    const r = Math.max(0.5, radius * (e.pointerType === "pen" ? 0.4 + 0.6 * e.pressure : 1));
    const touched = stroke(ids, project!.width, from, to, r, tool === "eraser" ? 0 : selected, frozen(things));
    tint(this.layer, ids, things, touched);
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
    const { width, height } = this.model.project!;
    if (this.corners.length > 2) this.set("polygon", polygon(this.corners, width, height), this.model.selected);
    this.corners = [];
    this.model.hands = false;
    this.draw();
  }

  private set(label: string, inside: (i: number) => boolean, value: number): void {
    const { model } = this;
    const [before, locked] = [model.ids.slice(), frozen(model.things)];
    for (let i = 0; i < before.length; i++) if (inside(i) && !locked[before[i]!]) model.ids[i] = value;
    this.update("mask");
    model.painted(label, before);
  }

  private async fill([x, y]: XY, remove: boolean): Promise<void> {
    const { model } = this;
    if (!this.mayPaint()) return;
    const { frame, project, selected } = model as { frame: number; project: Project; selected: number };
    try {
      model.wait("Finding what belongs together…");
      const runs = await api.fill(project.id, frame, Math.round(x), Math.round(y), model.tolerance);
      if (model.frame !== frame || model.project !== project) return;
      const found = decode(runs, project.width * project.height);
      if (remove) this.set("magic erase", (i) => found[i] === 1 && model.ids[i] === selected, 0);
      else this.set("magic fill", (i) => found[i] === 1, selected);
    } catch (error) {
      fail(error);
    } finally {
      model.wait("");
    }
  }

  private nearest([x, y]: XY): number | null {
    const here = Object.entries(this.model.project!.followed[this.model.frame] ?? {});
    const close = here.find(([, p]) => Math.hypot(p[0] - x, p[1] - y) * this.scale < 10);
    return close ? Number(close[0]) : null;
  }

  // Drawing

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
    const place = [this.x, this.y, project.width * this.scale, project.height * this.scale] as const;
    if (model.glance) return paint.drawImage(model.glance.image, ...place);
    paint.drawImage(picture, ...place);
    if (model.overlay) {
      paint.globalAlpha = model.why === "pca" || model.why === "flow" ? 0.85 : 1;
      paint.drawImage(model.overlay, ...place);
      paint.globalAlpha = 1;
    }
    paint.imageSmoothingEnabled = false;
    if (model.compared) this.comparison(paint, place);
    else paint.drawImage(this.layer, ...place);
    paint.imageSmoothingEnabled = true;
    this.marks(paint);
  }

  private comparison(paint: CanvasRenderingContext2D, [left, top, wide, high]: readonly [number, number, number, number]): void {
    const middle = left + this.border * wide;
    paint.font = "600 13px system-ui, sans-serif";
    for (const [k, label] of (["Before", "After"] as const).entries()) {
      paint.save();
      paint.beginPath();
      paint.rect(k ? middle : left, top, k ? left + wide - middle : middle - left, high);
      paint.clip();
      paint.drawImage(this.sides[k]!, left, top, wide, high);
      const width = paint.measureText(label).width + 16;
      const x = k ? middle + 8 : middle - 8 - width;
      paint.fillStyle = "rgb(0 0 0 / 65%)";
      paint.fillRect(x, top + 10, width, 24);
      paint.fillStyle = "#ffffff";
      paint.fillText(label, x + 8, top + 27);
      paint.restore();
    }
    paint.fillStyle = "#ffffff";
    paint.fillRect(middle - 1, top, 2, high);
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
