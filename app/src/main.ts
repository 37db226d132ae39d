// The page as a whole: header, tools, keyboard, and what is shown when there is nothing to show.

import * as api from "./api";
import { button, fail, h, say, toasts } from "./dom";
import { Model, type Tool } from "./model";
import { Panel } from "./panel";
import { Stage } from "./stage";
import "./style.css";
import { Timeline } from "./timeline";

const model = new Model();
const stage = new Stage(model);
const timeline = new Timeline(model);
const server = await api.state().catch((error: Error) => {
  document.body.append(h("p", { className: "fatal", role: "alert" }, error.message));
  throw error;
});
model.colors = server.colors;
model.importBytes = server.importBytes;
const panel = new Panel(model);
let reads: string[] = [];

// Tools

const TOOLS: [Tool, string, string][] = [
  ["brush", "Brush", "B"], ["eraser", "Eraser", "E"], ["polygon", "Polygon", "P"], ["box", "Box", "R"],
  ["fill", "Magic fill", "M"], ["point", "Point", "K"], ["pan", "Move the picture", "H"],
];
const HINTS: Record<Tool, string> = {
  brush: "Paint the chosen object.", eraser: "Rub out. Locked objects stay.",
  polygon: "Click the corners; Enter or the first corner closes it.", box: "Drag a box: it is filled.",
  fill: "Click: all pixels around that belong together. Alt+click takes them off.",
  point: "Click to set a point; drag one to correct it.", pan: "Drag to move, wheel to zoom.",
};
const toolButtons = TOOLS.map(([tool, label, key]) => button(`${label} (${key})`, tool, () => setTool(tool), { className: "tool" }));
const size = h("input", { type: "range", min: "1", max: "120", value: String(model.radius), "aria-label": "Brush size", title: "Brush size (, and .)", oninput: () => setRadius(size.valueAsNumber) });
const sizeShown = h("output", { className: "muted" });
const tolerance = h("input", { type: "range", min: "0.05", max: "1.2", step: "0.05", value: String(model.tolerance), "aria-label": "Tolerance of magic fill", oninput: () => (model.tolerance = tolerance.valueAsNumber) });
const sizeBox = h("label", { className: "slider" }, "Size ", size, sizeShown);
const toleranceBox = h("label", { className: "slider" }, "Tolerance ", tolerance);
const hint = h("span", { className: "muted hint" });
const undo = button("Undo (Ctrl+Z)", "undo", () => model.steps.undo());
const redo = button("Redo (Ctrl+Shift+Z)", "redo", () => model.steps.redo());
const saved = h("span", { className: "saved muted", role: "status" });
const tools = h("nav", { className: "tools", "aria-label": "Tools" }, ...toolButtons);

function setTool(tool: Tool): void {
  stage.cancel();
  model.tool = tool;
  model.changed("tool");
}

function setRadius(radius: number): void {
  model.radius = Math.max(1, Math.min(120, Math.round(radius)));
  model.changed("tool");
}

function copyMask(): void {
  if (!model.project) return;
  model.copied = model.ids.slice();
  say(`The mask of frame ${model.frame} is copied. Go to another frame and press V.`);
}

function change(label: string, paint: (ids: Uint8Array) => void): void {
  if (!model.project) return;
  const before = model.ids.slice();
  const locked = new Set(model.things.filter((t) => t.locked).map((t) => t.id));
  paint(model.ids);
  before.forEach((id, i) => locked.has(id) && (model.ids[i] = id));
  stage.update("mask");
  model.painted(label, before);
}

const pasteMask = () => {
  const { copied } = model;
  if (copied && copied.length === model.ids.length) change("paste mask", (ids) => ids.set(copied));
  else say("Copy a mask first (C).");
};

// Header, and what there is without a video

const file = h("input", { type: "file", accept: "video/*,.gif,.mkv,.avi", hidden: true, onchange: () => file.files?.[0] && void upload(file.files[0]) });
const choose = h("select", { "aria-label": "Video", onchange: () => void open(choose.value) });
const help = h("dialog", { className: "help", "aria-label": "Keyboard" });
const clear = button("Clear the mask of this frame (Delete)", "Clear frame", () => change("clear frame", (ids) => ids.fill(0)));
const header = h("header", {},
  h("img", { src: "./icon.svg", alt: "", width: 24, height: 24 }), h("strong", {}, "pixeltrail"), choose,
  button("Open another video", "Open video…", () => file.click()), file, saved,
  h("span", { className: "space" }), undo, redo,
  button("Copy the mask of this frame (C)", "Copy", copyMask), button("Paste the copied mask here (V)", "Paste", pasteMask), clear,
  button("Light or dark", "theme", switchTheme), button("Keyboard (?)", "help", () => help.showModal()));
