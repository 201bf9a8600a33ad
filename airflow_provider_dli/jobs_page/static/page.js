// The page DLI jobs. Names and messages come from DLI, where anyone who may submit jobs can write anything: all text is
// set as `textContent`, and no address is made of it but by the server.

const EVERY = 10_000; // milliseconds between two refreshes
const WATCH_EVERY = 1_500; // and between two looks at a job that is being cancelled
const WATCH_FOR = 300_000;
const HEADERS = { "X-DLI-Jobs-Page": "1", "Content-Type": "application/json" };
const OTHER = "\0other";
const COLUMNS = ["job", "state", "dag", "run", "task", "try", "queue", "age", "action"];
const LABELS = { dag: "DAG", run: "Run", task: "Task", try: "Try", queue: "Queue", age: "Age" };
const COLOURS = ["fg", "fg-muted", "bg", "bg-muted", "border", "border-emphasized", "fg-info", "brand-solid"];
const ROOT = new URL("../", location.href); // Airflow's own address

const $ = (id) => document.getElementById(id);

const wanted = { connection: "dli_default", show: "all", kind: "", others: false };
let places = [null]; // where the pages begin that lead to this one; the last is this one's
let next = null;
let view = 0; // counts what the user has chosen to see, one after the other
let rows = []; // as the server has sent them
let rowsOf = null; // and the view that they belong to
let updated = 0;
let asking = null; // the request under way
const watched = new Map(); // jobs cancelled here: key of the row -> {row, view, connection, until, asked}

// --- the server

async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("Airflow does not answer.");
  }
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  if (answer.status === 401) throw Object.assign(new Error("Your session is over. Reload the page to log in again."), { status: 401 });
  const said = typeof body.detail === "string" ? body.detail : `Airflow answered ${answer.status}. Its log says why.`;
  throw Object.assign(new Error(said), { status: answer.status });
}

const jobOf = (row, connection) => new URLSearchParams({ connection, kind: row.kind, job: row.id });

// A refresh that the user has asked for is told to screen readers, and replaces one that is under way.
async function refresh({ byUser = false } = {}) {
  if (asking && !byUser) return;
  asking?.abort();
  const mine = (asking = new AbortController());
  const query = new URLSearchParams({ connection: wanted.connection, show: wanted.show });
  if (wanted.kind) query.set("kind", wanted.kind);
  if (wanted.others) query.set("others", "true");
  if (places.at(-1)) query.set("places", places.at(-1));
  $("main").setAttribute("aria-busy", "true");
  try {
    const found = await call(`api/jobs?${query}`, { signal: mine.signal });
    // Another answer is waited for by now.
    if (asking !== mine) return;
    rows = found.rows;
    rowsOf = view;
    next = found.next;
    updated = Date.now();
    tell(found.problems);
    text($("note"), found.without_orphans);
    $("note").hidden = !found.without_orphans;
    $("others-label").hidden = !found.may_see_others;
    showConsole(found.console);
    render();
    if (byUser) say(`${rows.length} jobs shown.`, { quiet: true });
  } catch (error) {
    if (asking !== mine) return;
    tell([error.message]);
    // What is shown of another view does not belong here. Of this one, it is better than nothing.
    if (rowsOf !== view) [rows, next] = [[], null];
    render();
  } finally {
    if (asking === mine) {
      asking = null;
      $("main").setAttribute("aria-busy", "false");
      showAge();
    }
  }
}

// --- what is shown

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function element(tag, content, properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...[content].flat().filter((each) => each !== null && each !== ""));
  return made;
}

function tell(problems) {
  const shown = problems.map((each) => element("p", each, { className: "problem" }));
  // A problem that lasts is not read out again at every refresh.
  if ($("problems").textContent !== problems.join("")) $("problems").replaceChildren(...shown);
}

// `quiet`: for screen readers, as others see it.
function say(sentence, { quiet = false } = {}) {
  $("said").classList.toggle("only-read", quiet);
  $("said").textContent = sentence;
}

function showAge() {
  if (updated) text($("updated"), `Updated ${Math.round((Date.now() - updated) / 1000)} s ago`);
}

function showConsole(address) {
  // Of the connection; never anything but a page.
  $("console").hidden = !/^https?:/.test(address ?? "");
  if (!$("console").hidden) $("console").href = address;
}

const keyOf = (row) => `${row.kind} ${row.id}`;

