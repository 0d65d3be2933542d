// The EKG: an erase-bar sweep that draws each sample of a ring at its own time.
// Missing samples are a gap. The bar goes on without frames and wipes what is old.
import { ARTEFACT, GAP, LEAD_OFF, SIZE } from "./rings.js";
import * as time from "./time.js";

const PLAYOUT_MS = 280; // one 100 ms frame and its jitter
const BAR_PX = 14;
const BAR_S = 0.18;
const BASELINE = 0.72; // of the height
const CALM_MS = 16000; // before the gain goes up again
const LOOK_MS = 4000;
const GAINS = [20, 10, 5, 2.5]; // mm/mV

export const mm = () => parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--mm")) || 3.78;

export class Sweep {
  constructor(canvas, ring, { onScale, line }) {
    Object.assign(this, { canvas, ring, onScale, line });
    this.context = canvas.getContext("2d");
    this.visible = true;
    this.source = { lead: "", cal: true, uv: 1 };
    this.gain = 10;
    this.offset = null;
    this.calmSince = null;
    this.dirty = true;
    this.shown = "";
    this.size = new ResizeObserver(() => this.resize());
    this.size.observe(canvas);
    this.seen = new IntersectionObserver(([entry]) => {
      this.visible = entry.isIntersecting;
      this.dirty = true;
    });
    this.seen.observe(canvas);
    this.resize();
    sweeps.add(this);
  }

  close() {
    sweeps.delete(this);
    this.size.disconnect();
    this.seen.disconnect();
  }

  resize() {
    const scale = Math.min(2, devicePixelRatio);
    const { clientWidth, clientHeight, canvas } = this.canvas.isConnected ? { ...box(this.canvas), canvas: this.canvas } : { clientWidth: 0, clientHeight: 0, canvas: this.canvas };
    this.width = clientWidth;
    this.height = clientHeight;
    canvas.width = Math.round(clientWidth * scale);
    canvas.height = Math.round(clientHeight * scale);
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.mm = mm();
    this.speed = clientWidth / this.mm / 25 < 3 ? 12.5 : 25;
    this.window = Math.max(1, (clientWidth / this.mm / this.speed) * 1000);
    this.base = Math.round(BASELINE * clientHeight);
    this.style();
  }

  style() {
    const colours = getComputedStyle(document.documentElement);
    this.grey = colours.getPropertyValue("--tx2").trim();
    this.ink = document.body.classList.contains("dead") ? this.grey : colours.getPropertyValue("--trace").trim();
    this.dirty = true;
  }

  x(t) {
    return ((t % this.window) / this.window) * this.width;
  }

  // Pixels for one count: millivolt for a calibrated source, else counts by the step chosen.
  perCount() {
    return this.source.cal ? (this.source.uv / 1000) * this.gain * this.mm : this.mm / this.gain;
  }

  y(value) {
    return this.base - (value - (this.offset ?? 0)) * this.perCount();
  }

  draw(now) {
    if (!this.visible || !this.width) return;
    if (this.clears !== this.ring.clears) {
      this.clears = this.ring.clears;
      this.dirty = true;
    }
    const to = now - PLAYOUT_MS;
    const from = this.to ?? to;
    const bar = Math.max(BAR_PX, BAR_S * this.speed * this.mm);
    this.to = to;
    if (this.dirty || to - from > this.window - (bar / this.width) * this.window || to < from) this.restart(to, bar);
    else this.erase(this.x(from) + 1, this.x(to) + bar);
    this.trace(to);
  }

  restart(to, bar) {
    this.dirty = false;
    this.context.clearRect(0, 0, this.width, this.height);
    const oldest = to - this.window + (bar / this.width) * this.window;
    this.next = this.ring.first();
    while (this.next < this.ring.count && this.ring.times[this.next % SIZE] <= oldest) this.next += 1;
    this.pen = null;
  }

  erase(from, to) {
    const { context, width, height } = this;
    if (to < from) {
      context.clearRect(from, 0, width - from + 1, height);
      context.clearRect(0, 0, to, height);
    } else if (to > width) {
      context.clearRect(from, 0, width - from + 1, height);
      context.clearRect(0, 0, to - width, height);
    } else context.clearRect(from, 0, to - from, height);
  }

  trace(to) {
    const { ring, context } = this;
    if (this.next > ring.count) this.next = ring.count;
    if (this.next < ring.first()) {
      this.next = ring.first();
      this.pen = null;
    }
    let kind = -1;
    context.lineWidth = this.line;
    context.lineJoin = "round";
    while (this.next < ring.count) {
      const at = this.next % SIZE;
      const t = ring.times[at];
      if (t > to) break;
      this.next += 1;
      const off = ring.flags[at] & LEAD_OFF;
      const style = off ? 2 : ring.flags[at] & ARTEFACT ? 1 : 0;
      const pen = this.pen;
      const x = this.x(t);
      const y = off ? this.base : this.y(ring.values[at]);
      this.pen = { t, x, y, style };
      const joined = pen && !(ring.flags[at] & GAP) && t - pen.t < 1.5 * ring.step && x >= pen.x && pen.style === style;
      if (!joined) continue;
      if (style !== kind) {
        if (kind >= 0) context.stroke();
        kind = style;
        this.begin(style, pen.x);
        context.moveTo(pen.x, pen.y);
        this.at = pen.t;
      } else if (this.at !== pen.t) context.moveTo(pen.x, pen.y);
      context.lineTo(x, y);
      this.at = t;
    }
    if (kind >= 0) context.stroke();
  }

