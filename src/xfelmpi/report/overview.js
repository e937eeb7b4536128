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
// Only the runs of a sample or a state; what was chosen lasts when the page is loaded again.
const choices = [...document.querySelectorAll(".filters select")];
const remember = (name, value) => {
  try {
    if (value === undefined) return sessionStorage.getItem(name) || "";
    sessionStorage.setItem(name, value);
  } catch { /* not allowed for local files everywhere */ }
  return value || "";
};
const words = { 0: "complete", 3: "problems", followed: "being written" };
const filter = () => {
  const [sample, state] = choices.map((choice) => choice.value);
  for (const row of table.tBodies[0].rows)
    row.hidden = (sample && row.cells[1].dataset.value !== sample) ||
      (state && (words[[...row.cells].at(-1).dataset.value] || "failed") !== state);
};
for (const choice of choices) {
  const before = remember(choice.name);
  if ([...choice.options].some((option) => option.value === before)) choice.value = before;
  choice.addEventListener("change", () => { remember(choice.name, choice.value); filter(); });
}
filter();
const onTheWall = () => document.body.classList.toggle("wall", location.hash === "#wall");
addEventListener("hashchange", onTheWall);
onTheWall();
if (table.dataset.refresh) setTimeout(() => location.reload(), 1000 * table.dataset.refresh);
