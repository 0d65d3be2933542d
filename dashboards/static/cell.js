// One number with its label, flag and age. Fields are set only when they changed.
import { state } from "./state.js";

export class Cell {
  constructor(cell) {
    this.cell = cell;
    this.root = document.getElementById("cell").content.cloneNode(true).firstElementChild;
    this.part = Object.fromEntries(["long", "short", "unit", "meta", "num", "flag"].map((name) => [name, this.root.querySelector(`.${name}`)]));
    this.part.long.textContent = cell.label;
    this.part.short.textContent = cell.short;
    this.root.dataset.cell = cell.cell;
    this.key = "";
  }

  paint(view) {
    const unit = state.metrics[view.key]?.u ?? "";
    const key = [view.num, view.cls, view.flag, view.code, view.meta, view.tight, view.cyan, unit].join("|");
    if (key === this.key) return;
    this.key = key;
    const { num, flag, meta, unit: label } = this.part;
    set(num, view.num);
    set(label, unit);
    if (view.tight === undefined || view.tight === view.meta) set(meta, view.meta);
    else meta.replaceChildren(span("wide", view.meta), span("tight", view.tight));
    meta.className = view.cyan ? "meta cyan" : "meta";
    if (view.code) {
      flag.replaceChildren(view.flag, ...(view.flag ? [" "] : []), span(view.flag ? "code" : "", view.code));
    } else set(flag, view.flag);
    const cls = `cell ${view.cls}${view.code?.length > 1 || view.num.length > 6 ? " stacked" : ""}${view.num.length > 6 ? " long" : ""}`;
    if (this.root.className === cls) return;
    this.root.className = cls;
    for (const animation of this.root.getAnimations({ subtree: true })) animation.startTime = 0; // all flash in phase
  }
}

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function span(cls, text, tag = "span") {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  element.textContent = text;
  return element;
}
