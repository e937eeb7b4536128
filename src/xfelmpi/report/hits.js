"use strict";
// The hit browser: sorts, filters and draws the hits whose values and packed photons are in the page.
const $ = (selector) => document.querySelector(selector);
const data = JSON.parse($("#hits")?.textContent || "null");
const PER_PAGE = 48, BINS = 4;

const names = data ? Object.keys(data.columns) : [];
const ticked = new Set();
let shown = [], page = 0, chosen = 0, down = true, detector = null;

// ---- filter: comparisons joined by "and", as --where has them

const compare = { ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b,
  "<=": (a, b) => a <= b, "==": (a, b) => a === b, "!=": (a, b) => a !== b };
const powers = { "": 0, f: -15, p: -12, n: -9, u: -6, "\u00b5": -6, "\u03bc": -6, m: -3, c: -2, k: 3, M: 6, G: 9 };
const si = { m: ["m", 1], J: ["J", 1], eV: ["J", 1.602176634e-19], s: ["s", 1], Hz: ["Hz", 1], K: ["K", 1],
  Pa: ["Pa", 1], bar: ["Pa", 1e5], rad: ["rad", 1], deg: ["rad", Math.PI / 180], V: ["V", 1], A: ["A", 1], W: ["W", 1] };

function column(word) {
  const name = names.includes(word) ? word : data.other_names[word];
  if (!names.includes(name)) throw new Error(`no column '${word}'; there are ${names.join(", ")}`);
  return name;
}

// a number, in SI or with a unit that fits the column
function quantity(text, name) {
  const found = text.trim().match(/^([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-z\u00b5\u03bc]+)?$/);
  if (!found) throw new Error(`'${text.trim()}' is not a number`);
  const value = Number(found[1]), unit = found[2];
  if (!unit) return value;
  for (const [form, [symbol, factor]] of Object.entries(si)) {
    const power = unit.endsWith(form) ? powers[unit.slice(0, -form.length)] : undefined;
    if (power === undefined) continue;
    const own = data.units[name];
    if (own && own !== symbol) throw new Error(`${name} is in ${own}, ${text.trim()} is not`);
    return (power < 0 ? value / 10 ** -power : value * 10 ** power) * factor;
  }
  throw new Error(`${unit} is not a known unit such as uJ, keV or nm`);
}

function conditions(text) {
  if (!text.trim()) return [];
  return text.split(/\s+and\s+/).map((part) => {
    const listed = part.match(/^\s*([A-Za-z_]\w*)\s+(not\s+)?in\s*[([]([^()[\]]*)[)\]]\s*$/);
    const found = part.match(/^\s*([A-Za-z_]\w*)\s*(>=|<=|==|!=|>|<)\s*([-+.\d].*)$/);
    if (!found && !listed) throw new Error(`'${part.trim()}' is not a comparison such as photons > 5000`);
    const name = column((found || listed)[1]), values = data.columns[name];
    if (listed) {
      const items = listed[3].split(",").filter((item) => item.trim()).map((item) => quantity(item, name));
      return (i) => values[i] !== null && items.includes(values[i]) === !listed[2];
    }
    const limit = quantity(found[3], name);
    return (i) => values[i] !== null && compare[found[2]](values[i], limit);
  });
}

function update() {
  let rules;
  $("#message").textContent = "";
  try { rules = conditions($("#where").value); }
  catch (error) { $("#message").textContent = error.message; return; }
  if ($("#only-ticked").checked) rules.push((i) => ticked.has(i));
  const key = data.columns[$("#sort").value], sign = down ? -1 : 1;
  shown = data.columns.hit.map((_, i) => i).filter((i) => rules.every((rule) => rule(i)));
  shown.sort((a, b) => {
    const [x, y] = [key[a], key[b]];
    if (x === null || y === null) return (x === null) - (y === null);
    return x === y ? a - b : sign * (x - y);
  });
  page = chosen = 0;
  draw();
}

// ---- photons

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// the point of the image that every pixel of a frame falls on, from the steps between pixels
let places = null;
async function unpackPoints() {
  const planes = await inflate(data.points), n = planes.length / 4, point = new Uint32Array(n);
  for (let k = 0, at = 0; k < n; k++) {
    at = (at + planes[k] + (planes[n + k] << 8) + (planes[2 * n + k] << 16) + (planes[3 * n + k] << 24)) | 0;
    point[k] = at;
  }
  return point;
}

