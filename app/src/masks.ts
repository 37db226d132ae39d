// What tools do to a mask (H·W ids, row by row), and how it looks. Nothing here knows of the page.

import type { Thing } from "./api";

export type XY = [number, number];
type Rectangle = [left: number, top: number, wide: number, high: number];

/** Which ids may not be painted over. */
export function frozen(things: Thing[]): Uint8Array {
  const locked = new Uint8Array(256);
  for (const t of things) if (t.locked) locked[t.id] = 1;
  return locked;
}

/** Sets all pixels within `r` of a line, but those of locked objects, and says where it has been. */
export function stroke(ids: Uint8Array, width: number, from: XY, to: XY, r: number, value: number, locked: Uint8Array): Rectangle {
  const height = ids.length / width;
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const long = dx * dx + dy * dy;
  const x0 = Math.max(0, Math.ceil(Math.min(from[0], to[0]) - r));
  const x1 = Math.min(width - 1, Math.floor(Math.max(from[0], to[0]) + r));
  const y0 = Math.max(0, Math.ceil(Math.min(from[1], to[1]) - r));
  const y1 = Math.min(height - 1, Math.floor(Math.max(from[1], to[1]) + r));
  for (let y = y0; y <= y1; y++) {
    for (let x = x0; x <= x1; x++) {
      const s = long ? Math.min(1, Math.max(0, ((x - from[0]) * dx + (y - from[1]) * dy) / long)) : 0;
      const [u, v] = [x - from[0] - s * dx, y - from[1] - s * dy];
      const i = y * width + x;
      if (u * u + v * v <= r * r && !locked[ids[i]!]) ids[i] = value;
    }
  }
  return [x0 - 2, y0 - 2, x1 - x0 + 5, y1 - y0 + 5];
}

/** Which pixels lie in the rectangle of two corners, both of them included. */
export function box(a: XY, b: XY, width: number): (i: number) => boolean {
  const [ax, ay, bx, by] = [...a, ...b].map(Math.round) as [number, number, number, number];
  const within = (v: number, p: number, q: number) => v >= Math.min(p, q) && v <= Math.max(p, q);
  return (i) => ax !== bx && ay !== by && within(i % width, ax, bx) && within(Math.floor(i / width), ay, by);
}

/** Which pixels lie in a polygon. */
export function polygon(corners: XY[], width: number, height: number): (i: number) => boolean {
  const paint = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true })!;
  paint.translate(0.5, 0.5);
  paint.beginPath();
  corners.forEach(([x, y]) => paint.lineTo(x, y));
  paint.fill();
  const alpha = paint.getImageData(0, 0, width, height).data;
  return (i) => alpha[4 * i + 3]! >= 128;
}

/** Colours a rectangle of `layer`, which is as large as the mask: a tint, and a line where an object ends. */
export function tint(layer: HTMLCanvasElement, ids: Uint8Array, things: Thing[], [left, top, wide, high]: Rectangle): void {
  const { width, height } = layer;
  const [x0, x1] = [Math.max(0, left), Math.min(width, left + wide)];
  let [y0, y1] = [Math.max(0, top), Math.min(height, top + high)];
  if (x1 <= x0 || y1 <= y0) return;
  const paint = layer.getContext("2d")!;
  paint.clearRect(x0, y0, x1 - x0, y1 - y0);
  const empty = (y: number) => {
    for (let i = y * width + x0; i < y * width + x1; i++) if (ids[i]) return false;
    return true;
  };
  while (y0 < y1 && empty(y0)) y0++; // most of a large picture is often background
  while (y0 < y1 && empty(y1 - 1)) y1--;
  if (y0 === y1) return;
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
  paint.putImageData(image, x0, y0);
}
