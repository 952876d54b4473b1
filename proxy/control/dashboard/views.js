// The views: each has a title, elements, and an update that asks for what it shows.
import { Table, ask, h, say, state } from "./app.js";

const PAGE = 50; // instances at a time
const POINTS = 60; // of a sparkline: a minute

const rate = (value) => (value === undefined ? null : value.toFixed(1));
const took = (seconds) => (seconds === null || seconds === undefined ? null : `${Number((seconds * 1000).toPrecision(3))} ms`);
const names = (list) => (list && list.length ? list.join(", ") : null);

function ago(seconds) {
  if (seconds === null || seconds === undefined) return null;
  const units = [[86400, "d"], [3600, "h"], [60, "min"]];
  const [size, unit] = units.find(([size]) => seconds >= 2 * size) || [1, "s"];
  return `${Math.floor(seconds / size)} ${unit}`;
}

function field(id, label, control) {
  control.id = id;
  return h("div", {}, h("label", { for: id }, label), control);
}

const typed = (size) => h("input", { type: "search", size });
const chosen = (...words) => h("select", {}, ["", ...words].map((one) => h("option", { value: one }, one || "any")));
const has = (control, ...texts) => texts.join(" ").toLowerCase().includes(control.value.toLowerCase());

/** A form of [id, label, control] that narrow down what is shown; `changed` hears of it. */
function narrowing(changed, ...controls) {
  for (const [, , control] of controls) control.addEventListener("input", changed);
  return h("form", { role: "search", onsubmit: (event) => event.preventDefault() }, controls.map((one) => field(...one)));
}

function link(text, href) {
  return h("a", { href }, text);
}

/** A button that changes something, for whoever may. */
function action(text, label, change) {
  const button = h("button", { type: "button", "aria-label": label, disabled: !state.session.may_change }, text);
  button.addEventListener("click", async () => {
    if (button.ariaBusy) return;
    button.ariaBusy = "true"; // Not disabled: that would take the focus away.
    try {
      say(await change());
    } catch (error) {
      say(`${button.ariaLabel}: ${error.message}`);
    }
    button.ariaBusy = null;
    state.now();
  });
  return button;
}

const late = [
  ["Rate /s", (row) => rate(row.rate), "number"],
  ["Errors /s", (row) => ({ text: rate(row.error_rate), mark: row.error_rate > 0 ? "number bad" : "number" }), "number"],
  ...["p50", "p95", "p99"].map((share) => [share, (row) => row.latency && took(row.latency[share]), "number"]),
];

function standing(row) {
  const words = [];
  if (row.panic) words.push("panic: health is ignored");
  if (row.source === "fallback") words.push("fallback instances");
  for (const [state, workers] of Object.entries(row.limits.breaker || {})) if (state !== "closed" && workers) words.push(`breaker ${state} in ${workers}`);
  if (row.limits.queue_full) words.push("queue full");
  else if (row.limits.waiting) words.push(`${row.limits.waiting} waiting`);
  if (row.refused.length) words.push(`${row.refused.length} record${row.refused.length === 1 ? "" : "s"} refused`);
  if (!words.length && row.ready < row.total) words.push(row.ready ? `${row.total - row.ready} not ready` : "none ready");
  return { text: words.join("; ") || "well", mark: words.length ? "warn" : "good" };
}

function services() {
  const links = new Map();
  const name = (row) => {
    if (!links.has(row.name)) links.set(row.name, link(row.name, `#service=${encodeURIComponent(row.name)}`));
    return links.get(row.name);
  };
  const filter = typed();
  const state = chosen("well", "not well");
  const zone = typed("10");
  const table = new Table(
    "Services",
    [
      ["Service", name, "name"],
      ["Ready", (row) => ({ text: `${row.ready} of ${row.total}`, mark: row.ready < row.total ? "number warn" : "number" }), "number"],
      ["State", standing],
      ...late,
      ["Balancer", (row) => row.balancer],
      ["Source", (row) => row.source],
    ],
    (row) => row.name,
  );
  let rows = [];
  const fill = () => {
    const fits = (row) => has(filter, row.name) && (!state.value || (state.value === "well") === (standing(row).mark === "good")) && (!zone.value || row.zones.includes(zone.value));
    const shown = rows.filter(fits);
    table.fill(shown, `Services: ${shown.length} of ${rows.length}`);
  };
  return {
    title: "Services",
    elements: [narrowing(fill, ["name", "Name", filter], ["state", "State", state], ["zone", "Zone", zone]), table.element],
    update: async () => {
      rows = (await ask("api/v1/services")).services;
      fill();
    },
  };
}

