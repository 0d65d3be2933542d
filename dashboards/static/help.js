// What the board says of itself, and its signs.
export const HELP = [
  "This is a secondary display. The bedside device alarms first, and what it shows counts. Not for diagnosis.",
  "Values are as old as the age beside them. Grey and thin means too old to act on. Two dashes mean there is no value.",
  "A blue-green band in place of the top bar means this page is not live: alarms are not running. Look after the patients themselves.",
  "Press a tile for every number's rule, limit and source, the trace with its grid, and the devices. Esc closes. Arrow keys move between rooms.",
];
export const LEGEND = [
  ["▲▲ ▼▼", "critical, HH above or LL below"], ["▲ ▼", "abnormal, H above or L below"], ["A", "notice, no alarm"],
  ["◆", "device, link or service trouble"], ["◷ 2m", "stale: last value this long ago, or from before the visit"], ["◷ time?", "the device's clock cannot be trusted"], ["≈ ?", "noisy signal, not judged"],
  ["⊘", "not checked: no rule could judge it; the reason is in the room's details"], ["– –", "no value"],
  ["↑143", "the cuff is inflating"], ["no data 2m", "an alarm whose value has not been seen since"], ["late 4m", "arrived this long after it was taken"], ["SIM", "simulated, not a patient's"],
];
