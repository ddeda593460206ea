// A browser notification when a version goes live, if the person asked for it with the button.
"use strict";
(() => {
  const button = document.getElementById("notify");
  if (!button || !("Notification" in window) || !window.isSecureContext) return;
  const SETTING = "prelabel-notify";

  const isOn = () =>
    Notification.permission === "granted" && window.localStorage.getItem(SETTING) === "on";

  function show() {
    button.hidden = false;
    button.textContent = isOn() ? "Stop notifications" : "Notify me when a version goes live";
    if (isOn()) document.body.dataset.notify = "";
    else delete document.body.dataset.notify;
  }

  button.addEventListener("click", async () => {
    if (isOn()) {
      window.localStorage.removeItem(SETTING);
    } else if ((await Notification.requestPermission()) === "granted") {
      window.localStorage.setItem(SETTING, "on");
    } else {
      button.disabled = true;
      button.textContent = "This browser blocks notifications of this page";
      return;
    }
    show();
  });
  document.addEventListener("prelabel:live", (event) => {
    if (!isOn()) return;
    const notification = new Notification(button.dataset.title, {
      body: `Version ${event.detail} is live.`,
      icon: button.dataset.icon,
      tag: button.dataset.title,
    });
    notification.onclick = () => window.focus();
  });
  show();
})();
