// What the page knows of the open project: masks, frames, objects, points, and how each change is undone and saved.

import * as api from "./api";
import type { Job, Message, Point, Project, Thing } from "./api";
import { fail, say } from "./dom";
import { type Step, Steps } from "./history";
import { decode, encode } from "./runs";
import { Store } from "./store";
import { explained, type Why } from "./why";

export type Tool = "pan" | "brush" | "eraser" | "polygon" | "box" | "point" | "fill";
type Runs = Uint8Array<ArrayBuffer>;

export class Model {
  project: Project | null = null;
  frame = 0;
  ids = new Uint8Array(0);
  picture: ImageBitmap | null = null;
  overlay: ImageBitmap | null = null;
  /** The nearest key frame's mask carried here by the standard weights and by the adapted ones. */
  compared: [Uint8Array, Uint8Array] | null = null;
  /** A small picture of the frame that the scrubber has come to, until the frame itself is there. */
  glance: { frame: number; image: HTMLImageElement } | null = null;
  /** What is being waited for. */
  waiting = "";
  tool: Tool = "brush";
  why: Why = "none";
  radius = 12;
  tolerance = 0.5;
  selected = 0;
  chosen = new Set<number>();
  range: [number, number] = [0, 0];
  jobs = new Map<string, Job>();
  follow = true;
  /** The user looks at or paints something else while tracking goes on: do not lead them away. */
  left = false;
  hands = false;
  loop = false;
  playing = false;
  saving = 0;
  broken = false;
  copied: Uint8Array | null = null;
  colors: string[] = [];
  /** How large a file may be that is imported, in bytes. */
  importBytes = Infinity;
  readonly steps = new Steps(() => this.changed("history"));
  /** Called with what has changed: "project", "frame", "mask", "tool", "objects", "points", "jobs", "strip", "history". */
  changed: (what: string) => void = () => undefined;
  exported: (name: string) => void = () => undefined;

  private store: Store | null = null;
  /** What is known of each job, whose messages may come before the answer that names it. */
  private runs = new Map<string, { step: Step | null; frames: number; over: boolean }>();
  private wanted = 0;
  private reaching: Promise<boolean> | null = null;
  private queue: Promise<unknown> = Promise.resolve();
  private stop: () => void = () => undefined;

  get things(): Thing[] {
    return this.project?.objects.filter((t) => !t.deleted) ?? [];
  }
  get points(): Point[] {
    return this.project?.points ?? [];
  }
  get current(): Thing | undefined {
    return this.things.find((t) => t.id === this.selected);
  }
  get isKey(): boolean {
    return this.project?.keys.includes(this.frame) ?? false;
  }
  get running(): Job | undefined {
    return [...this.jobs.values()].find((j) => j.kind !== "export");
  }

  async open(id: string, frame = 0): Promise<void> {
    this.stop();
    const project = await api.project(id);
    this.project = project;
    this.store = new Store(project);
    this.store.prefetch(Math.min(frame, project.count - 1)); // on its way while the page is made ready for it
    this.steps.clear();
    this.runs.clear();
    this.jobs = new Map(project.jobs.map((j) => [j.id, j]));
    this.range = [0, project.count - 1];
    this.chosen = new Set(this.things.map((t) => t.id));
    this.selected = this.things[0]?.id ?? 0;
    this.ids = new Uint8Array(project.width * project.height);
    this.picture = this.glance = null;
    this.changed("project");
    this.stop = api.listen(id, (m, data) => this.heard(m, data), (b) => this.reconnected(b));
    await this.show(Math.min(frame, project.count - 1));
  }

  close(): void {
    this.stop();
    this.project = null;
    this.changed("project");
  }

  /** Shows a frame once its picture and mask are there. Of those that are asked for meanwhile only the last is loaded
   * then, so that whoever drags the scrubber never waits for frames that are passed already. */
  show(t: number, following = false): Promise<boolean> {
    if (!this.project) return Promise.resolve(false);
    if (!following && this.running) this.left = true;
    this.wanted = Math.max(0, Math.min(this.project.count - 1, Math.round(t)));
    this.reaching ??= this.reach().finally(() => (this.reaching = null));
    return this.reaching;
  }

  /** Loads what is wanted until that is what is shown. */
  private async reach(): Promise<boolean> {
    for (;;) {
      const { project, store, wanted: t } = this;
      if (!project || !store) return false;
      try {
        const [picture, ids] = await Promise.all([store.frame(t), store.mask(t)]);
        if (this.project !== project || (this.wanted !== t && this.glance)) continue;
        this.frame = t;
        this.picture = picture;
        this.ids = ids.slice();
        this.overlay = this.compared = this.glance = null;
        history.replaceState(null, "", `#${project.id}/${t}`);
        this.changed("frame");
        void this.explain();
      } catch (error) {
        if (this.project !== project) continue;
        this.glance = null;
        fail(error);
        if (this.wanted === t) return false;
      }
      if (this.wanted === t) return true;
    }
  }

