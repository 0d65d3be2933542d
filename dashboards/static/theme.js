// Runs before the first paint. Dark on a wall screen, light on desk and tablet, until somebody chooses.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // storage may be forbidden; then the default holds
  }
  const wall = screen.width >= 1600 || innerWidth >= 1600;
  document.documentElement.dataset.theme = chosen === "dark" || chosen === "light" ? chosen : wall ? "dark" : "light";
})();
