// Refreshes the status of an open page. The page works without JavaScript, too.
"use strict";
(() => {
  const box = document.getElementById("now");
  if (!box || !window.fetch) return;
  if (window.location.search) {  // show the notice of an action only once
    window.history.replaceState(null, "", window.location.pathname);
  }
  const RUNNING_INTERVAL_MS = 1500, IDLE_INTERVAL_MS = 4000;

  async function refresh() {
    if (document.hidden && !("notify" in document.body.dataset)) return;
    const response = await fetch(box.dataset.from, { credentials: "same-origin" });
    if (!response.ok) return;
    const version = response.headers.get("x-live-version");
    if (version !== null && "version" in box.dataset && version !== box.dataset.version) {
      box.dataset.version = version;
      if (version) document.dispatchEvent(new CustomEvent("prelabel:live", { detail: version }));
      reloadWhenSeen();
      return;
    }
    const html = await response.text();
    if (html !== box.dataset.shown) {
      replaceContent(html);
      box.dataset.shown = html;
    }
  }

  function replaceContent(html) {
    const focused = box.contains(document.activeElement) ? document.activeElement : null;
    const others = [...box.querySelectorAll("a, button")];
    const position = others.indexOf(focused);
    box.innerHTML = html;
    box.dispatchEvent(new Event("refreshed", { bubbles: true }));
    const successor = [...box.querySelectorAll("a, button")][position];
    if (focused && successor && successor.textContent === focused.textContent) successor.focus();
  }

  // A reload would close a notification, and lose the answer of the "Try it" box.
  function reloadWhenSeen() {
    if (document.querySelector("form.answered")) return;
    if (!document.hidden) window.location.reload();
    else document.addEventListener("visibilitychange", reloadWhenSeen, { once: true });
  }

  async function refreshAndSchedule() {
    try {
      await refresh();
    } catch {
      // the backend is temporarily unavailable
    }
    schedule();
  }

  function schedule() {
    const isRunning = box.querySelector("progress") !== null;
    window.setTimeout(refreshAndSchedule, isRunning ? RUNNING_INTERVAL_MS : IDLE_INTERVAL_MS);
  }

  schedule();
})();
