// Numbers in, pixels out: what the page draws itself. Chart times are ms, round-trip times µs.
window.coloprobe = (() => {
  let ahead = 0; // how far the server's clock is ahead of this browser's, ms

  const digits = (value) => {
    const places = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
    return value.toFixed(Math.min(9, places));
  };
  const us = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (value === 0) return "0";
    if (Math.abs(value) < 1) return `${Math.round(value * 1000)} ns`;
    if (Math.abs(value) < 999.5) return `${digits(value)} µs`;
    if (Math.abs(value) < 999500) return `${digits(value / 1000)} ms`;
    return `${digits(value / 1e6)} s`;
  };
  const age = (ms) => {
    const seconds = Math.floor(Math.abs(ms) / 1000);
    const sign = ms < 0 && seconds ? "−" : "";
    if (seconds < 120) return `${sign}${seconds} s`;
    if (seconds < 7200) return `${sign}${Math.floor(seconds / 60)} min`;
    if (seconds < 172800) return `${sign}${Math.floor(seconds / 3600)} h`;
    return `${sign}${Math.floor(seconds / 86400)} d`;
  };
  const clock = (ms) => new Date(ms).toISOString().slice(11, 19);

  // Ages count on between updates, so that a page whose server is gone shows data growing old.
  const tick = () => {
    const now = Date.now() + ahead;
    for (const cell of document.querySelectorAll("[data-end]")) {
      const words = age(now - Number(cell.dataset.end));
      if (cell.textContent !== words) cell.textContent = words;
    }
    const face = document.querySelector(".clock");
    if (face) face.textContent = `${clock(now)} UTC`;
  };
  setInterval(tick, 1000);

  const clipped = (params, x0, y0, x1, y1) => {
    const area = params.coordSys;
    const left = Math.max(Math.min(x0, x1), area.x), right = Math.min(Math.max(x0, x1), area.x + area.width);
    const top = Math.max(Math.min(y0, y1), area.y), bottom = Math.min(Math.max(y0, y1), area.y + area.height);
    return right <= left || bottom < top ? null : { x: left, y: top, width: right - left, height: bottom - top };
  };

  // One window: a box from the minimum to the 99th percentile, the median as a bar, the maximum as a dot.
  const band = (params, api) => {
    if (Number.isNaN(api.value(3))) return null;
    const [x0, low] = api.coord([api.value(0), api.value(2)]);
    const [x1, high] = api.coord([api.value(1), api.value(4)]);
    const middle = api.coord([api.value(0), api.value(3)])[1];
    const top = api.coord([api.value(0), api.value(5)])[1];
    const wide = x1 - x0 > 6 ? 1 : 0; // wide boxes keep a gap, narrow ones close to a band
    const box = clipped(params, x0, low, x1 - wide, high);
    const bar = clipped(params, x0, middle - 1, x1 - wide, middle + 1);
    if (!box || !bar) return null;
    const children = [
      { type: "rect", shape: { ...box, height: Math.max(box.height, 1) }, style: { fill: "rgba(76,194,255,0.28)" } },
      { type: "rect", shape: bar, style: { fill: "#9be0ff" } },
    ];
    const x = (x0 + x1) / 2;
    if (x > params.coordSys.x && x < params.coordSys.x + params.coordSys.width)
      children.push({ type: "circle", shape: { cx: x, cy: top, r: wide ? 2 : 1.3 }, style: { fill: "#7d93a8" } });
    return { type: "group", children };
  };

  const loss = (params, api) => {
    const share = api.value(8);
    if (!share) return null;
    const [x0, zero] = api.coord([api.value(0), 0]);
    const [x1, end] = api.coord([api.value(1), share]);
    const wide = x1 - x0 > 6 ? 1 : 0;
    const shape = clipped(params, x0, zero, Math.max(x1 - wide, x0 + 1.5), end);
    return shape && { type: "rect", shape: { ...shape, height: Math.max(shape.height, 2) }, style: { fill: "rgba(255,93,93,0.72)" } };
  };

  const shades = [[16, 34, 54], [22, 78, 120], [38, 138, 190], [98, 208, 230], [250, 240, 190]];
  const shade = (share) => {
    const at = Math.min(Math.max(share, 0), 1) * (shades.length - 1), i = Math.min(Math.floor(at), shades.length - 2);
    return `rgb(${shades[i].map((c, k) => Math.round(c + (shades[i + 1][k] - c) * (at - i))).join(",")})`;
  };
  const cell = (params, api) => {
    const [x0, y0] = api.coord([api.value(0), api.value(2)]);
    const [x1, y1] = api.coord([api.value(1), api.value(3)]);
    const shape = clipped(params, x0, y0, x1 - (x1 - x0 > 6 ? 1 : 0), y1);
    return shape && { type: "rect", shape, style: { fill: shade(Math.sqrt(api.value(5))) } };
  };

  const tip = (items) => {
    const box = items.find((item) => item.seriesId === "band");
    if (!box) return "";
    const [start, end, low, p50, p99, most, sent, lost, share] = box.value;
    const row = (name, value) => `<tr><td style="color:#8393a3;padding-right:12px">${name}</td><td style="text-align:right">${value}</td></tr>`;
    return `${clock(start)} – ${clock(end)} UTC<table>${row("max", us(most))}${row("p99", us(p99))}${row("p50", us(p50))}` +
      `${row("min", us(low))}${row("lost", `${lost} of ${sent}${share ? ` (${digits(share)} %)` : ""}`)}</table>`;
  };

  return {
    us, tip, band, loss, cell,
    percent: (value) => `${value} %`,
    sync: (serverNow) => { ahead = serverNow - Date.now(); tick(); },
    pick: (id) => {
      document.getElementById("picked").textContent = `.targets tr[data-id="${id}"] td { background: var(--pick) !important; } ` +
        `.targets tr[data-id="${id}"] td:first-child { box-shadow: inset 3px 0 var(--line); }`;
    },
    age: (end) => age(Date.now() + ahead - end),
  };
})();
