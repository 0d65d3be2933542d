// Rows of the panel: how a number was judged, a device, the parts behind the board.
import { span } from "./cell.js";
import { aged, before, down, levelClass, mark, number, state, text, unchecked } from "./state.js";
import * as time from "./time.js";
import { deviceWord } from "./view.js";

export const block = (cls, ...children) => {
  const element = document.createElement("div");
  element.className = cls;
  element.append(...children);
  return element;
};

export function reason(reading, now, room) {
  const title = state.metrics[reading.k]?.title ?? reading.k;
  const unit = reading.u;
  const { age, is } = aged(reading, now, room);
  const parts = reading.parts
    ? Object.entries(reading.parts).map(([name, part]) => [{ sys: "Systolic", dia: "Diastolic", map: "Mean" }[name], number(reading.k, part.v), part])
    : [[title, reading.v === null || reading.v === undefined ? "– –" : text(reading), reading]];
  const facts = [
    `${time.minute(reading.ts)}, ${time.long(age)} ago${is === "fresh" ? "" : `, ${is}`}`,
    before(reading, room) ? "from before this visit" : "", reading.unsure ? "the device's clock disagrees: its time is not sure" : "",
    reading.unc >= 1000 ? `± ${time.long(reading.unc)}` : "", reading.late ? `arrived ${time.long(reading.late * 1000)} late` : "",
    `from ${reading.dev}`, reading.method ? `method ${reading.method}` : "", reading.derived ? "computed from the trace" : "",
    reading.raw ? `device said ${reading.raw}` : "", reading.quality?.length ? `status: ${reading.quality.join(", ").replaceAll("_", " ")}` : "",
    reading.reason ?? "", reading.sim ? "simulated" : "",
  ].filter(Boolean).join(" · ");
  return parts.map(([label, value, part], index) => {
    const row = block("reason", span("what", label));
    const says = block("says");
    const level = levelClass(part.lv);
    if (part.f && part.f !== "N") says.append(span(`chipflag ${level}`, `${mark(part.f)} ${part.f}`.trim()));
    if (unchecked(part)) says.append(span("chipflag unchecked", "not checked"));
    says.append(`${value} ${unit}`);
    row.append(says);
    row.append(...because(part));
    if (part.ne) row.append(span("more", `not checked: ${part.ne}`));
    if (index === parts.length - 1) row.append(span("more", facts));
    return row;
  });
}

// The order of the tile, then the rest by name.
export function place(key) {
  const keys = state.cells.flatMap((cell) => cell.keys);
  return keys.includes(key) ? keys.indexOf(key) : keys.length + key.charCodeAt(0);
}

function because({ why, f }) {
  if (!why) return [];
  const says = [why.text, why.limit ? `limit ${why.limit}` : ""].filter(Boolean).join(", ");
  const from = [`rule ${why.rule}`, why.source, why.evidence ? `evidence ${why.evidence}` : ""].filter(Boolean).join(" · ");
  return f === "N" ? [span("more", `normal by ${from}`)] : [span("more strong", says), span("more", from)];
}

export function deviceRow(device, now) {
  const row = block(`device${down(device) ? " down" : ""}`);
  const since = device.since ? ` for ${time.long(now - device.since)}` : "";
  row.append(span("what", device.title), span("state", `${down(device) ? "◆ " : ""}${deviceWord(device)}${since}`));
  const faults = Object.entries(device.faults).map(([code, count]) => `${code.replaceAll("_", " ")} ${count}`);
  const missing = Object.entries(state.sys.ingest?.missing ?? {}).filter(([key]) => key.startsWith(`${device.id}/`))
    .map(([key, seconds]) => `${seconds || "under 0.1"} s of ${state.metrics[key.split("/")[2]]?.title ?? key} never received`);
  const facts = [
    device.reason, ...missing, device.battery === null ? "" : `battery ${device.battery} %`,
    device.lost ? `${device.lost} samples lost` : "", faults.length ? `faults: ${faults.join(", ")}` : "no faults",
    device.model, `${device.name} on ${device.gw}`, device.transport, device.sim ? "simulated" : "",
  ].filter(Boolean).join(" · ");
  row.append(span("more", facts));
  return row;
}

export function system(now) {
  const { broker, ingest, gateways, faults } = state.sys;
  const since = (ms) => (ms ? ` for ${time.long(now - ms)}` : "");
  const row = (title, up, word, more) => {
    const element = block(`device${up ? "" : " down"}`, span("what", title), span("state", `${up ? "" : "◆ "}${word}`));
    if (more) element.append(span("more", more));
    return element;
  };
  const refused = Object.entries(ingest?.refused ?? {}).map(([why, n]) => `${n} refused: ${why}`);
  const beyond = Object.entries(ingest?.over_quota ?? {}).map(([id, n]) => `${n} of ${id} beyond its quota`);
  const denied = (n) => (n ? `${n} messages refused by the broker` : "");
  const rows = [
    row("Message broker", broker.up, (broker.up ? "connected" : "not connected") + since(broker.since), broker.up ? "" : broker.why),
    row("Checking and storing", Boolean(ingest?.online), ingest ? (ingest.online ? "running" : "down") + since(ingest.since) : "not heard of",
      [ingest?.store_fault ? `not storing: ${ingest.store_fault}` : "", ingest?.profile ? `profile ${ingest.profile}` : "",
        ingest?.rules ? `rules ${ingest.rules.slice(0, 12)}` : "", ...refused, ...beyond, denied(ingest?.denied)].filter(Boolean).join(" · ")),
    ...gateways.map((one) => row(`Gateway ${one.id}`, one.online, (one.online ? "online" : "offline") + since(one.since),
      [`${one.backlog} waiting to be stored`, one.refused ? `${one.refused} refused for good, in no store` : "none refused", denied(one.denied), one.clock_off ? `clock off by ${one.clock_off} ms` : "", ...one.outbox].filter(Boolean).join(" · "))),
  ];
  const counted = Object.entries(faults).map(([what, n]) => block("device", span("what", what), span("state", String(n))));
  const none = block("device", span("quiet", "None since the board started."));
  return [span("", "Services", "h3"), block("card", ...rows), span("", "Messages not shown, by reason", "h3"), block("card", ...(counted.length ? counted : [none]))];
}
