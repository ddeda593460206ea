// Keeps the numbers of an open page fresh; without it the page works as well.
"use strict";
(() => {
  const box = document.getElementById("now");
  if (!box || !window.fetch) return;
  if (window.location.search) {  // a notice is told once
    window.history.replaceState(null, "", window.location.pathname);
  }
  const RUNNING = 1500, RESTING = 4000;
  const running = () => box.querySelector("progress") !== null;

  async function refresh() {
    if (document.hidden) return;
    const answer = await fetch(box.dataset.from, { credentials: "same-origin" });
    if (!answer.ok) return;
    const version = answer.headers.get("x-live-version");
    if (version !== null && "version" in box.dataset && version !== box.dataset.version) {
      window.location.reload();
      return;
    }
    const text = await answer.text();
    if (text !== box.dataset.shown && !box.contains(document.activeElement)) {
      box.innerHTML = text;
      box.dataset.shown = text;
    }
  }

  async function again() {
    try {
      await refresh();
    } catch {
      // the backend is away for a moment
    }
    window.setTimeout(again, running() ? RUNNING : RESTING);
  }

  window.setTimeout(again, running() ? RUNNING : RESTING);
})();