const NOBODY = "(not proven)";
const INBOUND = /:inbound$/; // what a side-car hands to its program

/** Who calls whom: of each service the callers that certificates have named, and the rest. A table,
 * and the same as a picture for whoever sees one. */
function calls() {
  const before = new Map(); // edge → {at, requests, errors, seconds}
  const picture = h("div", {});
  const table = new Table(
    "Calls",
    [
      ["Caller", (row) => row.caller, "name"],
      ["Service", (row) => row.service],
      ["Rate /s", (row) => rate(row.rate), "number"],
      ["Errors /s", (row) => ({ text: rate(row.errors), mark: row.errors > 0 ? "number bad" : "number" }), "number"],
      ["Latency", (row) => took(row.latency), "number"],
      ["Mutual TLS", (row) => (row.caller === NOBODY ? { text: "no", mark: "warn" } : { text: "yes", mark: "good" })],
    ],
    (row) => `${row.caller} ${row.service}`,
  );
  const now = (key, total) => {
    const at = performance.now() / 1000;
    const known = before.get(key);
    if (known && at - known.at < 0.5) return known.shown;
    const passed = known ? at - known.at : 0;
    const of = (what) => (passed ? Math.max(0, (total[what] - known[what]) / passed) : 0);
    const shown = { rate: of("requests"), errors: of("errors") };
    // Of what came since; where nothing did, of all there was.
    const fresh = known && total.requests > known.requests;
    const [seconds, requests] = fresh ? [total.seconds - known.seconds, total.requests - known.requests] : [total.seconds, total.requests];
    shown.latency = requests ? seconds / requests : null;
    before.set(key, { at, ...total, shown });
    return shown;
  };
  return {
    title: "Calls",
    elements: [picture, table.element],
    update: async () => {
      const { settings } = await ask("api/v1/config");
      const alone = () => ask("api/v1/services");
      const found = (await (settings.fleet || settings.config ? ask("api/v1/fleet/services").catch(alone) : alone())).services;
      // Beside a program all other calls are that program's; of several side-cars each knows its callers.
      const inbound = found.filter((row) => INBOUND.test(row.name));
      const own = inbound.length === 1 ? inbound[0].name.replace(INBOUND, "") : NOBODY;
      const edges = (inbound.length > 1 ? inbound : found).flatMap((row) => edgesOf(row, now, own));
      table.fill(edges, `Calls: ${pairs(edges)}`);
      picture.replaceChildren(drawn(edges));
    },
  };
}

const pairs = (edges) => `${edges.length} pair${edges.length === 1 ? "" : "s"} of caller and service`;

function edgesOf(row, now, own) {
  const service = row.name.replace(INBOUND, "");
  const unproven = INBOUND.test(row.name) ? NOBODY : own;
  const totals = new Map();
  for (const [what, count] of Object.entries(row.limits.callers || {})) {
    const [, proven, hundreds] = what.match(/^(.*) (\d)00$/);
    const caller = proven || unproven;
    const total = totals.get(caller) || { requests: 0, errors: 0, seconds: row.limits.caller_seconds[proven] || 0 };
    total.requests += count;
    if (hundreds === "5") total.errors += count;
    totals.set(caller, total);
  }
  return [...totals].map(([caller, total]) => ({ caller, service, ...now(`${caller} ${service}`, total) }));
}

