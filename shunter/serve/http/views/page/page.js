"use strict";
// Texts of users are set as text only, never as markup.
const $ = (id) => document.getElementById(id);
const MINUTES = 10, BARS = 40, BAR_MS = MINUTES * 60000 / BARS;
const arrivals = new Map();   // model -> counts of the last bars
const log = [];
let key = sessionStorage.getItem("shunter-key") || "";
let now = null, clock = 0, soon = 0, seenBar = bar();

function bar() { return Math.floor(Date.now() / BAR_MS); }

function el(tag, kind, ...inside) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  node.append(...inside.filter((x) => x !== null && x !== undefined));
  return node;
}
const pill = (word) => el("span", "pill " + word, word);

function bytes(n) {
  if (n === null || n === undefined) return "?";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let k = 0;
  while (n >= 1024 && k < 4) { n /= 1024; k++; }
  return (k && n < 100 ? n.toFixed(1) : Math.round(n)) + " " + units[k];
}
function span(s) {
  if (s === null || s === undefined) return "–";
  if (s < 10) return s.toFixed(1) + " s";
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return Math.round(s / 60) + " min";
  return (s / 3600).toFixed(1) + " h";
}
function ago(s) { const d = Math.max(0, clockNow() - s); return d < 1 ? "now" : d < 10 ? Math.floor(d) + " s ago" : span(d) + " ago"; }
function clockNow() { return now.now_s + (performance.now() - clock) / 1000; }
function hue(name) { const k = now.models.findIndex((m) => m.name === name); return "c" + (k < 0 ? 7 : k % 8); }
function width(node, share) { node.style.width = (100 * Math.max(0, Math.min(1, share))) + "%"; return node; }
const plural = (n, word) => n + " " + word + (n === 1 ? "" : "s");

function drawTop() {
  $("policy").textContent = "policy " + now.policy + (now.shadow ? ", shadow " + now.shadow : "")
    + (now.guard_s ? ", guard " + span(now.guard_s) : "");
  $("fallback").hidden = !now.fallback;
  $("fallback").textContent = now.fallback ? "fallback: " + now.fallback : "";
  const names = ["served", "refused", "cancelled", "failed", "loads", "evictions", "decisions"];
  $("totals").replaceChildren(...names.filter((n) => n in now.totals).map((n) =>
    el("div", "", el("dt", "", n), el("dd", "", now.totals[n].toLocaleString("en")))));
}

function drawDevice(d) {
  const memory = el("div", "memory");
  memory.title = bytes(d.used_bytes) + " of " + bytes(d.capacity_bytes);
  let known = 0;
  for (const r of d.residents) {
    known += r.memory_bytes || 0;
    const part = width(el("i", hue(r.model) + " " + r.state), (r.memory_bytes || 0) / d.capacity_bytes);
    part.title = r.model + ": " + bytes(r.memory_bytes);
    memory.append(part);
  }
  if (d.used_bytes > known) {
    const coming = d.operation && d.operation.kind === "load" ? "coming " + hue(d.operation.model) : "other";
    memory.append(width(el("i", coming), (d.used_bytes - known) / d.capacity_bytes));
  }
  if (d.measured_bytes !== null && d.measured_bytes !== undefined) {
    const mark = el("b");
    mark.style.left = "min(calc(100% - 2px), " + 100 * d.measured_bytes / d.capacity_bytes + "%)";
    mark.title = "measured: " + bytes(d.measured_bytes);
    memory.append(mark);
  }
  const residents = d.residents.map((r) => el("div", "resident",
    el("span", "name", el("i", "dot " + hue(r.model)), r.model), pill(r.state),
    el("span", "soft", r.running + " of " + r.max_batch + " running, " + bytes(r.memory_bytes)
      + (r.gpu_layers === null ? "" : ", " + plural(r.gpu_layers, "layer"))
      + (r.running || !r.idle_s ? "" : ", idle " + span(r.idle_s)))));
  const head = el("div", "top", el("h3", "", d.name),
    el("span", "soft", bytes(d.used_bytes) + " of " + bytes(d.capacity_bytes)
      + (d.measured_bytes ? ", measured " + bytes(d.measured_bytes) : "")));
  return el("article", "card", head, d.text && d.text !== d.name ? el("div", "soft", d.text) : null, memory,
    el("div", "", ...(residents.length || d.operation ? residents : [el("div", "soft", "no model here")])),
    drawOperation(d.operation));
}

function drawOperation(o) {
  if (!o) return null;
  const gone = Math.max(0, clockNow() - o.since_s);
  const late = o.expected_s && gone > 1.5 * o.expected_s;
  const words = { load: "loading", drain: "draining", unload: "unloading" }[o.kind] || o.kind;
  const bar = el("progress");
  if (o.expected_s) { bar.max = 1; bar.value = Math.min(.98, gone / o.expected_s); }
  return el("div", "operation " + o.kind,
    el("div", "top", el("b", "", words + " " + o.model + (o.gpu_layers === null ? "" : " (" + plural(o.gpu_layers, "layer") + ")")),
      el("span", "soft", span(gone) + (o.expected_s ? " of about " + span(o.expected_s) : "") + (late ? ", late" : ""))), bar);
}

