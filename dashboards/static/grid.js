// Columns of the grid: as many as make the largest tiles that fit without scrolling; rooms never change places.
const GAP = 8;
const WALL = { width: 215, height: 158 };
const TABLET = { width: 380, height: 214 };

export function layout(grid, count) {
  const width = grid.clientWidth - 2 * GAP;
  const height = grid.clientHeight - 2 * GAP;
  const narrow = innerWidth <= 900;
  const least = narrow ? TABLET : WALL;
  const fit = best(count, width, height, least);
  const columns = fit?.columns ?? Math.max(1, Math.min(count, Math.floor((width + GAP) / (least.width + GAP))));
  const tile = fit?.height ?? Math.max(least.height, Math.round(((width - GAP * (columns - 1)) / columns) * 0.555));
  grid.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  grid.style.gridAutoRows = `${Math.floor(tile)}px`;
}

function best(count, width, height, least) {
  let found = null;
  for (let columns = 1; columns <= 10; columns += 1) {
    const rows = Math.ceil(count / columns);
    const one = { columns, width: (width - GAP * (columns - 1)) / columns, height: (height - GAP * (rows - 1)) / rows };
    const score = Math.min(one.width / 2, one.height);
    if (one.width >= least.width && one.height >= least.height && (!found || score > found.score)) found = { ...one, score };
  }
  return found;
}