/** Callers left of those whom they call, as far as nobody calls in a circle. */
function drawn(edges) {
  const column = new Map(edges.flatMap(({ caller, service }) => [[caller, 0], [service, 0]]));
  for (let round = 0; round < Math.min(column.size, 12); round += 1)
    for (const { caller, service } of edges)
      if (caller !== service && column.get(service) <= column.get(caller) && column.get(caller) < 11) column.set(service, column.get(caller) + 1);
  const passed = ({ caller, service }) => Math.max(0, column.get(service) - column.get(caller) - 1);
  const far = Math.max(0, ...edges.map(passed));
  const filled = new Map();
  const place = new Map();
  for (const [name, at] of [...column].sort()) {
    const line = filled.get(at) || 0;
    filled.set(at, line + 1);
    place.set(name, { at, x: 20 + at * 220, y: 30 + 28 * far + line * 52 + (at % 2) * 26, end: 30 + at * 220 + Math.min(name.length, 18) * 7.5 });
  }
  const wide = 220 * (Math.max(0, ...filled.keys()) + 1);
  const high = 52 * Math.max(1, ...filled.values()) + 30 + 56 * far;
  const svg = h("svg", { class: "calls", viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `${column.size} services, ${pairs(edges)}, as in the table below` });
  for (const edge of edges) {
    const [from, to] = [place.get(edge.caller), place.get(edge.service)];
    const [x, y] = [from.end, from.y - 4];
    const sag = (from.at % 2 ? 40 : -40) * passed(edge); // around the names that are passed
    const bend = to.x > x ? (to.x - x) / 2 : 54;
    const told = `${edge.caller} calls ${edge.service}: ${rate(edge.rate)}/s, ${rate(edge.errors)} errors/s`;
    const marks = `${edge.caller === NOBODY ? "unproven " : ""}${edge.errors > 0 ? "failing" : ""}`;
    svg.append(h("path", { class: marks, "stroke-width": 1 + Math.min(4, Math.log10(1 + edge.rate)), d: `M${x} ${y} C${x + bend} ${y + sag} ${to.x - bend} ${to.y - 4 + sag} ${to.x - 6} ${to.y - 4}` }, h("title", {}, told)));
  }
  for (const [name, { x, y }] of place) svg.append(h("text", { x, y }, name.length > 18 ? `${name.slice(0, 17)}…` : name));
  return svg;
}

function trend(points) {
  const most = Math.max(...points, 1e-9);
  const at = points.map((value, place) => `${(place * 80) / (POINTS - 1)},${(17 - (value * 16) / most).toFixed(1)}`);
  const told = points.length ? `now ${rate(points[points.length - 1])} requests/s, within a minute ${rate(Math.min(...points))} to ${rate(Math.max(...points))}` : "not known yet";
  const svg = h("svg", { class: "trend", viewBox: "0 0 80 18", role: "img", "aria-label": told });
  svg.append(h("polyline", { points: at.join(" ") }));
  return svg;
}

