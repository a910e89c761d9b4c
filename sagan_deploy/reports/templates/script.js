// Filters, and keys for the enlarged pictures. Without it the page shows everything and enlarges all the same.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);

  const filters = one("#filters");
  const apply = () => {
    const failed = filters.elements.failed.checked;
    const leg = filters.elements.leg.value;
    const rule = filters.elements.rule.value;
    let [legs, gates] = [0, 0];
    for (const part of all("details.leg")) {
      for (const row of all("[data-gate]", part)) {
        row.hidden = (failed && row.dataset.status !== "failed") || (rule && row.dataset.rule !== rule);
      }
      for (const chart of all("figure.chart", part)) chart.hidden = Boolean(rule) && chart.dataset.rule !== rule;
      const left = all("[data-gate]", part).filter((row) => !row.hidden).length;
      const has = !rule || left > 0;
      part.hidden = (failed && part.dataset.status !== "failed") || (leg && part.dataset.leg !== leg) || !has;
      if (part.hidden) continue;
      [legs, gates] = [legs + 1, gates + left];
      if (leg || rule) part.open = true;
    }
    const shown = new Set(all("details.leg").filter((part) => !part.hidden).map((part) => part.dataset.leg));
    for (const row of all("tr[data-leg]")) {
      const judged = one(`details.leg[data-leg="${row.dataset.leg}"]`);
      const fits = !(failed && row.dataset.status !== "failed") && !(leg && row.dataset.leg !== leg) && !rule;
      row.hidden = judged ? !shown.has(row.dataset.leg) : !fits;
    }
    const any = failed || leg || rule;
    one("#nothing").hidden = !any || all("tr[data-leg]").some((row) => !row.hidden);
    filters.querySelector("output").textContent = any ? `${legs} of ${all("details.leg").length} files, ${gates} gates` : "";
  };
  if (filters) {
    filters.hidden = false;
    filters.addEventListener("change", apply);
    filters.addEventListener("submit", (event) => event.preventDefault());
    filters.addEventListener("reset", () => setTimeout(apply));
  }

  // Pictures are enlarged by their address (:target); replacing it keeps the way back short.
  const enlarged = () => one("figure.strip:target");
  const go = (address) => location.replace(address);
  document.addEventListener("click", (event) => {
    const link = event.target.closest(".controls a");
    if (link) {
      event.preventDefault();
      go(link.getAttribute("href"));
    } else if (event.target === enlarged()) {
      go(enlarged().querySelector(".close").getAttribute("href"));
    }
  });
  // A link to a leg opens it.
  const openLeg = () => {
    const leg = one("details.leg:target");
    if (leg) leg.open = true;
  };
  openLeg();
  addEventListener("hashchange", (event) => {
    openLeg();
    // From the event: of two changes in a row, both are told when the second one has happened.
    const left = document.getElementById(new URL(event.oldURL).hash.slice(1));
    const now = enlarged();
    if (now) now.focus();
    else if (left && left.matches("figure.strip")) left.querySelector(".open").focus();
  });
  addEventListener("keydown", (event) => {
    const now = enlarged();
    if (!now) return;
    const links = all(".controls a", now);
    const find = (text) => links.find((link) => link.textContent.includes(text));
    const link = { Escape: find("close"), ArrowLeft: find("previous"), ArrowRight: find("next") }[event.key];
    if (link) go(link.getAttribute("href"));
    if (event.key === "Tab") {
      const stops = links.filter((stop) => stop.offsetParent !== null || stop.getClientRects().length);
      const at = stops.indexOf(document.activeElement);
      const next = (at + (event.shiftKey ? -1 : 1) + stops.length) % stops.length;
      event.preventDefault();
      stops[at < 0 ? 0 : next].focus();
    }
  });

  const copy = one("#copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(one("#command").textContent);
      copy.textContent = "Copied";
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    });
  }

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });
})();