// the lit pixels of a hit; a frame has all low bytes first, then, if there are any, all high ones
async function photons(i) {
  const packed = data.photons[i];
  if (!packed) return null;
  places ??= unpackPoints();
  const [place, bytes] = await Promise.all([places, inflate(packed)]), n = place.length, wide = bytes.length > n;
  const point = [], count = [];
  for (let k = 0; k < n; k++) {
    if (!bytes[k] && !(wide && bytes[n + k])) continue;
    point.push(place[k]);
    count.push(bytes[k] + (wide ? bytes[n + k] << 8 : 0));
  }
  return { point, count };
}

// Draw a hit with `bins` x `bins` pixels a point.
async function paint(canvas, i, bins) {
  const { width, height } = data, w = Math.ceil(width / bins), h = Math.ceil(height / bins);
  Object.assign(canvas, { width: w, height: h });
  canvas.dataset.hit = i;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = bins > 1;
  context.drawImage(detector, 0, 0, width / bins, height / bins);
  const found = await photons(i);
  // another hit may have been asked for meanwhile
  if (!found || canvas.dataset.hit !== String(i)) return;
  const sum = new Float32Array(w * h);
  let most = 2;
  found.point.forEach((at, k) => {
    const to = Math.floor(Math.floor(at / width) / bins) * w + Math.floor((at % width) / bins);
    sum[to] += found.count[k];
    most = Math.max(most, sum[to]);
  });
  const image = context.getImageData(0, 0, w, h), lowest = Math.log(0.08), span = Math.log(most) - lowest;
  sum.forEach((value, at) => {
    if (!value) return;
    const level = Math.round(((Math.log(value) - lowest) / span) * (data.palette.length - 1));
    image.data.set([...data.palette[level], 255], 4 * at);
  });
  context.putImageData(image, 0, 0);
}

// ---- page

const short = (value) => {
  if (value === null) return "–";
  if (Math.abs(value) >= 1e10) return value.toExponential(3);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
};

function caption(i) {
  const c = data.columns, strength = c.hit_sigma?.[i] === null ? `score ${short(c.hitscore[i])}` : `${short(c.hit_sigma[i])} σ`;
  const by = $("#sort").value, more = ["hit", "photons", "hit_sigma", "trainId", "cellId"].includes(by) ? "" : ` · ${by} ${short(c[by][i])}`;
  return [`hit ${c.hit[i]}`, `train ${c.trainId[i]}, cell ${c.cellId[i]}`, `${c.photons[i]} photons, ${strength}${more}`];
}

function card(i, place) {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  const box = document.createElement("input"), text = document.createElement("figcaption");
  const [name, ...lines] = caption(i), label = document.createElement("label"), bold = document.createElement("b");
  Object.assign(box, { type: "checkbox", checked: ticked.has(i) });
  box.addEventListener("change", () => { tick(i, box.checked); });
  bold.textContent = name;
  label.append(box, " ", bold);
  text.append(label);
  for (const line of lines) text.append(document.createElement("br"), line);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", [name, ...lines].join(", "));
  canvas.addEventListener("click", () => { choose(place); enlarge(); });
  figure.append(canvas, text);
  paint(canvas, i, BINS).catch(() => text.append(document.createElement("br"), "damaged in the CXI file"));
  return figure;
}

function draw() {
  const pages = Math.max(Math.ceil(shown.length / PER_PAGE), 1);
  page = Math.min(Math.max(page, 0), pages - 1);
  $("#page").textContent = `page ${page + 1} of ${pages}, ${shown.length} of ${data.columns.hit.length} hits, ${ticked.size} ticked`;
  $("#previous").disabled = page === 0;
  $("#next").disabled = page === pages - 1;
  $("#grid").replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE)
    .map((i, k) => card(i, page * PER_PAGE + k)));
  choose(Math.min(Math.max(chosen, page * PER_PAGE), (page + 1) * PER_PAGE - 1, shown.length - 1));
}

function turn(to) { page = to; chosen = page * PER_PAGE; draw(); }