function service(name) {
  const path = `api/v1/services/${encodeURIComponent(name)}`;
  const filter = typed();
  const status = chosen("ready", "draining", "unhealthy", "ejected", "left");
  const zone = typed("10");
  let first = 0;
  const trends = new Map(); // place → {at, requests, points}
  const buttons = new Map();
  const place = (row) => `${row.id} ${row.address}:${row.port}`; // One that left may be back elsewhere.
  const sparkline = (row) => {
    const known = trends.get(place(row)) || { points: [] };
    const now = performance.now();
    if (known.at !== undefined && now - known.at > 500) known.points.push(Math.max(0, ((row.requests - known.requests) * 1000) / (now - known.at)));
    if (known.at === undefined || now - known.at > 500) Object.assign(known, { at: now, requests: row.requests });
    known.points = known.points.slice(-POINTS);
    trends.set(place(row), known);
    return trend(known.points);
  };
  const change = (row) => {
    if (row.status === "left") return null;
    const verb = row.drained ? "undrain" : "drain";
    const known = buttons.get(row.id) || {};
    known.button ||= action("", "", async () => {
      const { verb } = known;
      await ask(`${path}/instances/${encodeURIComponent(row.id)}/${verb}`, { method: "POST" });
      return `${name}/${row.id}: ${verb}ed`;
    });
    if (known.verb !== verb) {
      known.verb = verb;
      known.button.textContent = verb === "drain" ? "Drain" : "Undrain";
      known.button.ariaLabel = `${known.button.textContent} ${row.id}`;
    }
    buttons.set(row.id, known);
    return known.button;
  };
  const doubts = (row) => row.reason || (row.unreachable_from && `no connection from ${row.unreachable_from} workers`) || (row.on_probation_in && `on probation in ${row.on_probation_in} workers`) || null;
  const failures = (row) => names(Object.entries(row.errors).sort((a, b) => b[1] - a[1]).map(([code, count]) => `${code} ${count}`));
  const table = new Table(
    "Instances",
    [
      ["Instance", (row) => row.id, "name"],
      ["Address", (row) => (row.address.includes(":") ? `[${row.address}]:${row.port}` : `${row.address}:${row.port}`)],
      ["State", (row) => ({ text: row.status, mark: row.status })],
      ["Reason", doubts],
      ["Since", (row) => ago(row.status_age), "number"],
      ["Failures", failures],
      ["Last failure", (row) => row.last_failure && `${row.last_failure.code}, ${ago(row.last_failure.age)} ago`],
      ["Weight", (row) => row.weight, "number"],
      ["Zone", (row) => row.metadata.zone],
      ["From", (row) => row.origin || null],
      ["In flight", (row) => row.inflight, "number"],
      ...late,
      ["Trend", sparkline],
      ["Change", change],
    ],
    place,
  );
  const summary = h("p", {});
  const before = h("button", { type: "button", onclick: () => turn(-PAGE) }, "Previous page");
  const after = h("button", { type: "button", onclick: () => turn(PAGE) }, "Next page");
  const turn = (by) => {
    first = Math.max(0, first + by);
    state.now();
  };
  const anew = () => {
    first = 0;
    state.now();
  };
  const form = narrowing(anew, ["name", "Name or address", filter], ["state", "State", status], ["zone", "Zone", zone]);
  return {
    title: `Instances of ${name}`,
    under: "services",
    elements: [summary, form, table.element, h("div", { class: "pages" }, before, after)],
    update: async () => {
      const query = new URLSearchParams({ offset: first, limit: PAGE });
      if (filter.value) query.set("name", filter.value);
      if (status.value) query.set("status", status.value);
      if (zone.value) query.set("zone", zone.value);
      const found = await ask(`${path}?${query}`);
      const { text, mark } = standing(found);
      const callers = Object.entries(found.limits.callers).map(([what, count]) => `${what.replace(/^ /, `${NOBODY} `)}s: ${count}`);
      summary.textContent = `${found.ready} of ${found.total} ready, ${text}${callers.length ? `; called by ${names(callers)}` : ""}`;
      summary.className = mark;
      const last = Math.min(first + PAGE, found.matching);
      table.fill(found.instances, found.matching ? `Instances ${first + 1} to ${last} of ${found.matching}` : "No instance");
      before.disabled = first === 0;
      after.disabled = last >= found.matching;
    },
  };
}

const OF_ROUTES = new Set(["index", "service", "taken", "reason"]);
const conditions = (route) => names(Object.entries(route).filter(([name]) => !OF_ROUTES.has(name)).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)) || "everything";