function render() {
  // What was cancelled here stays visible, also where a list of active jobs does not have it any more.
  const listed = new Map(rows.map((row) => [keyOf(row), row]));
  for (const [key, each] of watched) {
    if (listed.has(key) ? !each.row.is_active : each.view === view) listed.set(key, each.row);
  }
  const shown = [...listed.values()].sort((one, other) => (other.submitted ?? "").localeCompare(one.submitted ?? ""));

  const focus = document.activeElement?.closest?.("tr") ? document.activeElement.dataset.focus : null;
  const old = new Map([...$("jobs").children].map((line) => [line.dataset.key, line]));
  const lines = shown.map((row) => {
    const line = old.get(keyOf(row)) ?? newLine(keyOf(row));
    COLUMNS.forEach((column, index) => fill(line.cells[index], column, row));
    line.classList.toggle("orphan", Boolean(row.orphan));
    return line;
  });
  // A line that stays is not moved: moved, it would lose the focus.
  // Not of `children`, which changes meanwhile.
  for (const line of old.values()) if (!lines.includes(line)) line.remove();
  lines.forEach((line, index) => {
    if ($("jobs").children[index] !== line) $("jobs").insertBefore(line, $("jobs").children[index] ?? null);
  });
  if (focus && document.activeElement === document.body) {
    (document.querySelector(`[data-focus="${CSS.escape(focus)}"]`) ?? $("main")).focus({ preventScroll: true });
  }

  $("empty").hidden = shown.length > 0 || rowsOf !== view;
  text($("empty"), $("empty").hidden ? "" : next ? "None among the jobs looked at so far. There are older ones." : emptiness());
  $("older").hidden = !next;
  $("newer").hidden = places.length < 2;
}

function emptiness() {
  return { all: "No jobs.", active: "No active jobs.", orphans: "No orphans." }[wanted.show];
}

function newLine(key) {
  const line = element("tr", COLUMNS.map((column) => element(column === "job" ? "th" : "td", "")));
  line.cells[0].scope = "row";
  line.dataset.key = key;
  COLUMNS.forEach((column, index) => {
    line.cells[index].dataset.column = column;
    // For narrow windows, which have no room for the head of the table.
    if (LABELS[column]) line.cells[index].dataset.label = LABELS[column];
  });
  return line;
}

// Only what has changed is made anew, so that a selection and the focus stay.
function fill(cell, column, row) {
  const parts = CELLS[column](row);
  const seen = JSON.stringify(parts);
  if (cell.dataset.seen === seen) return;
  cell.dataset.seen = seen;
  cell.replaceChildren(...parts.map((part) => make(part, column, row)));
}

// What the cells consist of: texts, and [name of a maker, what it gets].
const CELLS = {
  job: (row) => [["id", row.id], ["small", row.of_kind]],
  state: (row) => [
    ["state", row.status, row.state],
    ...(row.orphan ? [["badge", "orphan", "danger"], ["small", row.orphan]] : []),
    ...(row.message ? [["small", row.message]] : []),
  ],
  dag: (row) => [["place", row.dag, row.links.dag], ...(row.note ? [["small", row.note]] : [])],
  run: (row) => [["place", row.run, row.links.run]],
  task: (row) => [["place", row.task, row.links.task]],
  try: (row) => [["place", row.try === null ? "" : String(row.try), row.links.try]],
  queue: (row) => [["plain", row.queue]],
  age: (row) => [["time", row.age ?? "", row.submitted]],
  action: (row) => (row.may_cancel ? [["cancel", row.title, watched.get(keyOf(row))?.asked ?? false]] : []),
};

const MAKERS = {
  plain: (value) => element("span", value),
  small: (value) => element("small", value),
  id: (value) => element("code", value),
  badge: (value, look) => element("span", value, { className: `badge ${look ?? ""}` }),
  state: (value, state) => element("span", value, { className: `badge state-${state}` }),
  time: (value, moment) => element("time", value, { dateTime: moment ?? "", title: moment ?? "" }),
  place: (value, address) => (address ? element("a", value, { href: new URL(address, ROOT) }) : element("span", value)),
  cancel: (title, asked) => element("button", asked ? "Cancelling" : "Cancel", { type: "button", ariaLabel: `Cancel ${title}`, ariaDisabled: String(asked) }),
};

function make([maker, ...values], column, row) {
  const made = MAKERS[maker](...values);
  if (made.matches("a, button")) made.dataset.focus = `${keyOf(row)} ${column}`;
  return made;
}

// --- cancel

function rowAt(target) {
  const key = target.closest("tr").dataset.key;
  return watched.get(key)?.row ?? rows.find((row) => keyOf(row) === key);
}

function ask(row) {
  text($("ask-title"), `Cancel ${row.title}?`);
  const where = row.note ? `It is not of this Airflow: ${row.note}.` : `It belongs to task ${row.task} of DAG ${row.dag}, run ${row.run}.`;
  text($("ask-text"), `${where} ${row.orphan || row.note ? "" : "A task that waits for it fails, and may be tried again."}`.trim());
  $("ask-yes").onclick = () => {
    $("ask").close();
    cancel(row);
  };
  $("ask").showModal();
}

async function cancel(row) {
  const mine = { row, view, connection: wanted.connection, until: Date.now() + WATCH_FOR, asked: true };
  watched.set(keyOf(row), mine);
  render();
  try {
    const body = JSON.stringify(Object.fromEntries(jobOf(row, mine.connection)));
    say((await call("api/cancel", { method: "POST", headers: HEADERS, body })).outcome);
    watch(mine);
  } catch (error) {
    // After a change of the connection, it may be another one.
    if (watched.get(keyOf(row)) === mine) watched.delete(keyOf(row));
    say(error.message);
    render();
  }
}