  begin(style, x) {
    const { context } = this;
    context.strokeStyle = style === 0 ? this.ink : this.grey;
    context.setLineDash(style === 2 ? [6, 5] : []);
    context.lineDashOffset = style === 2 ? x : 0;
    context.beginPath();
  }

  // Gain and baseline, once a second, from the last seconds: never so that an R wave is cut, and always labelled.
  settle(now) {
    const range = this.range(now);
    if (range) {
      this.centre(range);
      const wanted = this.source.cal ? this.wantedGain(range) : this.wantedCounts(range);
      const grows = this.source.cal ? wanted > this.gain : wanted < this.gain;
      if (!grows) this.calmSince = now;
      if (wanted !== this.gain && (!grows || now - (this.calmSince ?? now) >= CALM_MS || this.fresh)) {
        this.gain = wanted;
        this.calmSince = now;
        this.dirty = true;
      }
      this.calmSince ??= now;
      this.fresh = false;
    }
    this.label();
  }

  range(now) {
    const { ring } = this;
    const seen = [];
    let low = Infinity;
    let high = -Infinity;
    for (let i = ring.count - 1; i >= ring.first() && ring.times[i % SIZE] > now - LOOK_MS; i -= 1) {
      const at = i % SIZE;
      if (ring.flags[at] & LEAD_OFF) continue;
      low = Math.min(low, ring.values[at]);
      high = Math.max(high, ring.values[at]);
      if (i % 8 === 0) seen.push(ring.values[at]);
    }
    if (seen.length < 8) return null;
    seen.sort((a, b) => a - b);
    return { low, high, middle: seen[seen.length >> 1] };
  }

  // Electrode offset is taken off for display only, in rare steps: a slow wander stays visible.
  centre({ low, high, middle }) {
    const mv = this.source.cal ? this.source.uv / 1000 : 1 / Math.max(1, high - low);
    const far = Math.abs(middle - (this.offset ?? 0)) * mv;
    if (this.offset === null ? far <= 0.3 : far <= 1.05) {
      this.offset ??= 0;
      return;
    }
    this.offset = middle;
    this.dirty = true;
  }

  wantedGain({ low, high }) {
    const mv = this.source.uv / 1000;
    const above = (high - this.offset) * mv * this.mm;
    const below = (this.offset - low) * mv * this.mm;
    const fits = (gain) => above * gain <= this.base - 2 && below * gain <= this.height - this.base - 1;
    const small = above * 20 < 0.5 * this.base && below * 20 < 0.5 * (this.height - this.base);
    return GAINS.find((gain) => (gain > 10 ? small : fits(gain))) ?? GAINS.at(-1);
  }

  wantedCounts({ low, high }) {
    const above = ((high - this.offset) * this.mm) / (this.base - 2);
    const below = ((this.offset - low) * this.mm) / (this.height - this.base - 1);
    const least = Math.max(above, below, 1);
    const power = 10 ** Math.floor(Math.log10(least));
    return [1, 2, 5, 10].find((step) => step * power >= least) * power;
  }

  use(source) {
    const changed = source.cal !== this.source.cal || source.uv !== this.source.uv || source.lead !== this.source.lead;
    this.source = source;
    if (!changed) return;
    Object.assign(this, { gain: source.cal ? 10 : 1, offset: null, calmSince: null, fresh: true, dirty: true });
  }

  label() {
    const gain = this.source.cal ? `${this.gain} mm/mV` : `uncalibrated ${this.gain * (this.source.div ?? 1)} counts/mm`;
    const standard = this.source.cal && this.gain === 10 && this.speed === 25;
    const shown = { lead: this.source.lead, speed: `${this.speed} mm/s`, gain, standard, narrow: this.width < 330 };
    const key = JSON.stringify(shown);
    if (key === this.shown) return;
    this.shown = key;
    this.onScale(shown);
  }
}

const box = (element) => {
  const { width, height } = element.getBoundingClientRect();
  return { clientWidth: width, clientHeight: height };
};

const sweeps = new Set();
export const stats = { frames: 0, ekgMs: 0, worstMs: 0 };

export function restyle() {
  for (const sweep of sweeps) sweep.resize();
}

export function run() {
  const step = () => {
    requestAnimationFrame(step);
    if (!time.known()) return;
    const begun = performance.now();
    const now = time.now();
    for (const sweep of sweeps) sweep.draw(now);
    const spent = performance.now() - begun;
    stats.frames += 1;
    stats.ekgMs += spent;
    stats.worstMs = Math.max(stats.worstMs, spent);
  };
  requestAnimationFrame(step);
  setInterval(() => {
    for (const sweep of sweeps) if (sweep.visible && time.known()) sweep.settle(time.now());
  }, 1000);
}
