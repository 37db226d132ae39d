// The server's routes as functions. Every error is an Error whose message can be shown as it is.

export interface Thing {
  id: number;
  name: string;
  color: string;
  hidden: boolean;
  locked: boolean;
  deleted: boolean;
}

export interface Point {
  id: number;
  name: string;
  keys: Record<number, [number, number]>;
}

export interface Job {
  type: "job";
  id: string;
  kind: "masks" | "points" | "adapt" | "export";
  state: "waiting" | "running" | "paused" | "done" | "cancelled" | "failed";
  done: number;
  total: number;
  note: string;
  result: string;
}

/** How well features of held-out frames tell what moves together, and were found again: in another view of the frame, and
 * there and back in time. */
export interface Adaptation {
  kept: "original" | "statistics" | "adapted";
  together?: [number, number] | null;
  before: { view: number; cycle: number };
  after: { view: number; cycle: number };
}

export type Sure = Record<number, number>;
export type Placed = Record<number, [number, number, number]>;

export interface Project {
  id: string;
  name: string;
  width: number;
  height: number;
  count: number;
  fps: number;
  objects: Thing[];
  keys: number[];
  points: Point[];
  adapted: Adaptation | null;
  tracked: Record<number, Sure>;
  followed: Record<number, Placed>;
  jobs: Job[];
}

export interface State {
  projects: { id: string; name: string }[];
  colors: string[];
  uploadBytes: number;
  importBytes: number;
}

/** Names and titles of what can be exported, and the suffixes of what can be imported. */
export interface Formats {
  writes: Record<string, string>;
  reads: string[];
}

export type Message =
  | Job
  | { type: "changed" }
  | { type: "mask"; frame: number; confidence: Sure; job: string; done: number; total: number }
  | { type: "points"; frame: number; points: Placed; job: string; done: number; total: number };

async function ask(path: string, options: RequestInit = {}): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(`api/${path}`, { ...options, headers: { "x-pixeltrail": "1", ...options.headers } });
  } catch {
    throw new Error("The server does not answer. Is pixeltrail app still running in the terminal?");
  }
  if (!answer.ok) {
    const text = await answer.text();
    let told = text;
    try {
      told = JSON.parse(text).error ?? text;
    } catch {
      /* plain text is shown as it is */
    }
    throw new Error(told.slice(0, 400));
  }
  return answer;
}

const json = (body: unknown): RequestInit => ({
  body: JSON.stringify(body),
  headers: { "content-type": "application/json" },
});
const bytes = async (answer: Response) => new Uint8Array(await answer.arrayBuffer());

export const state = async (): Promise<State> => (await ask("state")).json();
export const formats = async (): Promise<Formats> => (await ask("formats")).json();
export const project = async (id: string): Promise<Project> => (await ask(`projects/${id}`)).json();
export const thumb = (id: string, t: number) => `api/projects/${id}/thumbs/${t}.jpg`;
export const exported = (id: string, name: string) => `api/projects/${id}/exports/${encodeURIComponent(name)}`;

export async function picture(id: string, path: string, signal?: AbortSignal): Promise<ImageBitmap> {
  return createImageBitmap(await (await ask(`projects/${id}/${path}`, signal ? { signal } : {})).blob());
}

export const mask = async (id: string, t: number) => bytes(await ask(`projects/${id}/masks/${t}`));

export async function paint(id: string, t: number, runs: Uint8Array<ArrayBuffer>, key: boolean) {
  const answer = await ask(`projects/${id}/masks/${t}?key=${key}`, { method: "PUT", body: runs });
  return (await answer.json()) as { key: boolean; confidence: Sure };
}

export async function importFile(id: string, t: number, file: File) {
  const address = `projects/${id}/import/${t}?name=${encodeURIComponent(file.name)}`;
  return (await ask(address, { method: "PUT", body: file })).json() as Promise<{ run: string; frames: number; points: number }>;
}

export const swap = (id: string, run: string) => ask(`projects/${id}/runs/${run}/swap`, { method: "POST" });

export async function carried(id: string, t: number, reference: number, weights: "standard" | "adapted") {
  return bytes(await ask(`projects/${id}/carried/${t}?reference=${reference}&weights=${weights}&quality=balanced`));
}

export async function fill(id: string, t: number, x: number, y: number, tolerance: number) {
  return bytes(await ask(`projects/${id}/fill/${t}`, { method: "POST", ...json({ x, y, tolerance }) }));
}

export const objects = (id: string, things: Thing[]) => ask(`projects/${id}/objects`, { method: "PUT", ...json(things) });
export const points = (id: string, all: Point[]) => ask(`projects/${id}/points`, { method: "PUT", ...json(all) });

export async function start(id: string, body: Record<string, unknown>): Promise<Job> {
  return (await ask(`projects/${id}/jobs`, { method: "POST", ...json(body) })).json();
}

export const act = (id: string, job: string, action: "pause" | "resume" | "cancel") =>
  ask(`projects/${id}/jobs/${job}/${action}`, { method: "POST" });

export function upload(file: File, progress: (share: number) => void): Promise<{ id: string }> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not say how much of a body is sent
    request.open("PUT", `api/upload?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("x-pixeltrail", "1");
    request.upload.onprogress = (e) => progress(e.loaded / Math.max(e.total, 1));
    request.onerror = () => reject(new Error("The upload was broken off; try again."));
    request.onload = () => {
      try {
        const told = JSON.parse(request.responseText);
        if (request.status === 200) resolve(told);
        else reject(new Error(told.error ?? `The server refuses the file (${request.status}).`));
      } catch {
        reject(new Error(request.responseText.slice(0, 200) || `The server refuses the file (${request.status}).`));
      }
    };
    request.send(file);
  });
}

export function listen(id: string, told: (m: Message, data: Uint8Array) => void, broken: (b: boolean) => void): () => void {
  let socket: WebSocket | undefined;
  let over = false;
  const open = () => {
    const address = new URL(`api/projects/${id}/events`, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => broken(false);
    socket.onmessage = (e: MessageEvent<ArrayBuffer>) => {
      const head = new DataView(e.data).getUint32(0, true);
      told(JSON.parse(new TextDecoder().decode(new Uint8Array(e.data, 4, head))), new Uint8Array(e.data, 4 + head));
    };
    socket.onclose = () => {
      if (over) return;
      broken(true);
      setTimeout(open, 1500);
    };
  };
  open();
  return () => {
    over = true;
    socket?.close();
  };
}
