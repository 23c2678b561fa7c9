// Sends each chosen file to the server and shows the answer. Text from files is set as text.
"use strict";

const MOST_ROWS = 12;
let limits;

function megabytes(bytes) {
  return `${bytes / 1e6} MB`;
}

function add(name) {
  const article = document.getElementById("answer").content.cloneNode(true).firstElementChild;
  article.querySelector("h2").textContent = name;
  article.querySelector(".result").textContent = "waiting ...";
  document.getElementById("answers").prepend(article);
  return article;
}

function refuse(article, sentence) {
  const result = article.querySelector(".result");
  result.textContent = sentence;
  result.classList.add("error");
}

function number(value, digits) {
  return value === null ? "" : value.toFixed(digits);
}

function fillTable(article, faces, name) {
  const body = article.querySelector("tbody");
  for (const face of faces.slice(0, MOST_ROWS)) {
    const time = face.time === null ? "" : `${number(face.time, 2)} s`;
    const row = body.insertRow();
    for (const cell of [
      face.track, number(face[name], 4), face.frame ?? "", time, number(face.score, 2),
    ]) row.insertCell().textContent = cell;
  }
  if (faces.length > MOST_ROWS)
    article.querySelector(".rest").textContent =
      `${faces.length - MOST_ROWS} more faces are in the record.`;
}

function show(article, answer) {
  const record = answer.record, name = answer.score_name, score = record[name];
  if (record.error !== null) {
    refuse(article, `It cannot be scored: ${record.error}.`);
    return;
  }
  const threshold = `threshold ${record.threshold.value.toFixed(4)} (${record.threshold.name})`;
  article.querySelector(".result").textContent =
    score === null ? "No score." : `${name} = ${score.toFixed(4)}: ${record.decision}, ${threshold}`;
  const notes = record.note === null ? [] : [record.note];
  if (record.frames > 1)
    for (const person of record.people.slice(0, MOST_ROWS))
      notes.push(`person ${person.track}: ${number(person[name], 4)} in ${person.frames} frames`);
  if (answer.shown_frame !== null)
    notes.push(`${record.frames} frames were searched; the picture is frame ${answer.shown_frame}`);
  article.querySelector(".note").textContent = notes.join("; ");
  article.querySelector(".picture").src = answer.picture;
  fillTable(article, record.faces, name);
  article.querySelector("table").hidden = record.faces.length === 0;
  article.querySelector("pre").textContent = JSON.stringify(record, null, 1);
  for (const part of article.querySelectorAll("h3, .masks-note, .masks"))
    part.hidden = answer.masks === null;
  if (answer.masks !== null) {
    article.querySelector(".masks").src = answer.masks;
    article.querySelector(".masks-note").textContent = answer.masks_note;
  }
  article.querySelector(".details").hidden = false;
}

async function send(file) {
  const article = add(file.name);
  if (file.size > limits.max_bytes) {
    refuse(article, `The file has over ${megabytes(limits.max_bytes)}.`);
    return;
  }
  try {
    const options = { method: "PUT", body: file };
    const response = await fetch(`score?name=${encodeURIComponent(file.name)}`, options);
    const answer = await response.json();
    if (response.ok) show(article, answer);
    else refuse(article, `It was not scored: ${answer.error}.`);
  } catch (error) {
    refuse(article, "The server did not answer; it may have been stopped.");
  }
}

async function start() {
  const input = document.getElementById("files");
  const facts = await (await fetch("facts")).json();
  limits = facts.limits;
  document.getElementById("model").textContent = facts.model;
  document.getElementById("limits").textContent =
    `A file has at most ${megabytes(limits.max_bytes)}, and a video at most ` +
    `${limits.max_length} s. At most ${limits.max_waiting} files are scored or wait at a time.`;
  input.accept = facts.accept;
  input.addEventListener("change", () => {
    for (const file of input.files) send(file);
    input.value = "";
  });
}

start();
