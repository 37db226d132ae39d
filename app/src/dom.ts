// Small helpers for making the page.

type Props = Record<string, unknown>;

export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: (Node | string | null)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value as EventListener);
    else if (key in made && key !== "list") (made as unknown as Props)[key] = value;
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.filter((c) => c !== null));
  return made;
}

const paths: Record<string, string> = {
  pan: "M8 2v12M2 8h12M8 2 6 4m2-2 2 2M8 14l-2-2m2 2 2-2M2 8l2-2M2 8l2 2m10-2-2-2m2 2-2 2",
  brush: "M13.5 2.5 7 9m-1.5.5c-2 0-2 3-4 3.5 3 2 6 0 6-2z",
  eraser: "m6 13-4-4 7-7 5 5-6 6zm0 0h7M5 6l5 5",
  polygon: "m8 2 6 4-2 7H4L2 6z",
  box: "M2.5 3.5h11v9h-11z",
  point: "M8 8m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0M8 1v3m0 8v3M1 8h3m8 0h3",
  fill: "m3 13 7-7m1-4 .5 1.500 1.500.5-1.500.5L11 6l-.5-1.500L9 4l1.500-.5zM4 2l.4 1.100 1.100.4-1.100.4L4 5l-.4-1.100L2.500 3.500l1.100-.4zM13 9l.4 1.100 1.100.4-1.100.4-.4 1.100-.4-1.100-1.100-.4 1.100-.4z",
  eye: "M1.500 8s2.500-4.500 6.500-4.500S14.500 8 14.500 8 12 12.500 8 12.500 1.500 8 1.500 8zM8 8m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0",
  hidden: "M1.500 8s2.500-4.500 6.500-4.500S14.500 8 14.500 8 12 12.500 8 12.500 1.500 8 1.500 8zM2.500 13.500l11-11",
  lock: "M4 7.500h8v6H4zM5.500 7.500V5a2.500 2.500 0 0 1 5 0v2.500",
  open: "M4 7.500h8v6H4zM5.500 7.500V5a2.500 2.500 0 0 1 5-.5",
  bin: "M3 4.500h10M6 4.500v-2h4v2m-5.500 0 .5 9h6l.5-9M7 7v4m2-4v4",
  undo: "M3 6h7a3.500 3.500 0 0 1 0 7H6M3 6l3-3M3 6l3 3",
  redo: "M13 6H6a3.500 3.500 0 0 0 0 7h4m3-7-3-3m3 3-3 3",
  play: "M5 3v10l8-5z",
  pause: "M5.500 3v10m5-10v10",
  next: "m6 3 5 5-5 5",
  last: "m10 3-5 5 5 5",
  nextKey: "m4 3 5 5-5 5M12 3v10",
  lastKey: "m12 3-5 5 5 5M4 3v10",
  forward: "M2 8h11m-4-4 4 4-4 4",
  backward: "M14 8H3m4-4L3 8l4 4",
  loop: "M3 8V6.500A2.500 2.500 0 0 1 5.500 4H12m-2-2 2 2-2 2m3 2v1.500a2.500 2.500 0 0 1-2.500 2.500H4m2 2-2-2 2-2",
  help: "M5.500 5.500a2.500 2.500 0 1 1 3.500 2.300C8 8.300 8 9 8 9.500M8 12v.5",
  theme: "M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12",
  add: "M8 3v10M3 8h10",
  stop: "M4 4h8v8H4z",
};

export function icon(name: string): SVGSVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", paths[name]!);
  svg.append(path);
  return svg;
}

export function button(label: string, shown: string | null, act: () => void, props: Props = {}): HTMLButtonElement {
  const inside = shown !== null && shown in paths ? icon(shown) : null;
  return h("button", { type: "button", title: label, "aria-label": label, onclick: act, ...props }, inside ?? shown ?? label);
}

let shelf: HTMLElement;
export function toasts(): HTMLElement {
  shelf = h("div", { className: "toasts", role: "status", "aria-live": "polite" });
  return shelf;
}

export function say(text: string, kind: "note" | "error" = "note"): void {
  shelf.querySelectorAll(".note").forEach((old) => old.remove());
  const toast = h("div", { className: `toast ${kind}`, role: kind === "error" ? "alert" : "note" }, text,
    button("Dismiss", "×", () => toast.remove(), { className: "plain" }));
  shelf.append(toast);
  setTimeout(() => toast.remove(), kind === "error" ? 12000 : 5000);
}

export const fail = (error: unknown) => {
  if ((error as Error)?.name !== "AbortError") say(error instanceof Error ? error.message : String(error), "error");
};
