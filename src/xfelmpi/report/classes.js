"use strict";
// The condition for --where of the classes that are ticked.
const where = document.getElementById("where"), chosen = document.getElementById("chosen");
const boxes = [...document.querySelectorAll("figure input")];
const show = () => {
  const ticked = boxes.filter((box) => box.checked);
  const numbers = ticked.map((box) => Number(box.value)).sort((a, b) => a - b);
  // one class needs its comma: (3) is a number
  const list = numbers.length === 1 ? `${numbers[0]},` : numbers.join(", ");
  where.textContent = numbers.length ?
    `${where.dataset.command} "${where.dataset.also}class in (${list})"` : "no class is ticked";
  const hits = ticked.reduce((sum, box) => sum + Number(box.dataset.hits), 0);
  chosen.textContent = hits.toLocaleString("en");
};
boxes.forEach((box) => box.addEventListener("change", show));
document.querySelector(".command button").addEventListener("click", () => {
  const range = document.createRange();
  range.selectNodeContents(where);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  if (navigator.clipboard) navigator.clipboard.writeText(where.textContent).catch(() => {});
});
show();