function routes() {
  const table = new Table("Routes, in the order of the file", [["Number", (row) => row.index, "name"], ["Conditions and settings", conditions], ["Service", (row) => row.service]], (row) => row.index);
  const method = h("input", { type: "text", value: "GET", size: "7" });
  const url = h("input", { type: "text", size: "40", required: true, placeholder: "/users/7" });
  const header = h("input", { type: "text", size: "24", placeholder: "X-Beta: 1" });
  const filter = typed();
  let rows = [];
  const fill = () => {
    const shown = rows.filter((row) => has(filter, conditions(row), row.service));
    table.fill(shown, `Routes, in the order of the file: ${shown.length} of ${rows.length}`);
  };
  const steps = h("ol", { class: "steps", "aria-live": "polite" });
  const form = h("form", {}, field("method", "Method", method), field("url", "URL or path", url), field("header", "Header field", header), h("button", { type: "submit" }, "Explain"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const query = new URLSearchParams({ method: method.value, url: url.value });
    if (header.value) query.set("header", header.value);
    try {
      steps.replaceChildren(...told(await ask(`api/v1/explain?${query}`)).map((line) => h("li", {}, line)));
    } catch (error) {
      steps.replaceChildren(h("li", { class: "bad" }, error.message));
    }
  });
  return {
    title: "Routes",
    elements: [h("h3", {}, "What would become of a request"), form, steps, h("h3", {}, "All routes"), narrowing(fill, ["filter", "Condition or service", filter]), table.element],
    update: async () => {
      rows = (await ask("api/v1/routes")).routes;
      fill();
    },
  };
}

function told(document) {
  const lines = [`Request ${document.request.method} ${document.request.url}`];
  for (const route of document.routes) lines.push(`Route ${route.index} (${conditions(route)}): ${route.reason}`);
  if (document.split) lines.push(`Split ${names(Object.entries(document.split).map(([service, weight]) => `${service} ${weight}`))}, path for the instance ${document.path_for_instance}`);
  if (document.service) lines.push(`Service ${document.service}, path for the instance ${document.path_for_instance}`);
  if (document.balancer) lines.push(`Balancer ${document.balancer}${document.key ? `, key ${document.key.source} (${document.key.value === null ? "nothing in this request" : document.key.value})` : ""}`);
  const limits = document.limits || {};
  if (limits.rate_limit) lines.push(`Rate limit: ${limits.rate_limit.left === null ? "as many as are left" : limits.rate_limit.left} of ${limits.rate_limit.burst} for ${limits.rate_limit.key} (${limits.rate_limit.value ?? "requests without it"})`);
  if (limits.breaker) lines.push(`Circuit breaker: ${names(Object.entries(limits.breaker).map(([state, workers]) => `${state} in ${workers}`)) || "nothing told yet"}`);
  if (limits.max_inflight) lines.push(`In flight: ${limits.max_inflight} for each instance at most, ${limits.full} of ${document.candidates.length} full`);
  if (limits.queue) lines.push(`Queue: ${limits.waiting} waiting, ${limits.queue} in each worker at most`);
  for (const row of document.candidates || []) lines.push(`May be picked: ${row.id} (${row.address}:${row.port}, ${row.status}${row.inflight ? `, ${row.inflight} in flight` : ""})`);
  for (const row of document.others || []) lines.push(`Not picked: ${row.id} (${row.status}: ${row.reason})`);
  if (document.answer) lines.push(`Answer ${document.answer.status} ${document.answer.fault || `by ${document.answer.by}`} ${document.answer.detail || ""}`);
  return lines;
}

