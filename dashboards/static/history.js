// The readings of the last half hour: a table, and a small curve for what comes continuously.
import { span } from "./cell.js";
import { levelClass, mark, state, text } from "./state.js";
import * as time from "./time.js";
import { trends } from "./trend.js";

export async function readings(room, table, curves, wanted) {
  let answer;
  try {
    const response = await fetch(`/api/rooms/${encodeURIComponent(room)}/trend?m=30`);
    if (!response.ok) throw new Error(String(response.status));
    answer = await response.json();
  } catch {
    if (wanted()) table.replaceChildren(note("The history could not be read. Trying again."));
    return;
  }
  if (!wanted()) return;
  curves.replaceChildren(...trends(answer));
  curves.hidden = curves.children.length === 0;
  const rows = answer.rows.map(line);
  const body = document.createElement("table");
  body.className = "rows";
  body.append(...rows);
  const notes = [answer.fault && note(answer.fault), rows.length === 0 && note("No readings in the last 30 min."),
    answer.of > rows.length && note(`The newest ${rows.length} of ${answer.of} shown.`)].filter(Boolean);
  table.replaceChildren(...notes, ...(rows.length ? [body] : []));
}

function note(words) {
  const element = span("quiet", words, "p");
  element.classList.add("device");
  return element;
}

function line(reading) {
  const row = document.createElement("tr");
  const level = levelClass(reading.lv);
  const flag = span("", "", "td");
  if (reading.f && reading.f !== "N") flag.append(span(`chipflag ${level}`, `${mark(reading.f)} ${reading.f}`.trim()));
  const value = reading.v === null || reading.v === undefined ? reading.reason || "– –" : text(reading);
  const notes = [reading.hist ? "from memory" : "", reading.late ? `late ${time.long(reading.late * 1000)}` : "", reading.f ? "" : "not checked", reading.sim ? "simulated" : ""];
  row.append(span("quiet", time.minute(reading.ts), "td"), span("", state.metrics[reading.k]?.title ?? reading.k, "td"),
    span("num", `${value} ${reading.u}`, "td"), flag, span("quiet", notes.filter(Boolean).join(", "), "td"));
  return row;
}