const progress = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Upload" });
const empty = h("div", { className: "drop" },
  h("h1", {}, "Open a video"),
  h("p", {}, "Paint or click an object on one frame, watch it followed through the others, correct, export."),
  button("Choose a video", "Choose a video…", () => file.click(), { className: "main" }),
  h("p", { className: "muted" }, "Or drop it here. It stays on this machine."), progress);

async function upload(video: File): Promise<void> {
  file.value = "";
  if (video.size > server.uploadBytes) {
    return say(`${video.name} is larger than ${(server.uploadBytes / 1e9).toFixed(1)} GB. Open it from the terminal: pixeltrail app ${video.name}`, "error");
  }
  progress.hidden = false;
  say(`Reading ${video.name}…`);
  try {
    const { id } = await api.upload(video, (share) => (progress.value = share));
    server.projects = (await api.state()).projects;
    await open(id);
  } catch (error) {
    fail(error);
  } finally {
    progress.hidden = true;
  }
}

async function open(id: string, frame = 0): Promise<void> {
  await model.open(id, frame).catch((error) => {
    fail(error);
    model.close();
  });
}

function switchTheme(): void {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "light" ? "dark" : "light";
  localStorage.setItem("theme", root.dataset.theme);
  timeline.update("strip");
}

// Keyboard: one table, which is also what the help shows

const KEYS: [string, string, () => void][] = [
  ...TOOLS.map(([tool, label, key]): [string, string, () => void] => [key.toLowerCase(), label, () => setTool(tool)]),
  [" ", "Play or pause", () => timeline.play()],
  ["ArrowLeft", "One frame back", () => void model.show(model.frame - 1)],
  ["ArrowRight", "One frame on", () => void model.show(model.frame + 1)],
  ["Shift+ArrowLeft", "Ten frames back", () => void model.show(model.frame - 10)],
  ["Shift+ArrowRight", "Ten frames on", () => void model.show(model.frame + 10)],
  ["Home", "First frame", () => void model.show(0)],
  ["End", "Last frame", () => void model.show(Infinity)],
  ["[", "Previous key frame", () => timeline.key(-1)],
  ["]", "Next key frame", () => timeline.key(1)],
  ["d", "Next frame in doubt", () => timeline.doubt()],
  ["l", "Loop", () => timeline.loop()],
  ["i", "Range begins here", () => timeline.mark(0)],
  ["o", "Range ends here", () => timeline.mark(1)],
  ["t", "Track forward", () => panel.begin(1)],
  ["Shift+T", "Track backward", () => panel.begin(-1)],
  ["n", "New object", () => void model.addThing()],
  ["q", "Next object (1–9: that one)", nextObject],
  [",", "Smaller brush", () => setRadius(model.radius / 1.25 - 0.5)],
  [".", "Larger brush", () => setRadius(model.radius * 1.25 + 0.5)],
  ["Enter", "Close the polygon", () => stage.closePolygon()],
  ["Escape", "Leave what was begun", () => stage.cancel()],
  ["Backspace", "Take the last corner back", () => { stage.corners.pop(); stage.draw(); }],
  ["Delete", "Clear the frame", () => clear.click()],
  ["c", "Copy the mask", copyMask],
  ["v", "Paste the mask", pasteMask],
  ["w", "See what a pixel looks at", () => panel.setWhy(model.why === "heat" ? "none" : "heat")],
  ["+", "Zoom in", () => stage.zoom(1.25)],
  ["-", "Zoom out", () => stage.zoom(0.8)],
  ["0", "Whole picture", () => stage.fit()],
  ["Ctrl+z", "Undo", () => model.steps.undo()],
  ["Ctrl+Shift+Z", "Redo", () => model.steps.redo()],
  ["Ctrl+y", "Redo", () => model.steps.redo()],
  ["?", "This list", () => help.showModal()],
];
function nextObject(): void {
  const at = model.things.findIndex((t) => t.id === model.selected);
  pick(at + 1 < model.things.length ? at + 1 : 0);
}

function pick(place: number): void {
  const thing = model.things[place];
  if (!thing) return;
  model.selected = thing.id;
  model.changed("objects");
}

const named: Record<string, string> = { " ": "Space", ArrowLeft: "←", ArrowRight: "→" };
const shown = (key: string) =>
  key === "+" ? key : key.split("+").map((k) => named[k] ?? (k.length === 1 ? k.toUpperCase() : k)).join("+");
help.append(h("form", { method: "dialog" }, h("div", { className: "row" }, h("h2", { className: "grow" }, "Keyboard"), button("Close", "×", () => help.close(), { className: "plain" })),
  h("p", { className: "muted" }, "Wheel or two fingers zoom; the right or middle button, or Alt and drag, moves the picture."),
  h("dl", {}, ...KEYS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, shown(key))), h("dd", {}, what))))));

