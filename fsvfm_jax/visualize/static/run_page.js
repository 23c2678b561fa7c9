// Draws the charts of the page and moves its pictures. Text from runs is only ever set as text.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 250, LEFT = 78, RIGHT = 14, TOP = 16, BOTTOM = 40;
const LEAST = 1e-100;  // the least value on a logarithmic axis
const MARKS = { start: ["▲", "#222"], rewind: ["◀", "#222"], change: ["◆", "#222"], skipped: ["✕", "#a3001b"], alarm: ["!", "#a3001b"] };
const data = JSON.parse(document.getElementById("data").textContent);
const hidden = new Set();
let byEpoch = false, zoom = null, charts = [];

function node(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function element(name, parent, text) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// Numbers

function shown(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  return Number(value.toPrecision(5)).toLocaleString("en-US", { maximumFractionDigits: 8 });
}

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(x => x * power).find(x => x >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9 && found.length < 50; n++)
    found.push(n * step + 0);  // + 0 turns -0 into 0.
  return { values: found, step };
}

// The text of a tick, with as many digits as its distance to the next tick needs.
function tickText(value, step) {
  const size = Math.abs(value), digits = Math.min(Math.max(-Math.floor(Math.log10(step) + 1e-9), 0), 8);
  if (size === 0 || size >= 1e6 || (size && (size < 1e-3 || digits > 7))) return shown(value);
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function logTicks(low, high) {
  const found = [], decades = Math.log10(high / low);
  const parts = decades > 4 ? [1] : decades > 1.5 ? [1, 3] : [1, 2, 3, 5, 7];
  const stride = Math.max(1, Math.ceil(decades / 8));
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += stride)
    for (const part of parts) found.push(part * 10 ** power);
  const inside = found.filter(x => x >= low && x <= high);
  return { values: inside.length > 1 ? inside : [low, high], step: null };
}

// A number of pixels that SVG can draw.
function near(pixels) { return Math.min(Math.max(pixels, -1e5), 1e5); }

// The place of a step on the x axis; null if the epochs of the run are not known.
function placeOf(step, perEpoch) {
  return byEpoch ? (perEpoch ? step / perEpoch : null) : step;
}

function perEpochOf(line) {
  return line.run === null ? line.perEpoch : data.runs[line.run].perEpoch;
}

function lookOf(line) {
  if (line.run === null) return { colour: "#000", dash: "5 3", width: 1.5 };
  const run = data.runs[line.run];
  if (line.kind === "beside") return { colour: run.colour, dash: "1 3", width: 1.8 };
  return { colour: run.colour, dash: run.dash, width: line.kind === "points" ? 2.2 : 1.1 };
}

function titleOf(line) {
  if (line.run === null) return line.label;
  const name = data.runs[line.run].name;
  return line.label ? `${name}: ${line.label}` : name;
}