function drawModel(m, deepest) {
  const line = width(el("i", now.guard_s && m.oldest_wait_s > now.guard_s ? "late" : ""), m.queued / deepest);
  const wait = m.queued ? "oldest " + span(m.oldest_wait_s) : m.predicted_wait_s ? "about " + span(m.predicted_wait_s) : "";
  const why = m.state === "failed" || m.reason
    ? el("div", "why", (m.reason || "failed") + (m.retry_in_s ? "; next try in " + span(m.retry_in_s) : "")) : null;
  const alias = m.aliases && m.aliases.length ? el("div", "soft", "also " + m.aliases.join(", ")) : null;
  return el("article", "model",
    el("div", "", el("h3", "", el("i", "dot " + hue(m.name)), m.name), alias),
    el("div", "queue", el("div", "bar", line), el("span", "soft", (m.queued ? m.queued + " waiting" : "none waiting") + (wait ? ", " + wait : ""))),
    el("div", "", pill(m.state), el("span", "soft", " " + m.running + " running, " + (m.served || 0).toLocaleString("en") + " served"
      + (m.failed ? ", " + m.failed + " failed" : ""))),
    spark(m.name), why);
}

function spark(name) {
  const ns = "http://www.w3.org/2000/svg", counts = arrivals.get(name) || [], top = Math.max(4, ...counts);
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 " + BARS + " 10");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "requests in the last " + MINUTES + " minutes, since this page is open");
  counts.forEach((n, k) => {
    if (!n) return;
    const rect = document.createElementNS(ns, "rect");
    const h = Math.max(.6, 10 * n / top), x = BARS - counts.length + k;
    for (const [a, v] of [["x", x + .1], ["y", 10 - h], ["width", .8], ["height", h]]) rect.setAttribute(a, v);
    svg.append(rect);
  });
  return svg;
}

function draw() {
  if (!now || document.hidden) return;
  age();
  drawTop();
  const fill = (id, nodes, none) => $(id).replaceChildren(...(nodes.length ? nodes : [el("div", "empty", none)]));
  fill("devices", now.devices.map(drawDevice), "no devices");
  const deepest = Math.max(8, ...now.models.map((m) => m.queued));
  fill("models", now.models.map((m) => drawModel(m, deepest)), "no models");
  fill("decisions", [...now.decisions].sort((a, b) => b.time_s - a.time_s).slice(0, 50).map((d) => el("li", "",
    el("span", "soft", ago(d.time_s)), el("b", "", d.device), el("span", "wide", el("b", "", d.choice), d.why ? ": " + d.why : "",
      d.shadow && d.shadow !== d.choice ? el("span", "soft", " (shadow: " + d.shadow + ")") : null),
    el("span", "soft", d.took_ms === null || d.took_ms === undefined ? "" : d.took_ms.toFixed(2) + " ms"))), "none yet");
  fill("events", log.map((e) => el("li", "", el("span", "soft", ago(e.time_s)), el("b", "", e.type), el("span", "wide", said(e)))),
    "none since this page is open");
}

function said(e) {
  const skip = new Set(["type", "time_s", "model", "device"]);
  const rest = Object.entries(e).filter(([k, v]) => !skip.has(k) && v !== null && typeof v !== "object")
    .map(([k, v]) => k + " " + (typeof v === "number" && !Number.isInteger(v) ? v.toFixed(3) : v));
  return [e.model, e.device, ...rest].filter(Boolean).join(", ");
}

function age() {
  for (; seenBar < bar(); seenBar++) for (const counts of arrivals.values()) { counts.push(0); if (counts.length > BARS) counts.shift(); }
}

function take(e) {
  age();
  if (e.type === "arrival" && e.model) {
    if (!arrivals.has(e.model) && arrivals.size < 200) arrivals.set(e.model, [0]);
    const counts = arrivals.get(e.model);
    if (counts) counts[counts.length - 1]++;
  }
  if (!["arrival", "dispatch", "first", "decision"].includes(e.type)) { log.unshift(e); log.length = Math.min(log.length, 40); }
  if (!soon) soon = setTimeout(() => { soon = 0; refresh(); }, 400);
}

function link(up, text) { $("link").className = "pill " + (up ? "on" : "off"); $("link").textContent = text; }

async function ask(path) {
  const answer = await fetch(path, { headers: key ? { Authorization: "Bearer " + key } : {}, cache: "no-store" });
  if (answer.status === 401) { login(); throw new Error("no key"); }
  if (!answer.ok) throw new Error("status " + answer.status);
  return answer;
}
async function refresh() {
  try {
    now = await (await ask("running")).json();
    clock = performance.now();
    link(true, "live");
    draw();
  } catch (error) { link(false, error.message === "no key" ? "locked" : "not connected"); }
}
async function follow() {
  for (;;) {
    try {
      const reader = (await ask("events")).body.pipeThrough(new TextDecoderStream()).getReader();
      refresh();
      for (let rest = "", piece; !(piece = await reader.read()).done;) {
        const parts = (rest + piece.value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) if (part.startsWith("data: ")) take(JSON.parse(part.slice(6)));
      }
    } catch (error) { if (error.message === "no key") return; }
    link(false, "not connected");
    await new Promise((done) => setTimeout(done, 2000));
  }
}

function login() {
  if ($("login").open) return;
  if (key) { $("login-note").textContent = "That key opens nothing here."; $("login-note").className = "bad"; }
  $("login").showModal();
}
$("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem("shunter-key", key);
  $("login").close();
  follow();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(() => { if (!document.hidden && !$("login").open) refresh(); }, 2000);
follow();