function registry() {
  const facts = new Table("Registry in use", [["What", (row) => row[0], "name"], ["Value", (row) => row[1]]], (row) => row[0]);
  const sources = new Table("Sources", [["Source", (row) => row.name || row.provider, "name"], ["Endpoints", (row) => names(row.endpoints)], ["State", (row) => (row.active ? { text: "in use", mark: "good" } : row.alive === false ? { text: "does not answer", mark: "bad" } : row.alive ? "answers" : "not checked yet")]], (row) => `${row.name}${row.endpoints}`);
  const each = new Table(
    "Each registry",
    [
      ["Name", (row) => row.name, "name"],
      ["Connected", (row) => (row.connected ? { text: "yes", mark: "good" } : { text: "no", mark: "bad" })],
      ["Last answer", (row) => (row.age === null ? "never" : `${ago(row.age)} ago`)],
      ["Instances", (row) => row.instances, "number"],
      ["Connects", (row) => row.connects, "number"],
      ["Sessions", (row) => row.sessions, "number"],
      ["Answers", (row) => row.answers, "number"],
      ["Errors", (row) => row.errors, "number"],
      ["Last error", (row) => row.last_error || null],
    ],
    (row) => row.name,
  );
  const records = new Table("Records that cannot be read, or in part", [["Key", (row) => row.key, "name"], ["Reason", (row) => row.reason]], (row) => row.key);
  const held = new Table("Instances that are held", [["Instance", (row) => `${row.service}/${row.id}`, "name"], ["Why", (row) => row.why], ["For", (row) => ago(row.age), "number"]], (row) => `${row.service}/${row.id}`);
  const filter = typed();
  const state = chosen("connected", "not connected");
  const stands = (connected) => !state.value || (state.value === "connected") === Boolean(connected);
  let found = null;
  const fill = () => {
    if (!found) return;
    facts.fill([
      ["Kind", found.provider],
      ["Connected", found.connected ? { text: "yes", mark: "good" } : { text: "no", mark: "bad" }],
      ["Endpoint", found.endpoint],
      ["Last answer", found.age === null ? "never" : `${ago(found.age)} ago`],
      ["Last error", found.last_error || null],
      ["Revision", found.revision],
      ["Instances", found.instances],
      ["Connects, sessions, errors", `${found.connects}, ${found.sessions}, ${found.errors}`],
      ["First full set", found.complete ? "known" : "not known yet"],
    ]);
    each.element.hidden = !found.registries.length;
    each.fill(found.registries.filter((row) => has(filter, row.name, row.last_error) && stands(row.connected)));
    sources.fill(found.sources.filter((row) => has(filter, row.name, row.provider, ...row.endpoints) && stands(row.active || row.alive)));
    records.fill([...found.invalid, ...(found.odd || [])].filter((row) => has(filter, row.key, row.reason)));
    held.fill(found.held.filter((row) => has(filter, row.service, row.id, row.why)));
  };
  return {
    title: "Registries",
    elements: [facts.element, narrowing(fill, ["filter", "Name, key or reason", filter], ["state", "State of a registry", state]), each.element, sources.element, records.element, held.element],
    update: async () => {
      found = await ask("api/v1/registry");
      fill();
    },
  };
}

function certificates() {
  const table = new Table(
    "Certificates",
    [["File", (row) => row.file, "name"], ["Of", (row) => row.of], ["Names", (row) => names(row.names)], ["Expires", (row) => (row.not_after ? row.not_after.slice(0, 16).replace("T", " ") : null)], ["Problem", (row) => (row.problem ? { text: row.problem, mark: "bad" } : null)]],
    (row) => `${row.of} ${row.file}`,
  );
  return {
    title: "Certificates",
    elements: [table.element],
    update: async () => {
      const found = await ask("api/v1/certificates");
      const of = (who, one) => one.certificates.map((row) => ({ ...row, of: who }));
      const rows = [
        ...found.listeners.flatMap((one) => of(`listener ${one.listener}`, one)),
        ...found.services.files.flatMap((one) => of(`service ${one.service}`, one)),
        ...(found.admin ? of("admin", found.admin) : []),
        ...(found.acme || []).map((one) => ({ ...one, file: one.name, of: "acme", names: [one.name] })),
      ];
      table.fill(rows, rows.length ? "Certificates" : "No certificate");
    },
  };
}

function workers() {
  const table = new Table(
    "Workers",
    [
      ["Worker", (row) => row.index, "name"],
      ["Process", (row) => row.pid, "number"],
      ["State", (row) => ({ text: row.state, mark: row.ready ? "good" : "warn" })],
      ["Age", (row) => ago(row.age), "number"],
      ["Clients", (row) => row.client_connections, "number"],
      ["Tunnels", (row) => row.tunnels, "number"],
      ["Requests", (row) => row.requests, "number"],
      ["Restarts", (row) => row.restarts, "number"],
      ["Last exit", (row) => row.last_exit],
    ],
    (row) => `${row.index} ${row.pid}`,
  );
  return { title: "Workers", elements: [table.element], update: async () => table.fill((await ask("api/v1/workers")).workers) };
}

