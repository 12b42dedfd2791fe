"use strict";
(() => {
  // Sorting: a heading sorts by its column; missing values stay at the end.
  const key = (row, column) => row.cells[column].dataset.sort;
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? String(a).localeCompare(b) : x - y;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    headings.forEach((heading, column) => {
      heading.firstElementChild.addEventListener("click", () => {
        const descending = heading.getAttribute("aria-sort") === "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((first, second) => {
          const [a, b] = [key(first, column), key(second, column)];
          if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
          return descending ? compare(b, a) : compare(a, b);
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  // The interactive front; without it, or in print, the drawn one is shown.
  const place = document.getElementById("front");
  const source = document.getElementById("front-data");
  if (!place || !source || typeof Plotly === "undefined") return;
  const themed = (value, styles) => {
    if (Array.isArray(value)) return value.map((item) => themed(item, styles));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, themed(item, styles)]));
    }
    const variable = typeof value === "string" && /^var\((--[a-z]+)\)$/.exec(value);
    return variable ? styles.getPropertyValue(variable[1]).trim() : value;
  };
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const draw = () => {
    const { data, layout } = themed(JSON.parse(source.textContent), getComputedStyle(document.documentElement));
    return Plotly.react(place, data, layout, config);
  };
  document.documentElement.classList.add("drawn");
  const giveUp = () => document.documentElement.classList.remove("drawn");
  try {
    draw().catch(giveUp);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  } catch (error) {
    giveUp();
  }
})();
