// What can be undone, and done again.

export interface Step {
  label: string;
  undo(): void;
  redo(): void;
}

export class Steps {
  past: Step[] = [];
  future: Step[] = [];
  constructor(private readonly changed: () => void) {}

  did(step: Step): Step {
    this.past.push(step);
    this.future = [];
    this.changed();
    return step;
  }

  /** A step that turned out to change nothing. */
  forget(step: Step): void {
    this.past = this.past.filter((s) => s !== step);
    this.future = this.future.filter((s) => s !== step);
    this.changed();
  }

  clear(): void {
    this.past = [];
    this.future = [];
    this.changed();
  }

  undo(): void {
    const step = this.past.pop();
    if (!step) return;
    step.undo();
    this.future.push(step);
    this.changed();
  }

  redo(): void {
    const step = this.future.pop();
    if (!step) return;
    step.redo();
    this.past.push(step);
    this.changed();
  }
}
