"use strict";
// Sorting by a column: numbers by value, everything else as text; empty cells last.
const table = document.querySelector("table"), heads = [...table.tHead.rows[0].cells];
heads.forEach((head, column) =>
  head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const rows = [...table.tBodies[0].rows];
    const key = (row) => row.cells[column].dataset.value;
    const numbers = rows.every((row) => !isNaN(Number(key(row))));
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);
      return down * (numbers ? x - y : x.localeCompare(y));
    });
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
  }));