  /** What the scrubber shows of a frame that is still being loaded. */
  peek(frame: number, image: HTMLImageElement): void {
    this.glance = { frame, image };
    this.changed("strip");
  }

  ready = (t: number) => this.store?.ready(t) ?? false;
  prefetch = (t: number) => this.store?.prefetch(t);

  /** The key frame that lies nearest, but not the one that is shown. */
  reference(): number | undefined {
    const others = this.project!.keys.filter((k) => k !== this.frame);
    return others.sort((a, b) => Math.abs(a - this.frame) - Math.abs(b - this.frame))[0];
  }

  async explain(): Promise<void> {
    const { project, frame, why } = this;
    const shown = this.overlay || this.compared || this.waiting;
    this.overlay = this.compared = null;
    if (!project || why === "none" || why === "heat") return shown ? this.wait("") : undefined;
    this.wait("One moment…");
    const here = () => this.frame === frame && this.why === why && this.project === project;
    try {
      const found = await explained(project, frame, why, this.reference());
      if (here()) Object.assign(this, found);
    } catch (error) {
      fail(error);
    }
    if (here()) this.wait("");
  }

  wait(reason: string): void {
    this.waiting = reason;
    this.changed("mask");
  }

  // Changes

  /** The mask that is shown has been painted on, and was `before`. */
  painted(label: string, before: Uint8Array): void {
    const [t, was, now] = [this.frame, encode(before), encode(this.ids)];
    if (was.length === now.length && was.every((b, i) => b === now[i])) return;
    const wasKey = this.isKey;
    this.steps.did({ label, undo: () => this.put(t, was, wasKey), redo: () => this.put(t, now, true) });
    this.put(t, now, true, false);
  }

  private put(t: number, runs: Runs, key: boolean, visit = true): void {
    const project = this.project!;
    const ids = decode(runs, project.width * project.height);
    this.store!.put(t, ids);
    project.keys = project.keys.filter((k) => k !== t);
    if (key) project.keys = [...project.keys, t].sort((a, b) => a - b);
    project.tracked[t] ??= {};
    this.save(async () => {
      const told = await api.paint(project.id, t, runs, key);
      project.tracked[t] = told.confidence;
      if (!key && Object.keys(told.confidence).length === 0) delete project.tracked[t];
    });
    if (visit) void this.show(t);
    this.changed("mask");
  }

  setThings(label: string, now: Thing[]): void {
    const was = this.project!.objects;
    this.steps.did({ label, undo: () => this.putThings(was), redo: () => this.putThings(now) });
    this.putThings(now);
  }

  private putThings(things: Thing[]): void {
    const project = this.project!;
    project.objects = things;
    if (!this.current) this.selected = this.things[0]?.id ?? 0;
    this.save(() => api.objects(project.id, things));
    this.changed("objects");
  }

  change(id: number, label: string, to: Partial<Thing>): void {
    this.setThings(label, this.project!.objects.map((t) => (t.id === id ? { ...t, ...to } : t)));
  }

  /** A new object, which is then the one that is painted. */
  addThing(): Thing | undefined {
    const taken = new Set(this.project!.objects.map((t) => t.id));
    const id = Array.from({ length: 254 }, (_, i) => i + 1).find((i) => !taken.has(i));
    if (!id) {
      say("254 objects are the most.", "error");
      return undefined;
    }
    const color = this.colors[(id - 1) % this.colors.length]!;
    const thing = { id, name: `Object ${id}`, color, hidden: false, locked: false, deleted: false };
    this.selected = id;
    this.chosen.add(id);
    this.setThings("add object", [...this.project!.objects, thing]);
    return thing;
  }

  setPoints(label: string, now: Point[]): void {
    const was = this.points;
    this.steps.did({ label, undo: () => this.putPoints(was), redo: () => this.putPoints(now) });
    this.putPoints(now);
  }

  private putPoints(points: Point[]): void {
    const project = this.project!;
    project.points = points;
    const ids = new Set(points.map((p) => p.id));
    for (const row of Object.values(project.followed)) for (const id of Object.keys(row)) if (!ids.has(+id)) delete row[+id];
    for (const p of points) for (const [t, [x, y]] of Object.entries(p.keys)) (project.followed[+t] ??= {})[p.id] = [x, y, 1];
    this.save(() => api.points(project.id, points));
    this.changed("points");
  }

  placePoint(id: number | null, x: number, y: number): void {
    const t = this.frame;
    if (id === null) {
      const next = Math.max(-1, ...this.points.map((p) => p.id)) + 1;
      this.setPoints("add point", [...this.points, { id: next, name: `Point ${next + 1}`, keys: { [t]: [x, y] } }]);
    } else {
      const moved = (p: Point): Point => (p.id === id ? { ...p, keys: { ...p.keys, [t]: [x, y] } } : p);
      this.setPoints("move point", this.points.map(moved));
    }
  }

