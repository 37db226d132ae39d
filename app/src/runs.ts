// Masks on their way between server and page: n, n lengths, n labels. The server has the same in runs.py.

export function encode(ids: Uint8Array): Uint8Array<ArrayBuffer> {
  const starts: number[] = [0];
  for (let i = 1; i < ids.length; i++) if (ids[i] !== ids[i - 1]) starts.push(i);
  const out = new Uint8Array(4 + 5 * starts.length);
  const view = new DataView(out.buffer);
  view.setUint32(0, starts.length, true);
  starts.forEach((start, k) => {
    view.setUint32(4 + 4 * k, (starts[k + 1] ?? ids.length) - start, true);
    out[4 + 4 * starts.length + k] = ids[start]!;
  });
  return out;
}

export function decode(data: Uint8Array, pixels: number): Uint8Array {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const count = view.getUint32(0, true);
  const ids = new Uint8Array(pixels);
  for (let k = 0, at = 0; k < count; k++) {
    const length = view.getUint32(4 + 4 * k, true);
    ids.fill(data[4 + 4 * count + k]!, at, at + length);
    at += length;
  }
  return ids;
}