addEventListener("keydown", (e) => {
  if (e.key === "Alt") stage.panning = model.tool !== "fill";
  const typing = e.target instanceof HTMLInputElement && !["checkbox", "range", "color"].includes(e.target.type);
  if (typing || e.target instanceof HTMLSelectElement || help.open || e.altKey) return;
  if (e.key === " " && e.target instanceof HTMLButtonElement) return;
  const ctrl = e.ctrlKey || e.metaKey;
  const shift = e.shiftKey && (e.key.length > 1 || /[a-z]/i.test(e.key));
  const key = `${ctrl ? "Ctrl+" : ""}${shift ? "Shift+" : ""}${e.key.length === 1 && !shift ? e.key.toLowerCase() : e.key}`;
  const digit = !ctrl && /^[1-9]$/.test(key) ? Number(key) : 0;
  const found = KEYS.find(([k]) => k === key);
  if (!digit && !found) return;
  if (ctrl || key === " " || key.includes("Arrow") || key === "Backspace") e.preventDefault();
  if (digit) pick(digit - 1);
  else if (model.project || key === "?") found![2]();
});
addEventListener("keyup", (e) => {
  if (e.key === "Alt") stage.panning = false;
});

// Together

const work = h("main", { className: "work" }, tools, h("div", { className: "centre" },
  h("div", { className: "options" }, sizeBox, toleranceBox, hint), stage.root, timeline.root), panel.root);
document.getElementById("app")!.append(header, work, empty, help, toasts());
document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");

model.exported = (name) => {
  const link = h("a", { href: api.exported(model.project!.id, name), download: name });
  link.click();
};

model.changed = (what) => {
  const { project } = model;
  if (what === "project") {
    empty.hidden = !!project;
    work.hidden = !project;
    choose.hidden = !server.projects.length;
    choose.replaceChildren(...(project ? [] : [h("option", { value: "" }, "Choose…")]), ...server.projects.map((p) => h("option", { value: p.id }, p.name)));
    choose.value = project?.id ?? "";
    document.title = project ? `${project.name} – pixeltrail` : "pixeltrail";
    for (const b of header.querySelectorAll<HTMLButtonElement>("button")) if (b === clear || /Copy|Paste/.test(b.textContent ?? "")) b.hidden = !project;
  }
  if (what === "saving") {
    saved.textContent = model.broken ? "Connection lost: trying again…" : model.saving ? "Saving…" : project ? "Saved" : "";
    saved.classList.toggle("bad", model.broken);
    return;
  }
  const [last, next] = [model.steps.past.at(-1), model.steps.future.at(-1)];
  undo.disabled = !last;
  redo.disabled = !next;
  undo.title = last ? `Undo: ${last.label} (Ctrl+Z)` : "Nothing to undo";
  redo.title = next ? `Redo: ${next.label} (Ctrl+Shift+Z)` : "Nothing to redo";
  toolButtons.forEach((b, i) => b.setAttribute("aria-pressed", String(TOOLS[i]![0] === model.tool)));
  sizeBox.hidden = model.tool !== "brush" && model.tool !== "eraser";
  toleranceBox.hidden = model.tool !== "fill";
  size.value = String(model.radius);
  sizeShown.textContent = ` ${model.radius} px`;
  hint.textContent = HINTS[model.tool];
  stage.update(what);
  if (what !== "tool" || project) panel.update();
  timeline.update(what);
};

const target = h("div", { className: "target", hidden: true }, "Drop a video to open it; masks, boxes or points to bring them in");
document.body.append(target);
let hovering = 0; // dragover comes again and again while something is held over the page; how it ends is not always told
addEventListener("dragover", (e) => {
  e.preventDefault();
  target.hidden = !e.dataTransfer?.types.includes("Files");
  clearTimeout(hovering);
  hovering = window.setTimeout(() => (target.hidden = true), 800);
});
addEventListener("drop", (e) => {
  e.preventDefault();
  target.hidden = true;
  const dropped = e.dataTransfer?.files[0];
  if (!dropped) return;
  if (e.dataTransfer.files.length > 1) return say("Drop one file at a time; masks of several frames can come as a ZIP.", "error");
  if (e.dataTransfer.items[0]?.webkitGetAsEntry()?.isDirectory) {
    return say(`${dropped.name} is a folder. Open one from the terminal: pixeltrail app ${dropped.name}`, "error");
  }
  if (model.project && reads.some((suffix) => dropped.name.toLowerCase().endsWith(suffix))) model.import(dropped);
  else void upload(dropped);
});
addEventListener("beforeunload", (e) => {
  if (model.saving) e.preventDefault();
});

const [, id, at] = /^#([0-9a-f]{32})\/(\d+)$/.exec(location.hash) ?? [];
const known = server.projects.some((p) => p.id === id);
model.changed("project");
if (server.projects.length) await open(known ? id! : server.projects[0]!.id, known ? Number(at) : 0);
const formats = await api.formats().catch(fail);
if (formats) {
  reads = formats.reads;
  panel.offer(formats);
}