// All charts have the same x axis.
function wholeRange() {
  let low = Infinity, high = -Infinity;
  for (const chart of data.charts)
    for (const line of chart.lines) {
      if (line.run === null || hidden.has(line.run) || !line.x.length) continue;
      for (const step of [line.x[0], line.x[line.x.length - 1]]) {
        const place = placeOf(step, perEpochOf(line));
        if (place !== null) { low = Math.min(low, place); high = Math.max(high, place); }
      }
    }
  if (!(low < high)) { low = Number.isFinite(low) ? low - 0.5 : 0; high = low + 1; }
  return [Math.min(low, 0), high];
}

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.log = spec.log;
    this.box = document.getElementById(`chart-${data.charts.indexOf(spec)}`);
    const label = this.box.querySelector("label"), check = element("input");
    check.type = "checkbox";
    check.checked = this.log;
    label.replaceChildren(check, " logarithmic");
    check.addEventListener("change", () => { this.log = check.checked; this.draw(); });
    this.svg = this.box.querySelector(":scope > svg");
    this.legend = this.box.querySelector(".legend");
    this.svg.addEventListener("pointermove", event => this.point(event));
    this.svg.addEventListener("pointerleave", () => { if (!this.from) this.rest(); });
    this.svg.addEventListener("pointerdown", event => {
      if (event.button) return;
      this.from = this.placeAt(event);
      this.svg.setPointerCapture(event.pointerId);
    });
    this.svg.addEventListener("pointerup", event => this.release(event));
    this.svg.addEventListener("pointercancel", () => { this.from = null; this.rest(); });
    this.svg.addEventListener("dblclick", () => zoomTo(null));
  }

  visible() { return this.spec.lines.filter(line => line.run === null || !hidden.has(line.run)); }

  draw() {
    const width = Math.max(this.box.clientWidth, 240);
    [this.low, this.high] = zoom ?? wholeRange();
    this.width = width;
    this.lines = this.visible().map(line => {
      const perEpoch = perEpochOf(line), points = [];
      line.x.forEach((step, n) => {
        const place = placeOf(step, perEpoch);
        if (place !== null && (!this.log || line.y[n] > LEAST)) points.push([place, line.y[n]]);
      });
      return { line, points };
    });
    this.findHeights();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.replaceChildren();
    this.drawAxes();
    const clip = `clip-${this.box.id}`;
    node("rect", { x: LEFT, y: TOP - 4, width: width - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM + 8 }, node("clipPath", { id: clip }, this.svg));
    this.plot = node("g", { "clip-path": `url(#${clip})` }, this.svg);
    this.lines.forEach(entry => this.drawLine(entry));
    this.drawMarks();
    this.cursor = node("path", { stroke: "#888", fill: "none" }, this.svg);
    this.band = node("rect", { y: TOP, height: HEIGHT - TOP - BOTTOM, fill: "#4477aa", opacity: 0.15, visibility: "hidden" }, this.svg);
    this.rest();
  }

  findHeights() {
    let bottom = Infinity, top = -Infinity;
    for (const { line, points } of this.lines)
      for (const [place, value] of points)
        if (place >= this.low && place <= this.high) { bottom = Math.min(bottom, value); top = Math.max(top, value); }
    this.empty = !(bottom <= top);
    if (this.empty) [bottom, top] = [this.log ? 1 : 0, 10];
    if (this.log) {
      const margin = Math.max((top / bottom) ** 0.05, 1.02);
      this.bottom = bottom / margin; this.top = top * margin;
    } else {
      const margin = (top - bottom) * 0.05 || Math.abs(top) * 0.05 || 0.5;
      this.bottom = bottom - margin; this.top = top + margin;
    }
  }

  across(place) { return near(LEFT + (place - this.low) / (this.high - this.low) * (this.width - LEFT - RIGHT)); }

  down(value) {
    const share = this.log ? Math.log(value / this.bottom) / Math.log(this.top / this.bottom) : (value - this.bottom) / (this.top - this.bottom);
    return near(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM));
  }

  drawAxes() {
    const end = this.width - RIGHT, floor = HEIGHT - BOTTOM;
    const { values, step } = this.log ? logTicks(this.bottom, this.top) : ticks(this.bottom, this.top, 5);
    for (const value of values) {
      const y = this.down(value);
      node("path", { d: `M${LEFT} ${y}H${end}`, stroke: "#e4e4e4" }, this.svg);
      node("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, this.svg, step ? tickText(value, step) : shown(value));
    }
    const below = ticks(this.low, this.high, Math.max(3, Math.floor(this.width / 90)));
    for (const value of below.values) {
      const x = this.across(value);
      node("path", { d: `M${x} ${TOP}V${floor}`, stroke: "#f0f0f0" }, this.svg);
      node("text", { x, y: floor + 16, "text-anchor": "middle" }, this.svg, tickText(value, below.step));
    }
    node("path", { d: `M${LEFT} ${TOP}V${floor}H${end}`, stroke: "#888", fill: "none" }, this.svg);
    node("text", { x: (LEFT + end) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, this.svg, byEpoch ? "epoch" : "step");
    const axis = node("text", { transform: `translate(12 ${(TOP + floor) / 2}) rotate(-90)`, "text-anchor": "middle" }, this.svg, this.spec.axis);
    if (this.spec.axis.length > 34) {
      axis.setAttribute("textLength", floor - TOP);
      axis.setAttribute("lengthAdjust", "spacingAndGlyphs");
    }
    if (this.empty) node("text", { x: (LEFT + end) / 2, y: (TOP + floor) / 2, "text-anchor": "middle" }, this.svg, "nothing to draw here");
  }

  drawLine({ line, points }) {
    const look = lookOf(line);
    const path = points.map(([place, value], n) => `${n ? "L" : "M"}${this.across(place).toFixed(1)} ${this.down(value).toFixed(1)}`).join("");
    const faded = line.kind === "steps" && this.lines.some(other => other.line.run === line.run && other.line.kind === "points");
    node("path", { d: path, fill: "none", stroke: look.colour, "stroke-width": look.width, "stroke-dasharray": look.dash, opacity: faded ? 0.5 : 1, "stroke-linejoin": "round" }, this.plot);
    if (points.length === 1 || ((line.kind === "points" || line.run === null) && points.length <= 60))
      for (const [place, value] of points) node("circle", { cx: this.across(place), cy: this.down(value), r: 3, fill: look.colour }, this.plot);
  }

  drawMarks() {
    data.runs.forEach((run, n) => {
      if (hidden.has(n) || !this.spec.lines.some(line => line.run === n)) return;
      for (const mark of run.marks) {
        const place = placeOf(mark.step, run.perEpoch);
        if (place === null || place < this.low || place > this.high) continue;
        const x = this.across(place), [sign, colour] = MARKS[mark.kind], isAlarm = mark.kind === "alarm";
        const group = node("g", {}, this.svg);
        node("path", { d: `M${x} ${TOP}V${HEIGHT - BOTTOM}`, stroke: isAlarm ? colour : run.colour, "stroke-dasharray": "2 4", opacity: 0.7 }, group);
        const label = node("text", { x, y: mark.kind === "start" ? HEIGHT - BOTTOM - 1 : TOP - 3, "text-anchor": "middle" }, group, sign);
        label.style.fill = isAlarm || mark.kind === "skipped" ? colour : run.colour;
        if (isAlarm) label.style.fontWeight = "bold";
        node("title", {}, group, `${run.name}, step ${mark.step.toLocaleString("en-US")}: ${mark.text}`);
      }
    });
  }

  placeAt(event) {
    const box = this.svg.getBoundingClientRect(), x = (event.clientX - box.left) * this.width / box.width;
    const share = (x - LEFT) / (this.width - LEFT - RIGHT);
    return this.low + Math.min(Math.max(share, 0), 1) * (this.high - this.low);
  }

  point(event) {
    if (!this.lines) return;
    const place = this.placeAt(event), x = this.across(place);
    if (this.from !== null && this.from !== undefined) {
      const [left, right] = [this.across(this.from), x].sort((a, b) => a - b);
      this.band.setAttribute("x", left);
      this.band.setAttribute("width", right - left);
      this.band.setAttribute("visibility", "visible");
    }
    this.cursor.setAttribute("d", `M${x} ${TOP}V${HEIGHT - BOTTOM}`);
    this.tell(points => nearest(points, place));
  }

  release(event) {
    const from = this.from, to = this.placeAt(event);
    this.from = null;
    if (from !== null && from !== undefined && Math.abs(this.across(from) - this.across(to)) > 5) zoomTo([Math.min(from, to), Math.max(from, to)]);
    else this.rest();
  }

  // Without a pointer the legend shows the newest values.
  rest() {
    if (!this.lines) return;
    this.cursor.setAttribute("d", "");
    this.band.setAttribute("visibility", "hidden");
    this.tell(points => points[points.length - 1]);
  }

  tell(choose) {
    this.legend.replaceChildren(...this.lines.map(({ line, points }) => {
      const look = lookOf(line), entry = element("span");
      const swatch = node("svg", { class: "swatch", viewBox: "0 0 22 10", width: 22, height: 10 }, entry);
      node("path", { d: "M0 5H22", stroke: look.colour, "stroke-dasharray": look.dash, "stroke-width": look.width + 0.6, opacity: line.kind === "steps" ? 0.75 : 1 }, swatch);
      if (line.kind === "points" || line.run === null) node("circle", { cx: 11, cy: 5, r: 3, fill: look.colour }, swatch);
      const found = choose(points);
      entry.append(titleOf(line));
      element("b", entry, found ? `${shown(found[1])} at ${shown(Number(found[0].toFixed(byEpoch ? 2 : 0)))}` : "–");
      return entry;
    }));
  }
}

function nearest(points, place) {
  let first = 0, last = points.length - 1;
  while (last - first > 1) {
    const middle = (first + last) >> 1;
    if (points[middle][0] < place) first = middle; else last = middle;
  }
  if (last < 0) return undefined;
  return Math.abs(points[first][0] - place) <= Math.abs(points[last][0] - place) ? points[first] : points[last];
}

function zoomTo(range) {
  zoom = range;
  document.getElementById("all").disabled = zoom === null;
  drawAll();
}

function drawAll() { for (const chart of charts) chart.draw(); }

// Controls

function addControls() {
  document.querySelectorAll("input[name=axis]").forEach(input => input.addEventListener("change", () => {
    byEpoch = input.value === "epoch";
    zoomTo(null);
  }));
  document.getElementById("all").addEventListener("click", () => zoomTo(null));
  document.querySelectorAll(".runs input").forEach((input, place) => input.addEventListener("change", () => {
    if (input.checked) hidden.delete(place); else hidden.add(place);
    drawAll();
    showPictures();
  }));
  document.querySelectorAll(".controls").forEach(part => part.hidden = false);
}

// Pictures: each run shows its newest picture up to the step of the slider.

function showPictures() {
  const slider = document.getElementById("slider");
  if (!slider) return;
  const step = data.pictureSteps[Number(slider.value)];
  document.getElementById("slider-step").textContent = `step ${step.toLocaleString("en-US")}`;
  document.querySelectorAll(".pictures figure").forEach((figure, place) => {
    figure.hidden = hidden.has(place);
    const pictures = data.runs[place].pictures;
    const found = pictures.filter(picture => picture.step <= step).pop() ?? pictures[0];
    if (!found) return;
    const image = figure.querySelector("img");
    if (image.src !== found.url) image.src = found.url;
    image.width = found.width;
    image.height = found.height;
    image.alt = `picture of ${data.runs[place].name} at step ${found.step}`;
    figure.querySelector("b").textContent = `step ${found.step.toLocaleString("en-US")}`;
  });
}

addControls();
charts = data.charts.map(spec => new Chart(spec));
drawAll();
const slider = document.getElementById("slider");
if (slider) {
  slider.addEventListener("input", showPictures);
  showPictures();
}
let width = document.body.clientWidth;
addEventListener("resize", () => {
  if (document.body.clientWidth !== width) { width = document.body.clientWidth; drawAll(); }
});
