"use strict";
// The charts are a document of Bokeh; this puts them into the page and gives the powders their values.
const read = (id) => JSON.parse(document.getElementById(id)?.textContent || "null");
const { ndarray } = Bokeh.loader["@bokehjs/core/util/ndarray"];
const charts = read("charts"), powders = read("powders") || [];

// A picture as numbers: 0 no detector, 1 bad, 2 zero, 3 … 255 from low to high, logarithmic.
async function values({ png, low, high }) {
  const image = new Image();
  image.src = png;
  await image.decode();
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  const of = Float32Array.from({ length: 256 }, (_, k) =>
    k < 2 ? NaN : k === 2 ? 0 : low * (high / low) ** ((k - 3) / 252));
  const found = new Float32Array(width * height), bad = new Float32Array(width * height);
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      // the picture begins at its top, Bokeh's arrays at the bottom
      const k = pixels[4 * (row * width + column)], at = (height - 1 - row) * width + column;
      found[at] = of[k];
      bad[at] = k === 1 ? 1 : NaN;
    }
  const array = (data) => ndarray(data, { shape: [height, width], dtype: "float32" });
  return { image: [array(found)], bad: [array(bad)] };
}

async function fill(model, powder) {
  const { left, top, width, height } = powder;
  const { image, bad } = await values(powder);
  model.data = { image, bad, x: [left], y: [top - height], dw: [width], dh: [height] };
}

// Round numbers from low to high on a logarithmic scale.
function ticks(low, high) {
  const steps = Math.log10(high / low) > 1.8 ? [1] : [1, 2, 5], found = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    found.push(...steps.map((step) => Number(`${step}e${e}`)).filter((v) => v >= low && v <= high));
  return found;
}

// All powders on one scale, or each on its own.
function scale(page) {
  const box = document.querySelector("#same-scale");
  const scales = [...document.querySelectorAll("figure.powder")].map((figure) => ({
    mapper: page.get_model_by_name(figure.dataset.scale),
    ticker: page.get_model_by_name(`${figure.dataset.scale} ticks`),
    low: Number(figure.dataset.low), high: Number(figure.dataset.high),
  }));
  const lowest = Math.min(...scales.map((s) => s.low)), highest = Math.max(...scales.map((s) => s.high));
  const show = () => scales.forEach(({ mapper, ticker, ...own }) => {
    const { low, high } = box.checked ? { low: lowest, high: highest } : own;
    mapper.setv({ low, high });
    ticker.ticks = ticks(low, high);
  });
  box?.addEventListener("change", show);
  if (box) show();
}

async function draw() {
  Bokeh.logger.set_level("error");
  const ids = Object.keys(charts.roots);
  await Bokeh.embed.embed_items({ page: charts.document }, [{ docid: "page", roots: charts.roots, root_ids: ids }]);
  const page = Bokeh.documents.at(-1);
  // a finger moves the page; zooming is one of the tools
  if (matchMedia("(pointer: coarse)").matches)
    for (const id of ids) page.get_model_by_id(id).toolbar.active_drag = null;
  await Promise.all(powders.map((powder) => fill(page.get_model_by_name(powder.name), powder)));
  scale(page);
}

draw().then(() => { document.body.dataset.drawn = "yes"; });

// A detector image, large.
const dialog = document.querySelector("dialog");
document.querySelectorAll(".hits img").forEach((image) => {
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
