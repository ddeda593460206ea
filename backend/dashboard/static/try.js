// The "Try it" box: predict a chosen, dropped or pasted image, and draw the answer.
"use strict";
(() => {
  const form = document.getElementById("try");
  if (!form || !window.fetch || !window.createImageBitmap) return;
  const MIN_SIDE = 600, MAX_SIDE = 900, FONT_PIXELS = 14;
  const COLOURS = ["#5ee08a", "#ffb000", "#6db3ff", "#ff5da2", "#c79bff", "#ffe14d"];
  const find = (name) => form.querySelector(`[data-try=${name}]`);
  const [file, status, canvas, list] = ["file", "status", "canvas", "answers"].map(find);
  const key = find("key"), choice = find("function");
  let request = 0;  // the answer to an earlier image is dropped

  const percent = (confidence) => `${Math.round(100 * confidence)}%`;
  const headers = () => (key && key.value ? { Authorization: `Bearer ${key.value}` } : {});

  function invokeAddress() {
    if (!choice) return form.action;
    if (!choice.value) throw new Error("Choose a function first.");
    return `v1/functions/${encodeURIComponent(choice.value)}/invoke?capture=false`;
  }

  async function readAnswer(response) {
    let body = {};
    try {
      body = await response.json();
    } catch {
      // an error page of a proxy
    }
    if (!response.ok) throw new Error(body.detail || `The server answered ${response.status}.`);
    return body;
  }

  async function predict(image) {
    const number = ++request;
    status.textContent = "Predicting …";
    list.replaceChildren();
    canvas.hidden = true;
    form.classList.remove("answered");
    try {
      const sent = { ...headers(), Accept: "application/json" };
      sent["Content-Type"] = image.type || "application/octet-stream";
      const options = { method: "POST", body: image, headers: sent, credentials: "same-origin" };
      const answer = await readAnswer(await fetch(invokeAddress(), options));
      if (number === request) await show(image, answer);
    } catch (error) {
      if (number === request) status.textContent = error.message;
    }
  }

  async function show(image, answer) {
    const controls = Object.entries(answer.controls || { "": answer });
    const regions = controls.flatMap(([, control]) => control.predictions || []);
    const lines = controls.flatMap(([name, control]) => describe(name, control));
    status.textContent = `Predicted by ${answer.version}.`;
    list.replaceChildren(...lines.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    form.classList.add("answered");
    try {
      draw(await createImageBitmap(image), regions);
      canvas.setAttribute("aria-label", `The image: ${lines.join(", ")}`);
      canvas.hidden = false;
    } catch {
      status.textContent += " This browser cannot display the file.";
    }
  }

  function describe(name, control) {
    const prefix = name ? `${name}: ` : "";
    if (control.predictions) {
      const found = Object.entries(control.counts || {}).filter(([, count]) => count);
      const rows = found.map(([label, count]) => {
        const best = control.predictions.find((one) => one.labelName === label);
        return `${prefix}${count} ${label} (up to ${percent(best.confidence)})`;
      });
      return rows.length ? rows : [`${prefix}no objects`];
    }
    const chosen = (control.labels || []).map((one) => one.labelName);
    if (control.labelName) chosen.push(control.labelName);
    const rows = (control.labelConfidences || []).map((one) =>
      `${prefix}${one.labelName} ${percent(one.confidence)}${chosen.includes(one.labelName) ? " ✓" : ""}`);
    return chosen.length ? rows : [`${prefix}none of the labels`, ...rows];
  }

  function draw(bitmap, regions) {
    const side = Math.max(bitmap.width, bitmap.height);
    const scale = Math.min(Math.max(side, MIN_SIDE), MAX_SIDE) / side;
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const pen = canvas.getContext("2d");
    pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    pen.lineWidth = 3;
    pen.font = `600 ${FONT_PIXELS}px system-ui, sans-serif`;
    const labels = [...new Set(regions.map((one) => one.labelName))];
    for (const region of [...regions].reverse()) {  // the most confident one on top
      pen.strokeStyle = pen.fillStyle = COLOURS[labels.indexOf(region.labelName) % COLOURS.length];
      const box = region.boundingBox, at = region.center || box;
      const [x, y] = [at.x * canvas.width, at.y * canvas.height];
      if (box) {
        pen.strokeRect(x, y, box.width * canvas.width, box.height * canvas.height);
      } else {
        pen.beginPath();
        pen.arc(x, y, 6, 0, 2 * Math.PI);
        pen.stroke();
      }
      writeLabel(pen, `${region.labelName} ${percent(region.confidence)}`, x, y - (box ? 0 : 8));
    }
  }

  function writeLabel(pen, text, x, y) {
    const width = pen.measureText(text).width + 8, height = FONT_PIXELS + 6;
    const left = Math.max(0, Math.min(x, canvas.width - width)), top = Math.max(0, y - height);
    pen.fillRect(left, top, width, height);
    pen.fillStyle = "#000";
    pen.fillText(text, left + 4, top + FONT_PIXELS);
  }

  async function listFunctions() {
    try {
      const functions = await readAnswer(await fetch("v1/functions", { headers: headers() }));
      choice.replaceChildren(...functions.map((one) => new Option(`${one.name} (${one.id})`, one.id)));
      status.textContent = functions.length ? "" : "There is no function yet.";
      nameFunction();
    } catch (error) {
      choice.replaceChildren();
      status.textContent = error.message;
    }
  }

  function nameFunction() {
    for (const place of document.querySelectorAll("[data-function]")) {
      place.textContent = choice.value ? encodeURIComponent(choice.value) : "FUNCTION";
    }
  }

  const imageIn = (data) => [...(data ? data.files : [])].find((one) => one.size);
  file.addEventListener("change", () => file.files[0] && predict(file.files[0]));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (file.files[0]) predict(file.files[0]);
    else status.textContent = "Choose an image first.";
  });
  form.addEventListener("dragover", (event) => {
    event.preventDefault();
    form.classList.add("over");
  });
  form.addEventListener("dragleave", () => form.classList.remove("over"));
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    form.classList.remove("over");
    const image = imageIn(event.dataTransfer);
    if (image) predict(image);
  });
  document.addEventListener("paste", (event) => {
    const image = imageIn(event.clipboardData);
    if (image) predict(image);
  });
  if (choice) {
    if (key) key.addEventListener("change", listFunctions);
    choice.addEventListener("change", nameFunction);
    if (!key) listFunctions();
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    if (!navigator.clipboard) continue;  // only over https and on this machine
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
    });
  }
})();
