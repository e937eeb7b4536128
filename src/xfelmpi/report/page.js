"use strict";
// Charts stand in the page as they are; this adds a cursor, and zooming along x.
const SVG = "http://www.w3.org/2000/svg";
const raised = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function short(value, digits = 4) {
  if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5))
    return Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits });
  const [mantissa, power] = Number(value.toPrecision(digits)).toExponential().split("e");
  const ten = "10" + [...power.replace("+", "")].map((c) => raised[c]).join("");
  return mantissa === "1" ? ten : mantissa + "·" + ten;
}

function element(parent, name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function ticks(low, high, log, whole) {
  if (log) {
    const decades = Math.log10(high / low);
    const steps = decades > 2.5 ? [1] : decades > 0.8 ? [1, 2, 5] : [];
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
      for (const s of steps) if (s * 10 ** e >= low && s * 10 ** e <= high) found.push(s * 10 ** e);
    if (found.length > 1) return found;
  }
  const rough = Math.max((high - low) / 6, whole ? 1 : 0), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12); i++) found.push(i * step);
  return found;
}

function liven(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const svg = figure.querySelector("svg"), plot = svg.querySelector(".plot"), frame = svg.querySelector(".frame");
  const [x0, y0, width, height] = ["x", "y", "width", "height"].map((k) => Number(frame.getAttribute(k)));
  const [low, high, log, whole] = data.x;
  const place = log ? (v) => Math.log(v / low) / Math.log(high / low) : (v) => (v - low) / (high - low);
  const value = log ? (p) => low * (high / low) ** p : (p) => low + p * (high - low);
  let from = 0, to = 1, start = null;
  const tip = document.createElement("div"), reset = document.createElement("button");
  tip.className = "tip"; tip.hidden = true;
  reset.className = "reset"; reset.textContent = "whole range"; reset.hidden = true; reset.type = "button";
  figure.append(tip, reset);
  const cursor = element(svg, "line", { class: "cursor", y1: y0, y2: y0 + height, visibility: "hidden" });
  const chosen = element(svg, "rect", { class: "chosen", y: y0, height, width: 0 });
  const across = (p) => x0 + (width * (p - from)) / (to - from);

  function show(a, b) {
    [from, to] = [a, b];
    reset.hidden = from === 0 && to === 1;
    plot.setAttribute("viewBox", `${1000 * from} 0 ${1000 * (to - from)} 1000`);
    const axis = svg.querySelector(".x");
    axis.replaceChildren();
    for (const v of ticks(value(from), value(to), log, whole)) {
      const at = across(place(v));
      element(axis, "line", { x1: at, x2: at, y1: y0 + height, y2: y0 + height + 4 });
      element(axis, "text", { x: at, y: y0 + height + 18 }, short(v));
      if (data.top && v > 0) element(axis, "text", { x: at, y: y0 - 6 }, short((2 * Math.PI) / v, 2));
    }
    [...svg.querySelectorAll(".marks > g")].forEach((g, i) => {
      const p = place(data.marks[i % data.marks.length]);
      g.setAttribute("transform", `translate(${across(p)} 0)`);
      g.setAttribute("visibility", p >= from && p <= to ? "visible" : "hidden");
    });
  }

  // 0 … 1 of the visible part
  function where(event) {
    const box = frame.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  }

  function hover(event) {
    const p = from + where(event) * (to - from);
    let near = null;
    for (const [, xs] of data.series)
      for (const x of xs)
        if (x !== null && (near === null || Math.abs(place(x) - p) < Math.abs(place(near) - p))) near = x;
    if (near === null) return;
    const at = across(place(near));
    cursor.setAttribute("x1", at); cursor.setAttribute("x2", at); cursor.setAttribute("visibility", "visible");
    tip.replaceChildren();
    const lines = [`${data.name}: ${short(near, 7)}`];
    for (const [label, xs, ys] of data.series) {
      const y = ys[xs.indexOf(near)];
      if (y !== undefined && y !== null) lines.push(`${label}: ${short(y)}`);
    }
    for (const line of lines) {
      const row = document.createElement("div");
      row.textContent = line;
      tip.append(row);
    }
    tip.hidden = false;
    const box = figure.getBoundingClientRect(), plotBox = frame.getBoundingClientRect();
    const x = plotBox.left - box.left + ((at - x0) / width) * plotBox.width;
    tip.style.left = Math.max(0, Math.min(box.width - tip.offsetWidth, x + 12)) + "px";
    tip.style.top = plotBox.top - box.top + 6 + "px";
  }

  function leave() {
    tip.hidden = true;
    cursor.setAttribute("visibility", "hidden");
  }

  frame.addEventListener("pointerdown", (event) => {
    start = where(event);
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    if (start === null) return hover(event);
    const end = where(event);
    chosen.setAttribute("x", x0 + width * Math.min(start, end));
    chosen.setAttribute("width", width * Math.abs(end - start));
  });
  frame.addEventListener("pointerup", (event) => {
    const [a, b] = [start, where(event)].sort((u, v) => u - v), span = to - from;
    start = null;
    chosen.setAttribute("width", 0);
    if (b - a > 0.02 && (b - a) * span > 1e-4) show(from + a * span, from + b * span);
    else hover(event);
  });
  frame.addEventListener("pointercancel", () => { start = null; chosen.setAttribute("width", 0); leave(); });
  frame.addEventListener("pointerleave", leave);
  frame.addEventListener("dblclick", () => show(0, 1));
  reset.addEventListener("click", () => show(0, 1));
}

document.querySelectorAll("figure.chart").forEach(liven);

// A detector image, large.
const dialog = document.querySelector("dialog");
document.querySelectorAll(".images img, .hits img").forEach((image) => {
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  const open = () => {
    const large = dialog.querySelector("img");
    large.src = image.src; large.alt = image.alt;
    dialog.showModal();
  };
  image.addEventListener("click", open);
  image.addEventListener("keydown", (event) => { if (event.key === "Enter") open(); });
});
dialog.addEventListener("click", () => dialog.close());

// Commands, ready to copy: also where the clipboard is closed to files.
document.querySelectorAll(".command button").forEach((button) =>
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = document.execCommand("copy") ? "copied" : "selected";
  }));

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
// A run that is still being written has more to show soon.
const written = document.querySelector("[data-refresh]");
if (written) setTimeout(() => location.reload(), 1000 * written.dataset.refresh);