  /** Annotations made elsewhere: masks, boxes or points of this frame or of the whole video. */
  import(file: File): void {
    const project = this.project!;
    const [objects, points] = [project.objects, project.points];
    if (file.size > this.importBytes) {
      return say(`${file.name} is larger than ${Math.round(this.importBytes / 2 ** 20)} MiB. Split it, by frames or by objects.`, "error");
    }
    this.save(async () => {
      const { run, frames, points: placed } = await api.importFile(project.id, this.frame, file);
      await this.refresh(project.id);
      const [objectsNow, pointsNow] = [project.objects, project.points];
      this.steps.did({
        label: "import",
        undo: () => (this.swap(run), this.putThings(objects), this.putPoints(points)),
        redo: () => (this.putThings(objectsNow), this.putPoints(pointsNow), this.swap(run)),
      });
      const many = (n: number, what: string) => (n ? [`${what} on ${n} frame${n > 1 ? "s" : ""}`] : []);
      say(`Imported ${[...many(frames, "masks"), ...many(placed, "points")].join(" and ")}.`);
    });
  }

  /** Takes back what a job or an import has done, or does it again; a job that still runs is ended. */
  private swap(run: string): void {
    const project = this.project!;
    this.save(async () => {
      if (this.jobs.has(run)) await api.act(project.id, run, "cancel").catch(() => undefined);
      await api.swap(project.id, run);
      await this.refresh(project.id);
    });
  }

  /** What the server knows of the project now. The frame that is shown stays. */
  private async refresh(id: string): Promise<void> {
    const now = await api.project(id);
    if (this.project?.id !== id) return;
    const known = new Set(this.project.objects.map((t) => t.id));
    Object.assign(this.project, now);
    for (const t of this.things) if (!known.has(t.id)) this.chosen.add(t.id);
    if (!this.current) this.selected = this.things[0]?.id ?? 0;
    this.store!.forgetMasks();
    await this.show(this.frame, true);
    this.changed("points");
  }

  /** Writes follow one another, so that a mask never comes before its object. */
  private save(write: () => Promise<unknown>): void {
    this.saving++;
    this.changed("saving");
    this.queue = this.queue.then(write).catch(fail).finally(() => {
      this.saving--;
      this.changed("saving");
    });
  }

  // Jobs

  async begin(body: Record<string, unknown>): Promise<void> {
    try {
      await this.queue;
      this.left = false;
      const job = await api.start(this.project!.id, body);
      const run = this.run(job.id);
      if (!run.over && !this.jobs.has(job.id)) this.jobs.set(job.id, job);
      if ((job.kind === "masks" || job.kind === "points") && (run.frames || !run.over)) {
        run.step = this.steps.did({ label: "tracking", undo: () => this.swap(job.id), redo: () => this.swap(job.id) });
      }
      this.changed("jobs");
    } catch (error) {
      fail(error);
    }
  }

  private run(id: string) {
    const run = this.runs.get(id) ?? { step: null, frames: 0, over: false };
    this.runs.set(id, run);
    return run;
  }

  act(job: Job, action: "pause" | "resume" | "cancel"): void {
    api.act(this.project!.id, job.id, action).catch(fail);
  }

  private heard(message: Message, data: Uint8Array): void {
    const project = this.project!;
    if (message.type === "changed") return void this.queue.then(() => this.refresh(project.id)).catch(fail);
    if (message.type === "job") {
      const over = ["done", "failed", "cancelled"].includes(message.state);
      if (over) this.jobs.delete(message.id);
      else this.jobs.set(message.id, message);
      const run = this.run(message.id);
      run.over = over;
      if (over && run.step && !run.frames) this.steps.forget(run.step);
      if (message.state === "failed") say(message.note, "error");
      if (message.kind === "adapt" && message.state === "done") {
        say(`Adapted: ${message.note}`);
        void this.refresh(project.id).catch(fail);
      }
      if (message.kind === "export" && message.state === "done") {
        this.exported(message.result);
        say(`Exported ${message.result}.${message.note ? ` ${message.note}.` : ""}`);
      }
      return this.changed("jobs");
    }
    const job = this.jobs.get(message.job);
    this.run(message.job).frames++;
    if (job) Object.assign(job, { done: message.done, total: message.total });
    if (message.type === "points") project.followed[message.frame] = message.points;
    else {
      project.tracked[message.frame] = message.confidence;
      if (data.length) this.store!.put(message.frame, decode(data, project.width * project.height));
      else this.store!.forget(message.frame);
    }
    const lead = this.follow && !this.left && !this.playing;
    if (!this.hands && (message.frame === this.frame || lead)) void this.show(message.frame, true);
    return this.changed("jobs");
  }

  private reconnected(broken: boolean): void {
    const again = this.broken && !broken;
    this.broken = broken;
    this.changed("saving");
    if (again && this.project) void this.open(this.project.id, this.frame).catch(fail);
  }
}
