// One page over the admin API: who is logged in, which view is open, and one question a second.
import { views } from "./views.js";

const NEXT = 1000; // ms from an answer to the next question
const EVENTS = 300; // events that are kept for the list

const SVG = new Set(["svg", "polyline", "path", "text", "g", "title"]);

const $ = (id) => document.getElementById(id);

/** An element with attributes and children; a child may be text, an element, or nothing. */
export function h(tag, attributes = {}, ...children) {
  const made = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** A table that is filled again and again: rows and cells stay the same elements, so that focus and
 * screen readers stay where they are. A column: [head, row → text or {text, class, node}, kind]. */
export class Table {
  constructor(caption, columns, keyOf) {
    this.columns = columns;
    this.keyOf = keyOf;
    this.rows = new Map();
    this.caption = h("caption", {}, caption);
    this.body = h("tbody");
    const heads = columns.map(([head, , kind]) => h("th", { scope: "col", class: kind === "number" && "number" }, head));
    const table = h("table", {}, this.caption, h("thead", {}, h("tr", {}, heads)), this.body);
    this.element = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
  }

  fill(rows, caption) {
    if (caption !== undefined && this.caption.textContent !== caption) this.caption.textContent = caption;
    const before = this.rows;
    this.rows = new Map();
    for (const row of rows) {
      let key = this.keyOf(row);
      while (this.rows.has(key)) key = `${key}'`;
      this.rows.set(key, before.get(key) || this.add());
    }
    // First of all: else those behind would be moved, and whoever is moved loses the focus.
    for (const [key, { line }] of before) if (!this.rows.has(key)) line.remove();
    let place = this.body.firstChild;
    [...this.rows.values()].forEach((known, number) => {
      const row = rows[number];
      this.columns.forEach(([, cell], at) => put(known.cells[at], cell(row)));
      if (known.line === place) place = place.nextSibling;
      else this.body.insertBefore(known.line, place);
    });
  }

  add() {
    const cells = this.columns.map(([, , kind]) =>
      kind === "name" ? h("th", { scope: "row" }) : h("td", { class: kind === "number" && "number" }),
    );
    return { line: h("tr", {}, cells), cells };
  }
}

function put(cell, value) {
  if (value instanceof Node) {
    if (cell.firstChild !== value) cell.replaceChildren(value);
    return;
  }
  const { text, mark } = typeof value === "object" && value !== null ? value : { text: value, mark: "" };
  const shown = text === null || text === undefined ? "–" : String(text);
  if (cell.textContent !== shown) cell.textContent = shown;
  if (mark !== undefined && mark !== "" && cell.className !== mark) cell.className = mark;
}

/** An answer of the admin API. */
export async function ask(path, options = {}) {
  const answer = await fetch(path, { headers: { Accept: "application/json" }, credentials: "same-origin", ...options });
  const document = answer.status === 204 ? {} : await answer.json();
  if (answer.status === 401) {
    await begin();
    throw new Error("log in first");
  }
  if (!answer.ok && document.result === undefined) throw new Error(document.detail || document.title);
  return document;
}

/** What happened, for people who see it and for those who hear it. */
export function say(text) {
  $("said").textContent = text;
}

export const state = { session: {}, events: [], now: () => refresh(), service: (name) => (location.hash = `#service=${encodeURIComponent(name)}`) };

let open = null; // the view that is shown: {update}
let timer = 0;
let run = 0; // grows with each view: an answer for another one is dropped

function show(error) {
  $("trouble").hidden = !error;
  if (error && $("trouble").textContent !== error) $("trouble").textContent = error;
}

async function refresh() {
  clearTimeout(timer);
  const mine = run;
  if (open && open.update && !document.hidden) {
    try {
      await open.update();
      if (mine === run) show("");
    } catch (error) {
      if (mine === run) show(String(error.message || error));
    }
  }
  if (mine === run) timer = setTimeout(refresh, (open && open.every) || NEXT);
}

function route() {
  if (!state.session.may_look) return;
  const [name, argument] = (location.hash.slice(1) || "services").split("=");
  const make = views[name] || views.services;
  run += 1;
  const view = make(argument === undefined ? "" : decodeURIComponent(argument));
  $("view-title").textContent = view.title;
  document.title = `${view.title} – Fairlead`;
  $("content").replaceChildren(...view.elements);
  for (const link of $("nav").children) {
    const here = link.getAttribute("href") === `#${view.under || name}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  open = view;
  show("");
  refresh();
}

/** Events as they come, for as long as the page is open; each one brings the view up to date. */
async function listen() {
  let text = "";
  const mine = state.session;
  try {
    const answer = await fetch(`api/v1/events${state.events.length ? "" : "?kept=on"}`, { credentials: "same-origin" });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done || mine !== state.session) break;
      text += value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      let came = false;
      for (const block of blocks) {
        const fields = Object.fromEntries(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
        if (!fields.data) continue;
        state.events.unshift({ number: fields.id, kind: fields.event, ...JSON.parse(fields.data) });
        came = true;
      }
      state.events.length = Math.min(state.events.length, EVENTS);
      if (came) refresh();
    }
  } catch (error) {
    // The server is away, or busy: asked again below.
  }
  if (mine === state.session && mine.may_look) setTimeout(listen, 3 * NEXT);
}

async function begin() {
  const answer = await fetch("api/v1/session", { credentials: "same-origin" });
  state.session = await answer.json();
  const { may_look, token_needed, version } = state.session;
  $("about").textContent = version;
  $("login").hidden = may_look;
  for (const id of ["view", "nav"]) $(id).hidden = !may_look;
  $("logout").hidden = !(may_look && token_needed);
  run += 1;
  if (may_look) {
    route();
    listen();
  } else {
    open = null;
    $("content").replaceChildren();
    state.events = [];
    document.title = "Log in – Fairlead";
    $("token").focus();
  }
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ token: $("token").value });
  $("token").value = "";
  const answer = await fetch("api/v1/session", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  if (answer.ok) {
    show("");
    await begin();
    $("main").focus();
  } else show("That is not the token.");
});

$("logout").addEventListener("click", async () => {
  await fetch("api/v1/session", { method: "DELETE" });
  say("Logged out.");
  await begin();
});

addEventListener("hashchange", () => {
  route();
  $("main").focus();
});
document.addEventListener("visibilitychange", () => !document.hidden && refresh());
begin().catch((error) => show(String(error.message || error)));