function fleet() {
  const facts = h("p", {});
  const wrong = h("ul", { class: "bad" });
  const proxies = new Table(
    "Proxies",
    [
      ["Proxy", (row) => row.id, "name"],
      ["Version", (row) => row.version],
      ["Ready", (row) => (row.ready ? "yes" : { text: (row.missing || ["no"]).join("; "), mark: "warn" })],
      ["Configuration", (row) => (row.config ? `${row.config.hash}${row.config.canary ? ", canary" : ""}${row.config.good ? "" : ", the newest is bad"}` : "its own")],
      ["Requests/s", (row) => row.load && row.load.requests, "number"],
      ["Connections", (row) => row.load && row.load.connections, "number"],
      ["Admin server", (row) => row.admin],
    ],
    (row) => row.id,
  );
  const marks = new Table(
    "Drained everywhere",
    [["Instance", (row) => `${row.service}/${row.instance}`, "name"], ["By", (row) => row.by], ["At", (row) => row.at], ["Until", (row) => row.until]],
    (row) => `${row.service}/${row.instance}`,
  );
  return {
    title: "Fleet",
    every: 5000,
    elements: [facts, wrong, proxies.element, marks.element],
    update: async () => {
      const { settings } = await ask("api/v1/config");
      if (!settings.config && !settings.fleet) {
        facts.textContent = "This proxy is in no fleet: its file has neither config nor fleet";
        return;
      }
      const found = await ask("api/v1/fleet");
      facts.textContent = `This proxy is ${found.id}; its share of common limits is ${found.share}`;
      wrong.replaceChildren(...found.ejected_by_most.map((one) => h("li", {}, `${one.instance} is ejected by ${one.proxies} of ${one.of} proxies`)));
      proxies.fill(found.proxies);
      marks.fill(found.marks);
    },
  };
}

function events() {
  const text = ({ number, kind, time, ...fields }) => names(Object.entries(fields).map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`));
  const filter = typed();
  const table = new Table("Events", [["Time", (row) => new Date(row.time * 1000).toLocaleTimeString(), "name"], ["Kind", (row) => row.kind], ["What", text]], (row) => row.number);
  return {
    title: "Events",
    elements: [narrowing(() => state.now(), ["filter", "Filter", filter]), table.element],
    update: async () => {
      const shown = state.events.filter((row) => `${row.kind} ${text(row)}`.includes(filter.value));
      table.fill(shown, shown.length ? `Events: ${shown.length}` : "Nothing has happened");
    },
  };
}

function config() {
  const facts = h("p", {});
  const table = new Table("What the last reload changed", [["Key", (row) => row.key, "name"], ["Before", (row) => row.before], ["After", (row) => row.after]], (row) => row.key);
  const wrong = h("ul", { class: "bad" });
  const text = h("pre", { tabindex: "0", role: "region", "aria-label": "Configuration in force" });
  const reload = action("Reload", "Reload the configuration", async () => {
    const { result, changes, complaints } = await ask("api/v1/reload", { method: "POST" });
    return complaints.length ? `${result}: ${complaints.join("; ")}` : `${result}: ${changes.length} keys`;
  });
  return {
    title: "Configuration",
    every: 5000,
    elements: [h("p", {}, reload), facts, wrong, table.element, h("h3", {}, "In force, without secrets"), text],
    update: async () => {
      const found = await ask("api/v1/config");
      const last = found.last_reload;
      facts.textContent = `Digest ${found.hash}, in force since ${new Date(found.since * 1000).toLocaleString()}; ${last ? `last reload at ${new Date(last.at * 1000).toLocaleString()}: ${last.result}` : "not reloaded yet"}`;
      wrong.replaceChildren(...(last ? last.complaints : []).map((one) => h("li", {}, one)));
      table.fill(last ? last.changes : []);
      const shown = JSON.stringify(found.settings, null, 2);
      if (text.textContent !== shown) text.textContent = shown;
    },
  };
}

export const views = { services, service, calls, routes, registry, certificates, workers, fleet, events, config };
