// What a pixel looks at: a small picture of the reference frame in a corner of the stage.

import * as api from "./api";
import { fail, h } from "./dom";
import type { XY } from "./masks";
import type { Model } from "./model";

const WIDE = 320;

export class Looks {
  private readonly inset = h("canvas", { width: WIDE, height: 180, "aria-label": "What the pixel looks at" });
  private readonly caption = h("figcaption");
  readonly root = h("figure", { className: "looks", hidden: true }, this.inset, this.caption);
  private asking = 0;
  private asked: AbortController | null = null;

  constructor(private readonly model: Model) {}

  hide(): void {
    clearTimeout(this.asking);
    this.asked?.abort();
    this.root.hidden = true;
  }

  /** Asks once the pointer rests; `left` keeps the picture away from what is pointed at. */
  at(point: XY, left: boolean): void {
    clearTimeout(this.asking);
    this.asking = window.setTimeout(() => void this.ask(point, left), 120);
  }

  private async ask(point: XY, left: boolean): Promise<void> {
    const { project, frame, why } = this.model;
    if (!project || why !== "heat") return;
    const [x, y] = point.map(Math.round) as XY;
    const reference = this.model.reference() ?? Math.max(0, frame - 1);
    this.asked?.abort();
    this.asked = new AbortController();
    try {
      const [seen, heat] = await Promise.all([
        api.picture(project.id, `frames/${reference}.jpg`, this.asked.signal),
        api.picture(project.id, `heat/${frame}?x=${x}&y=${y}&reference=${reference}`, this.asked.signal),
      ]);
      this.inset.height = Math.round((WIDE * seen.height) / seen.width);
      const paint = this.inset.getContext("2d")!;
      paint.drawImage(seen, 0, 0, WIDE, this.inset.height);
      paint.fillStyle = "rgb(0 0 0 / 45%)";
      paint.fillRect(0, 0, WIDE, this.inset.height);
      paint.drawImage(heat, 0, 0, WIDE, this.inset.height);
      this.caption.textContent = `(${x}, ${y}) looks here on frame ${reference}`;
      this.root.classList.toggle("left", left);
      this.root.hidden = this.model.why !== "heat";
    } catch (error) {
      fail(error);
    }
  }
}
