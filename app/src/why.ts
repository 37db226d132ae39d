// Seeing why: what else than masks the stage can show of a frame.

import * as api from "./api";
import type { Project } from "./api";
import { decode } from "./runs";

export type Why = "none" | "heat" | "pca" | "flow" | "arrows" | "trip" | "compare";

export const LEGENDS: Record<Why, string> = {
  none: "",
  heat: "Point at a pixel: what it looks at on the nearest key frame is shown in the corner.",
  pca: "Features: what the method takes for the same has the same colour.",
  flow: "Motion to the next frame: colour says where to, strength how far.",
  arrows: "Motion to the next frame.",
  trip: "There and back: red where motion to the next frame and back ends half a pixel from its start, orange from 4 pixels on.",
  compare: "The nearest key frame's mask carried here at one go: left before, right after adapting.",
};

/** A picture over the frame, or masks before and after adapting; both null where there is nothing to wait for. */
export interface Shown {
  overlay: ImageBitmap | null;
  compared: [Uint8Array, Uint8Array] | null;
}

export async function explained(project: Project, frame: number, why: Why, reference: number | undefined): Promise<Shown> {
  if (why === "none" || why === "heat") return { overlay: null, compared: null };
  if (why !== "compare") return { overlay: await api.picture(project.id, `views/${why}/${frame}`), compared: null };
  if (reference === undefined) {
    throw new Error("Paint an object on another frame first: its mask is then carried here before and after adapting.");
  }
  const carry = async (weights: "standard" | "adapted") =>
    decode(await api.carried(project.id, frame, reference, weights), project.width * project.height);
  return { overlay: null, compared: [await carry("standard"), await carry("adapted")] };
}
