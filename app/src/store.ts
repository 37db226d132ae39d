// Pictures and masks of one project that have been loaded: the last ones used, up to a number of bytes.

import * as api from "./api";
import type { Project } from "./api";
import { Kept } from "./kept";
import { decode } from "./runs";

const MASK_BYTES = 192 << 20;
const FRAME_BYTES = 320 << 20;

export class Store {
  private readonly masks: Kept<Uint8Array>;
  private readonly frames: Kept<ImageBitmap>;
  private readonly loading = new Map<number, Promise<ImageBitmap>>();
  private readonly pixels: number;

  constructor(private readonly project: Project) {
    this.pixels = project.width * project.height;
    this.masks = new Kept(Math.max(8, Math.floor(MASK_BYTES / this.pixels)));
    this.frames = new Kept(Math.max(6, Math.floor(FRAME_BYTES / (4 * this.pixels))), (b) => b.close());
  }

  ready = (t: number) => this.frames.has(t) && this.masks.has(t);

  frame(t: number): Promise<ImageBitmap> {
    const kept = this.frames.get(t);
    if (kept) return Promise.resolve(kept);
    let found = this.loading.get(t);
    if (!found) {
      found = api.picture(this.project.id, `frames/${t}.jpg`).then((picture) => {
        this.frames.set(t, picture);
        return picture;
      });
      found.finally(() => this.loading.delete(t)).catch(() => undefined);
      this.loading.set(t, found);
    }
    return found;
  }

  async mask(t: number): Promise<Uint8Array> {
    const kept = this.masks.get(t);
    if (kept) return kept;
    const known = this.project.tracked[t] !== undefined;
    const ids = known ? decode(await api.mask(this.project.id, t), this.pixels) : new Uint8Array(this.pixels);
    if (!this.masks.has(t)) this.masks.set(t, ids);
    return ids;
  }

  put = (t: number, ids: Uint8Array) => this.masks.set(t, ids);
  forget = (t: number) => this.masks.delete(t);
  forgetMasks = () => this.masks.clear();

  /** Loads a frame that will be shown soon. */
  prefetch(t: number): void {
    if (t >= this.project.count || this.ready(t)) return;
    void this.frame(t).catch(() => undefined);
    void this.mask(t).catch(() => undefined);
  }
}