// Look at a job until it is over.
async function watch(mine) {
  const isShown = () => mine.connection === wanted.connection;
  while (mine.row.is_active && Date.now() < mine.until && isShown()) {
    await new Promise((go) => setTimeout(go, WATCH_EVERY));
    try {
      mine.row = await call(`api/job?${jobOf(mine.row, mine.connection)}`);
    } catch (error) {
      if (error.status === 401) break;
      if (error.status === 404) mine.row = { ...mine.row, status: "deleted", state: "CANCELLED", is_active: false, may_cancel: false };
    }
    if (isShown()) render();
  }
  mine.asked = false;
  if (!isShown()) return;
  // Not looked at any more: what the list says counts again.
  if (mine.row.is_active) watched.delete(keyOf(mine.row));
  else say(`${mine.row.title} is ${mine.row.status}.`);
  render();
}

// --- choices

function show(change, { from = [null] } = {}) {
  const other = change.connection !== undefined && change.connection !== wanted.connection;
  Object.assign(wanted, change);
  places = from;
  view += 1;
  if (other) {
    watched.clear();
    [rows, next] = [[], null];
    render();
  }
  const query = new URLSearchParams({ connection: wanted.connection, show: wanted.show, kind: wanted.kind });
  history.replaceState(null, "", `?${query}`);
  refresh({ byUser: true });
}

function showChoices() {
  $("kind").value = wanted.kind;
  $("others").checked = wanted.others;
  document.querySelector(`[name=show][value=${wanted.show}]`).checked = true;
}

function offerConnection(conn_id) {
  if (![...$("connection").options].some((option) => option.value === conn_id)) {
    $("connection").prepend(new Option(conn_id, conn_id));
  }
  $("connection").value = conn_id;
}

async function begin() {
  const given = new URLSearchParams(location.search);
  wanted.connection = given.get("connection") || wanted.connection;
  wanted.kind = given.get("kind") ?? "";
  if (["all", "active", "orphans"].includes(given.get("show"))) wanted.show = given.get("show");
  $("connection").append(new Option("Other connection…", OTHER));
  offerConnection(wanted.connection);
  listen();
  refresh();
  try {
    const choices = await call("api/choices");
    $("kind").append(...choices.kinds.map((kind) => new Option(kind, kind)));
    for (const conn_id of choices.connections.reverse()) offerConnection(conn_id);
    $("connection").value = wanted.connection;
  } catch (error) {
    tell([error.message]);
  }
  showChoices();
}

function listen() {
  $("refresh").onclick = () => refresh({ byUser: true });
  $("kind").onchange = () => show({ kind: $("kind").value });
  $("others").onchange = () => show({ others: $("others").checked });
  for (const choice of document.querySelectorAll("[name=show]")) choice.onchange = () => show({ show: choice.value });
  $("connection").onchange = () => {
    $("typed").hidden = $("connection").value !== OTHER;
    if ($("typed").hidden) show({ connection: $("connection").value });
    else $("conn-id").focus();
  };
  $("conn-id").onkeydown = (event) => {
    const conn_id = $("conn-id").value.trim();
    if (event.key !== "Enter" || !conn_id) return;
    $("typed").hidden = true;
    offerConnection(conn_id);
    $("connection").focus();
    show({ connection: conn_id });
  };
  $("older").onclick = () => show({}, { from: [...places, next] });
  $("newer").onclick = () => show({}, { from: places.slice(0, -1) });
  $("jobs").onclick = (event) => {
    const button = event.target.closest("button");
    // Not `disabled`, for that takes the focus away.
    if (button?.ariaDisabled === "false") ask(rowAt(button));
  };
  $("ask-no").onclick = () => $("ask").close();
  document.addEventListener("click", openOutside);
  document.addEventListener("auxclick", openOutside);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setInterval(() => document.hidden || !$("auto").checked || refresh(), EVERY);
  setInterval(showAge, 1000);
}

// Airflow shows this page in a frame that may neither leave nor open pages. A link of the page around it may.
function openOutside(event) {
  const link = event.target.closest("a");
  if (!link?.href || window.parent === window || event.button > 1) return;
  event.preventDefault();
  const outside = link.origin !== location.origin || event.ctrlKey || event.metaKey || event.shiftKey || event.button === 1;
  const twin = window.parent.document.createElement("a");
  Object.assign(twin, { href: link.href, target: outside ? "_blank" : "_self", rel: "noopener noreferrer" });
  twin.click();
}

// --- the theme of the page around, else that of the system

function followTheme() {
  let around;
  try {
    around = window.parent !== window ? window.parent.document.documentElement : null;
  } catch {
    return;
  }
  if (!around) return;
  const follow = () => {
    const theme = ["dark", "light"].find((each) => around.classList.contains(each));
    if (theme) document.documentElement.dataset.theme = theme;
    const style = window.parent.getComputedStyle(around);
    for (const colour of COLOURS) {
      const value = style.getPropertyValue(`--chakra-colors-${colour}`).trim();
      if (value) document.documentElement.style.setProperty(`--${colour}`, value);
    }
  };
  new MutationObserver(follow).observe(around, { attributes: true, attributeFilter: ["class"] });
  follow();
}

followTheme();
begin();
