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
    this.root.style.setProperty("--long", cell.label.length);
    this.root.style.setProperty("--short", cell.short.length);
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
    num.classList.toggle("one", view.num.startsWith("1"));
    const { em, stacked } = fit(view, this.cell.cell === "bp");
    this.root.style.setProperty("--em", em.toFixed(2));
    const cls = `cell ${view.cls}${stacked ? " stacked" : ""}`;
    if (this.root.className === cls) return;
    this.root.className = cls;
    for (const animation of this.root.getAnimations({ subtree: true })) animation.startTime = 0; // all flash in phase
  }
}

// How wide number and flag are, in em of the number: tile.css makes the number so large that both fit the cell. A
// blood pressure always counts as its widest, so that its size does not jump between 99 and 100.
const EM = { "/": 0.42, ".": 0.32, "–": 0.66, " ": 0.3 };
const DIGIT = 0.65;
const WIDEST_BP = 6 * DIGIT + EM["/"];
const STACK = 0.8;
const INLINE = 1.15;

export function fit(view, pressure) {
  const bare = [...view.num].reduce((sum, sign) => sum + (EM[sign] ?? DIGIT), 0);
  const wide = pressure && view.num.includes("/") ? Math.max(bare, WIDEST_BP) : bare;
  if (!view.flag && !view.code) return { em: wide, stacked: false };
  if (!view.code) return { em: wide + STACK, stacked: false };
  if (view.code === "A") return { em: wide + 0.45, stacked: false };
  const stacked = pressure || view.code.length > 1 || bare > 3 * DIGIT;
  return { em: wide + (stacked ? STACK : INLINE), stacked };
}

export function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Words whose end must stay: only the beginning gives way when there is no room.
export function ends(element, head, tail) {
  const [first, last] = element.children.length === 2 ? element.children : [span("head-words", ""), span("tail-words", "")];
  if (!first.isConnected) element.replaceChildren(first, last);
  set(first, head);
  set(last, head ? ` ${tail}` : tail);
}

export function span(cls, text, tag = "span") {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  element.textContent = text;
  return element;
}
