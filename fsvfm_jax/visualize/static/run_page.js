// Gives all charts the same x axis and the same hidden runs, and moves the pictures.
"use strict";

const page = JSON.parse(document.getElementById("data").textContent);
// Of plotly's own buttons only these: another one sends the numbers of a chart to a server.
const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "autoScale2d"]] };
const hidden = new Set();  // groups of lines: the place of a run as text
let following = false;

const charts = page.figures.map(({ data, layout, runs }, n) => {
  const marks = runs.map(run => page.marks[run]).filter(trace => trace);
  const traces = [...data, ...marks.map(trace => structuredClone(trace))];
  return { box: document.getElementById(`chart-${n}`), traces, layout, steps: traces.map(trace => trace.x) };
});

function follow(changed, changes) {
  const shared = Object.fromEntries(Object.entries(changes).filter(([name]) => name.startsWith("xaxis.")));
  if (following || !Object.keys(shared).length) return;
  following = true;
  const others = charts.filter(chart => chart !== changed);
  Promise.all(others.map(({ box }) => Plotly.relayout(box, { ...shared }))).finally(() => following = false);
}

function hideOrShow(group) {
  if (!hidden.delete(group)) hidden.add(group);
  for (const { box, traces } of charts)
    Plotly.restyle(box, { visible: traces.map(trace => hidden.has(trace.legendgroup) ? "legendonly" : true) });
  showPictures();
}

// The steps of an epoch are in `meta`; null if they are not known.
function useAxis(axis) {
  const placed = (steps, perEpoch) => axis === "step" ? steps : steps.map(step => perEpoch ? step / perEpoch : null);
  for (const { box, traces, steps } of charts)
    Plotly.update(box, { x: traces.map((trace, n) => placed(steps[n], trace.meta)) }, {
      "xaxis.title.text": axis, "xaxis.autorange": true, "xaxis.autorangeoptions.maxallowed": page.ends[axis],
    });
}

// Each run shows its newest picture up to the step of the slider.
function showPictures() {
  const slider = document.getElementById("slider");
  if (!slider) return;
  const step = page.pictureSteps[Number(slider.value)];
  document.getElementById("slider-step").textContent = `step ${step.toLocaleString("en-US")}`;
  document.querySelectorAll(".pictures figure").forEach((figure, place) => {
    figure.hidden = hidden.has(String(place));
    const pictures = page.pictures[place];
    const found = pictures.filter(picture => picture.step <= step).pop() ?? pictures[0];
    if (!found) return;
    const image = figure.querySelector("img");
    if (image.src !== found.url) image.src = found.url;
    image.width = found.width;
    image.height = found.height;
    image.alt = `picture at step ${found.step}`;
    figure.querySelector("b").textContent = `step ${found.step.toLocaleString("en-US")}`;
  });
}

for (const chart of charts) {
  Plotly.newPlot(chart.box, chart.traces, chart.layout, config);
  chart.box.on("plotly_relayout", changes => follow(chart, changes));
  chart.box.on("plotly_legenddoubleclick", () => false);
  chart.box.on("plotly_legendclick", clicked => {
    hideOrShow(clicked.data[clicked.curveNumber].legendgroup);
    return false;
  });
}
document.querySelectorAll("input[name=axis]").forEach(input => input.addEventListener("change", () => useAxis(input.value)));
document.getElementById("slider")?.addEventListener("input", showPictures);
document.querySelectorAll(".controls").forEach(part => part.hidden = false);
showPictures();
// A chart has the width of the window, which paper does not have.
addEventListener("beforeprint", () => charts.forEach(({ box }) => Plotly.relayout(box, { width: 680 })));
addEventListener("afterprint", () => charts.forEach(({ box }) => Plotly.relayout(box, { width: null, autosize: true })));
