// Server time on this page, and ages in words. Nothing here reads the screen's own wall clock.
const samples = [];
let offset = null;

// One round trip: the server said `server` ms; the smallest round trip of the last twelve is the most exact.
export function learn(server, sent, received) {
  samples.push({ trip: received - sent, offset: server - (sent + received) / 2 });
  if (samples.length > 12) samples.shift();
  offset = samples.reduce((best, one) => (one.trip < best.trip ? one : best)).offset;
}

// A first estimate from a message alone, until round trips are known; also the start after a reconnect.
export function begin(server) {
  samples.length = 0;
  offset = server - performance.now();
}

export const known = () => offset !== null;
export const now = () => performance.now() + (offset ?? 0);

export function short(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 172800) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86400)}d`;
}

export function long(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

// An age that is worth reading: a value that comes every second must not flicker.
export const calm = (ms) => (ms < 60000 ? "<1m" : short(ms));
export const steady = (ms) => (ms < 60000 ? "<1 min" : long(ms));

// The clinic's clock, wherever the screen thinks it stands.
let clockFormat = null;
let minuteFormat = null;
let named = "";

export function zone(name) {
  if (name === named && clockFormat) return;
  named = name;
  const make = (options) => {
    try {
      return new Intl.DateTimeFormat(undefined, { ...options, timeZone: name || undefined });
    } catch {
      return new Intl.DateTimeFormat(undefined, { ...options, timeZone: "UTC" });
    }
  };
  minuteFormat = make({ hour: "numeric", minute: "2-digit" });
  clockFormat = make({ hour: "numeric", minute: "2-digit", second: "2-digit" });
}
zone("");

const withoutHalf = (format, ms) =>
  format.formatToParts(ms).filter((part) => part.type !== "dayPeriod").map((part) => part.value).join("").trim();

export const clock = (ms) => withoutHalf(clockFormat, ms);
export const minute = (ms) => minuteFormat.format(ms);
