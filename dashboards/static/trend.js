// Small curves of the last half hour: one a continuous metric, true to time, broken where values are missing.
import { span } from "./cell.js";
import { RANK, continuous, number, state } from "./state.js";
import * as time from "./time.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [600, 96, 40, 8, 20];
const LINE = 14;
const LEAST_SPAN = 10; // units of height at least, so that a steady value looks steady

function draw(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (text !== undefined) element.textContent = text;
  return element;
}

export function trends(answer) {
  const keys = [...new Set(answer.readings.map((one) => one.k))].filter(continuous);
  const order = (key) => Math.min(...state.cells.map(({ keys: own }, i) => (own.includes(key) ? i + 10 * own.indexOf(key) : 999)));
  const shown = new Map(); // one curve for two names of the same numbers, as one device gives of its rate
  for (const key of keys.sort((a, b) => order(a) - order(b))) {
    const cell = state.cells.find((one) => one.keys.includes(key))?.cell ?? key;
    const same = JSON.stringify([cell, answer.readings.filter((one) => one.k === key).map((one) => one.v)]);
    shown.set(same, [...(shown.get(same) ?? []), key]);
  }
  return [...shown.values()].map(([key, ...twins]) => curve(key, twins, answer));
}

function curve(key, twins, { readings, from, to }) {
  const points = readings.filter((one) => one.k === key && typeof one.v === "number");
  const figure = document.createElement("figure");
  const metric = state.metrics[key];
  const caption = span("", [key, ...twins].map((one) => state.metrics[one].title).join(", "), "figcaption");
  caption.append(span("unit", ` ${metric.u}`));
  figure.append(caption);
  const values = points.map((one) => one.v);
  const middle = (Math.min(...values) + Math.max(...values)) / 2;
  const half = Math.max(LEAST_SPAN / 2, ((Math.max(...values) - Math.min(...values)) / 2) * 1.1);
  const [low, high] = [middle - half, middle + half];
  const x = (t) => LEFT + ((t - from) / (to - from)) * (WIDTH - LEFT - 8);
  const y = (v) => TOP + ((high - v) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const label = `${metric.title}, last 30 minutes: ${points.length ? `${number(key, Math.min(...values))} to ${number(key, Math.max(...values))}` : "no readings"}`;
  const picture = draw("svg", { class: "trend", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  picture.append(...axis(from, to, x));
  if (points.length) {
    const [top, bottom] = apart(y(Math.max(...values)), y(Math.min(...values)));
    picture.append(draw("text", { x: LEFT - 6, y: top + 4, class: "tick end" }, number(key, Math.max(...values))));
    if (Math.max(...values) !== Math.min(...values)) {
      picture.append(draw("text", { x: LEFT - 6, y: bottom + 4, class: "tick end" }, number(key, Math.min(...values))));
    }
    picture.append(draw("path", { class: "curve", d: path(points, x, y, state.policy[key].stale * 1000) }));
    for (const one of points.filter((each) => RANK[each.lv ?? "normal"] >= RANK.abnormal)) {
      picture.append(draw("circle", { class: `spotted ${one.lv}`, cx: x(one.ts), cy: y(one.v), r: 3 }));
    }
  }
  figure.append(picture);
  return figure;
}

// Two labels at least a line apart, about the middle of where they belong.
function apart(top, bottom) {
  const push = Math.max(0, (LINE - (bottom - top)) / 2);
  return [top - push, bottom + push];
}

// A pause longer than a value may live breaks the line: nothing is drawn where nothing was measured.
function path(points, x, y, longest) {
  return points.map((one, i) => {
    const joined = i > 0 && one.ts - points[i - 1].ts <= longest;
    return `${joined ? "L" : "M"}${x(one.ts).toFixed(1)} ${y(one.v).toFixed(1)}${joined ? "" : "h0.01"}`;
  }).join("");
}

function axis(from, to, x) {
  const foot = HEIGHT - BOTTOM;
  const parts = [draw("path", { class: "axis", d: `M${LEFT} ${TOP}V${foot}H${WIDTH - 8}` })];
  for (let minutes = 30; minutes >= 0; minutes -= 10) {
    const at = to - minutes * 60000;
    if (at < from - 1000) continue;
    const anchor = minutes === 0 ? "tick end" : minutes === 30 ? "tick" : "tick mid";
    parts.push(draw("text", { x: x(at), y: HEIGHT - 5, class: anchor }, minutes === 0 ? "now" : time.minute(at)));
  }
  return parts;
}
