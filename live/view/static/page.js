// Says when the page is not live any more: the server sends something at least every second.
(() => {
  let last = Date.now();
  document.addEventListener("htmx:sseMessage", () => { last = Date.now(); });
  setInterval(() => document.body.classList.toggle("not-live", Date.now() - last > 3000), 500);
})();