function choose(place) {
  if (!shown.length) return;
  chosen = Math.min(Math.max(place, 0), shown.length - 1);
  const its = Math.floor(chosen / PER_PAGE);
  if (its !== page) { page = its; draw(); return; }
  [...$("#grid").children].forEach((figure, k) => figure.classList.toggle("chosen", page * PER_PAGE + k === chosen));
  $("#grid .chosen")?.scrollIntoView({ block: "nearest" });
}

function tick(i, on) {
  if (on) ticked.add(i); else ticked.delete(i);
  const place = shown.indexOf(i) - page * PER_PAGE, figure = $("#grid").children[place];
  if (figure) figure.querySelector("input").checked = on;
  $("#page").textContent = $("#page").textContent.replace(/\d+ ticked/, `${ticked.size} ticked`);
}

const dialog = $("dialog");
function enlarge() {
  if (!shown.length) return;
  const i = shown[chosen], table = dialog.querySelector("table");
  table.replaceChildren(...names.map((name) => {
    const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
    head.textContent = name;
    cell.textContent = `${short(data.columns[name][i])} ${data.columns[name][i] === null ? "" : data.units[name] || ""}`;
    row.append(head, cell);
    return row;
  }));
  const canvas = dialog.querySelector("canvas");
  canvas.setAttribute("aria-label", caption(i).join(", "));
  paint(canvas, i, 1);
  if (!dialog.open) dialog.showModal();
}

async function copy(text, button) {
  const area = document.createElement("textarea"), before = button.dataset.name || button.textContent;
  button.dataset.name = before;
  area.value = text;
  document.body.append(area);
  area.select();
  button.textContent = document.execCommand("copy") ? "copied" : "not allowed here";
  area.remove();
  setTimeout(() => { button.textContent = before; }, 1500);
}

const list = () => (ticked.size ? [...ticked].sort((a, b) => a - b) : shown);
const where = () => ticked.size
  ? list().map((i) => `(trainId == ${data.columns.trainId[i]} and cellId == ${data.columns.cellId[i]})`).join(" or ")
  : $("#where").value.trim();

function keys(event) {
  if (["INPUT", "SELECT"].includes(event.target.tagName) && event.target.type !== "checkbox") return;
  const across = Math.max(1, getComputedStyle($("#grid")).gridTemplateColumns.split(" ").length);
  const open = dialog.open, step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across }[event.key];
  if (step) { choose(chosen + step); if (open) enlarge(); }
  else if (event.key === "PageDown" && !$("#next").disabled) turn(page + 1);
  else if (event.key === "PageUp" && !$("#previous").disabled) turn(page - 1);
  else if (event.key === "Enter" && event.target.tagName !== "BUTTON") enlarge();
  else if (event.key === " " && event.target.tagName !== "BUTTON") tick(shown[chosen], !ticked.has(shown[chosen]));
  else return;
  event.preventDefault();
}

async function start() {
  for (const select of ["#sort", "#column"])
    $(select).append(...names.map((name) => new Option(name)));
  $("#sort").value = "hitscore";
  $("#column").value = "photons";
  detector = new Image();
  detector.src = data.detector;
  await detector.decode();
  $("#sort").addEventListener("change", update);
  $("#where").addEventListener("change", update);
  $("#only-ticked").addEventListener("change", update);
  $("form").addEventListener("submit", (event) => { event.preventDefault(); update(); });
  $("#direction").addEventListener("click", (event) => {
    down = !down;
    event.target.textContent = down ? "descending" : "ascending";
    update();
  });
  $("#add").addEventListener("click", () => {
    const before = $("#where").value.trim(), more = `${$("#column").value} ${$("#operator").value} ${$("#value").value}`;
    $("#where").value = before ? `${before} and ${more}` : more;
    update();
  });
  $("#previous").addEventListener("click", () => turn(page - 1));
  $("#next").addEventListener("click", () => turn(page + 1));
  $("#copy-list").addEventListener("click", (event) => copy(list().map((i) => data.columns.hit[i]).join(" "), event.target));
  $("#copy-where").addEventListener("click", (event) => copy(where(), event.target));
  $("#close").addEventListener("click", () => dialog.close());
  $("#zoom").addEventListener("click", (event) => {
    const whole = !dialog.querySelector(".large").classList.toggle("pixels");
    event.target.textContent = whole ? "pixel by pixel" : "whole detector";
  });
  addEventListener("keydown", keys);
  update();
  document.body.dataset.drawn = "yes";
}

if (data) start();
