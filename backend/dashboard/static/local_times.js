// Shows times in the time zone and the language of the viewer. Without JavaScript they are in UTC.
"use strict";
(() => {
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

  function localize(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const date = new Date(time.dateTime);
      if (Number.isNaN(date.getTime())) continue;
      time.title = time.textContent;
      time.textContent = format.format(date);
    }
  }

  localize(document);
  document.addEventListener("refreshed", (event) => localize(event.target));
})();
