// What pages need beside htmx: ages that tick, the theme button, the menu of narrow
// screens, a light that says whether the page is alive, and charts.
(() => {
  "use strict";
  const root = document.documentElement;
  root.classList.add("js");
  const all = (s, e = document) => [...e.querySelectorAll(s)];

  // Ages: what text.go's spanText writes, kept right between two messages of the server.
  const span = s => {
    if (s < 0) return "0 s";
    if (s < 1 && s > 0) return Math.floor(s * 1000) + " ms";
    const m = Math.floor(s / 60), h = Math.floor(s / 3600);
    if (s < 120) return Math.floor(s) + " s";
    if (m < 10) return m + " min " + String(Math.floor(s) % 60).padStart(2, "0") + " s";
    if (m < 120) return m + " min";
    if (h < 48) return h + " h " + String(m % 60).padStart(2, "0") + " min";
    return Math.floor(h / 24) + " days";
  };
  const clock = document.getElementById("clock");
  // The server's clock counts: that of a laptop may be wrong by hours.
  const skew = clock ? Date.parse(clock.textContent.replace(" UTC", "Z").replace(" ", "T")) - Date.now() : 0;
  const now = () => Date.now() + (Math.abs(skew) > 2000 ? skew : 0);
  const tick = () => {
    for (const t of all("time[data-age]")) {
      const text = span(Math.max(1, (now() - Date.parse(t.dateTime)) / 1000));
      if (t.textContent !== text) t.textContent = text;
    }
    if (clock) clock.textContent = new Date(now()).toISOString().slice(0, 19).replace("T", " ") + " UTC";
  };
  tick();
  setInterval(tick, 1000);

  const order = ["auto", "light", "dark"];
  const theme = document.getElementById("theme");
  if (theme) {
    const show = () => { theme.textContent = "Theme: " + root.dataset.theme; };
    show();
    theme.addEventListener("click", () => {
      root.dataset.theme = order[(order.indexOf(root.dataset.theme) + 1) % order.length];
      document.cookie = "leeward-theme=" + root.dataset.theme + "; path=/; max-age=31536000; samesite=lax";
      show();
      document.dispatchEvent(new Event("leeward:theme"));
    });
  }

  const menu = document.getElementById("menu"), nav = document.getElementById("nav");
  if (menu) {
    const open = on => { nav.classList.toggle("open", on); menu.setAttribute("aria-expanded", on); };
    menu.addEventListener("click", () => open(!nav.classList.contains("open")));
    document.addEventListener("keydown", e => { if (e.key === "Escape" && nav.classList.contains("open")) { open(false); menu.focus(); } });
  }

  // Whether the page is alive. What stands still must not look as if nothing happened.
  const pulse = document.getElementById("pulse");
  if (pulse) {
    const say = (cls, text) => { pulse.className = "pulse " + cls; pulse.textContent = text; };
    document.addEventListener("htmx:sse:after:connection", () => say("on", "live"));
    document.addEventListener("htmx:sse:after:message", () => say("on", "live"));
    document.addEventListener("htmx:sse:error", () => say("lost", "not live: the server is not reached"));
    document.addEventListener("htmx:sse:close", () => say("lost", "not live: load the page again"));
  }

  // A button that was pressed is not pressed twice.
  document.addEventListener("submit", e => {
    for (const b of all("button:not([type=button])", e.target)) setTimeout(() => { b.disabled = true; });
  });
  window.addEventListener("pageshow", () => { for (const b of all("button:disabled:not([data-off])")) b.disabled = false; });

  // Typed confirmation: the button comes to life with the right word, and with what must be ticked too.
  for (const box of all("input[data-confirm]")) {
    const button = box.form.querySelector("button[data-off]");
    const ticks = all("input[data-confirm-too]", box.form);
    const look = () => { button.disabled = box.value !== box.dataset.confirm || [...ticks].some(t => !t.checked); };
    for (const e of [box, ...ticks]) e.addEventListener("input", look);
    look();
  }

  // Charts.
  const charts = document.querySelector("[data-charts]");
  if (!charts || !window.uPlot) return;
  const bytes = n => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let i = 0;
    while (n >= 999.5 && i < units.length - 1) { n /= 1024; i++; }
    return (i === 0 || n >= 99.95 ? n.toFixed(0) : n.toFixed(1).replace(/\.0$/, "")) + " " + units[i];
  };
  const whole = Array.from({ length: 50 }, (_, i) => 2 ** i); // bytes between two lines of a chart: no halves, and round in KiB
  const units = { span, size: bytes, rate: n => bytes(n) + "/s" };
  const color = name => getComputedStyle(root).getPropertyValue(name).trim();
  let plots = [];
  const draw = data => {
    for (const p of plots) p.destroy();
    plots = all("[data-chart]", charts).map(box => {
      const text = units[box.dataset.unit];
      const p = new uPlot({
        width: box.clientWidth, height: 165, padding: [12, 8, 0, 0], legend: { show: false },
        cursor: { sync: { key: "machine" }, y: false, points: { size: 6 } },
        scales: { x: { range: (u, min, max) => [Math.min(min, max - 600), max] }, y: { range: (u, min, max) => [0, max > 0 ? max * 1.1 : 1] } },
        series: [{}, { stroke: color("--accent"), width: 1.6, fill: color("--accent-soft"), spanGaps: false, points: { show: false } }],
        axes: [
          { stroke: color("--dim"), grid: { show: false }, ticks: { stroke: color("--line"), size: 4 }, font: "11px system-ui, sans-serif", values: "{HH}:{mm}", space: 55 },
          { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", size: 66, space: 34,
            incrs: text === span ? undefined : whole, values: (u, v) => v.map(text) },
        ],
        tzDate: ts => uPlot.tzDate(new Date(ts * 1e3), "Etc/UTC"),
      }, [data.time, data[box.dataset.chart]], box);
      p.key = box.dataset.chart;
      return p;
    });
  };
  let last = null;
  const load = async () => {
    try {
      const r = await fetch(charts.dataset.charts, { credentials: "same-origin", redirect: "error" });
      if (!r.ok) return;
      const data = await r.json();
      if (!data.time) return;
      if (!last) draw(data); else for (const p of plots) p.setData([data.time, data[p.key]]);
      last = data;
    } catch { /* the light at the foot says that the server is not reached */ }
  };
  load();
  setInterval(() => { if (!document.hidden) load(); }, 10000);
  document.addEventListener("leeward:theme", () => { if (last) draw(last); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (last) draw(last); });
  new ResizeObserver(() => { for (const p of plots) p.setSize({ width: p.root.parentElement.clientWidth, height: 165 }); }).observe(charts);
})();
