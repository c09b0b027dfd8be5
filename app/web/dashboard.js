// The dashboard: shows data of the public API. All data is inserted as text, never as HTML.
"use strict";

const KEY = "lethe-api-key";
const OPEN_JOB_STATUSES = new Set(["queued", "running", "auditing", "publishing", "rolling_out"]);
const ENDED_REQUEST_STATUSES = new Set(["completed", "cancelled"]);
const TONES = {
  completed: "good", succeeded: "good", live: "good", valid: "good", passed: "good", exact: "good",
  cancelled: "", queued: "info", scheduled: "info", on_hold: "warn", inconclusive: "warn",
  not_applicable: "", retired: "", shredded: "", candidate: "info", expired: "bad", fenced: "bad",
  failed: "bad", dead: "bad", approximate: "info", none: "",
};
const RENEWAL_REASONS = {
  "no-record": "the live release has no record of its training",
  restored: "a restored backup undid an exact training",
  late: "an exact deadline has passed or cannot be met",
  deadline: "an exact deadline comes near",
  drift: "too many rows were unlearned since the last exact training, or the loss has drifted",
  idle: "no deletion waits",
  age: "the oldest approximate deletion has waited long enough",
};
const byId = (id) => document.getElementById(id);
const openDisclosures = new Set();
const shownStates = new Map();
let timer = 0;

// ---- Calls to the service -------------------------------------------------------------------

class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// Returns the answer and its unchanged text. A problem is thrown.
async function request(method, path, body) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path.slice(1), { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new Problem(0, "The service cannot be reached. This page tries again automatically.");
  }
  const text = await response.text();
  const answer = parsed(text);
  if (response.ok || (path === "/readyz" && answer.reasons)) return { answer, text };
  const invalid = (answer.errors || []).map((error) => `${error.location.join(".")}: ${error.detail}`);
  throw new Problem(response.status, [answer.detail || response.statusText, ...invalid].join(" "));
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

const call = async (method, path, body) => (await request(method, path, body)).answer;

// ---- Building elements ---------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const words = (value) => String(value).replaceAll("_", " ");
// Ids begin with the time, so only their ends differ.
const short = (id) => (id.length > 16 ? `${id.slice(0, 4)}…${id.slice(-6)}` : id);
const name = (id) => (id ? element("span", { class: "mono", title: id }, short(id)) : "–");
const badge = (value) =>
  element("span", { class: `badge ${value in TONES ? TONES[value] : "info"}` }, words(value));
const signed = (value) => (value === null ? "∞" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4));
const percent = (value) => `${Math.round(value * 100)}\u00a0%`;
const decimal = (value) => (typeof value === "number" ? value.toFixed(4) : "–");
const empty = (text) => element("p", { class: "empty" }, text);
const notice = (text, tone) => element("p", { class: `notice ${tone}`, role: tone === "bad" ? "alert" : "status" }, text);

function when(value) {
  if (!value) return "–";
  const moment = new Date(value);
  const today = moment.toDateString() === new Date().toDateString();
  const text = today
    ? moment.toLocaleTimeString()
    : moment.toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" });
  return element("time", { datetime: value, title: moment.toLocaleString() }, text);
}

function bar(fraction, label) {
  const percent = Math.round(fraction * 100);
  const meter = element("progress", { max: 1, value: fraction, "aria-label": label });
  return element("div", { class: "progress" }, meter, `${percent}\u00a0%`);
}

function table(head, rows, numbers = []) {
  const kind = (index) => (numbers.includes(index) ? "number" : undefined);
  const cells = (tag, values) =>
    values.map((value, index) => element(tag, { class: kind(index), scope: tag === "th" ? "col" : undefined }, value));
  return element("div", { class: "scroll" },
    element("table", {},
      element("thead", {}, element("tr", {}, ...cells("th", head))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells("td", row))))));
}

// Replaces a section only when its data has changed, and restores the focus.
function show(id, data, build) {
  const state = JSON.stringify(data);
  if (shownStates.get(id) === state) return;
  shownStates.set(id, state);
  const section = byId(id);
  const focus = section.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  section.replaceChildren(...[build(data)].flat());
  if (focus) section.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
}

function disclosure(key, summary, ...content) {
  const details = element("details", { open: openDisclosures.has(key) },
    element("summary", { "data-focus": key }, summary), ...content);
  details.addEventListener("toggle", () => (details.open ? openDisclosures.add(key) : openDisclosures.delete(key)));
  return details;
}

// ---- Sections ------------------------------------------------------------------------------

function tile(title, value, more) {
  return element("div", { class: "tile" },
    element("div", { class: "name" }, title),
    element("div", { class: "value" }, value),
    element("div", { class: "more" }, more));
}

function tiles({ releases, requests, jobs }) {
  const live = releases.items.find((release) => release.id === releases.live);
  const open = requests.items.filter((request) => !ENDED_REQUEST_STATUSES.has(request.status));
  const job = jobs.items.find((job) => OPEN_JOB_STATUSES.has(job.status));
  const confirmed = releases.replicas.filter((replica) => replica.lease === "valid" && replica.serving === releases.live);
  return [
    tile("Live release", releases.live ? name(releases.live) : "none yet",
      live ? `${words(live.method)}${live.outcome ? `, audit of the batch: ${words(live.outcome)}` : ""}` : "run lethe train"),
    tile("Replicas", `${releases.live ? confirmed.length : 0} of ${releases.replicas.length}`,
      releases.target ? "preparing the next release" : "serve the live release"),
    tile("Open deletions", `${open.length}${requests.next_cursor ? "+" : ""}`, open.length ? "suppressed in every answer" : "no open requests"),
    tile("Job", job ? `${Math.round(job.progress * 100)} %` : "idle",
      job ? `${words(job.kind)}: ${words(job.stage)}` : "no job is open"),
  ];
}

// Warnings of /readyz, and reasons not to serve after a restore. The number of workers is null while
// unknown.
function warningNotices([workerCount, warnings, reasons]) {
  const missing = workerCount === 0 && !warnings.some((warning) => warning.code === "no-worker")
    ? ["No worker runs, so no deletion makes progress. Start a worker."] : [];
  const restoring = reasons.filter((reason) => /^restoring|ledger/i.test(reason)).map((reason) => `Not served: ${reason}.`);
  return [...restoring, ...missing, ...warnings.map((warning) => warning.detail)].map((text) => notice(text, "bad"));
}

function requestActions(request) {
  const action = (label, tone, run) =>
    element("button", {
      type: "button", class: `small ${tone}`, "data-focus": `${label}-${request.id}`,
      "aria-label": `${label} deletion ${request.id}`, onclick: run,
    }, label);
  const post = (verb) => () => act(() => call("POST", `/forget/${request.id}/${verb}`));
  const actions = [];
  if (request.status === "scheduled") {
    actions.push(action("Cancel", "quiet", () => cancel(request)), action("Hold", "quiet", post("hold")));
  }
  if (request.status === "on_hold" || request.status === "dead") actions.push(action("Release", "quiet", post("release")));
  if (request.status === "completed") actions.push(action("Certificate", "quiet", () => act(() => download(request.id))));
  // A request that was exact at its completion has no second certificate.
  if (request.exact_at && request.exact_at !== request.completed_at) {
    actions.push(action("Compare", "quiet", () => act(() => compare(request.id))));
  }
  return element("div", { class: "actions" }, ...actions);
}

function requestStatus({ status, waits_for: blocker }) {
  const kind = blocker?.kind === "renew" ? "renewal" : "training";
  return element("span", {}, badge(status), blocker ? element("small", {}, ` waits for a ${kind}`) : "");
}

function exactTime(request) {
  if (request.status === "cancelled" || (!request.exact_at && !request.exact_due_at)) return "–";
  if (request.exact_at) return element("span", {}, "since ", when(request.exact_at));
  const isLate = new Date(request.exact_due_at) < new Date();
  return element("span", { class: isLate ? "late" : undefined }, isLate ? "late, due " : "due ", when(request.exact_due_at));
}

// The outcome of this request alone, and what the audit shows in one or a few sentences.
function auditOf({ id, outcome, finding }) {
  if (!outcome) return "–";
  return finding ? disclosure(`finding-${id}`, badge(outcome), element("p", { class: "finding" }, finding.sentence)) : badge(outcome);
}

function requestRows({ items }) {
  if (!items.length) return empty("No deletion requests yet.");
  return table(
    ["Request", "Scope", "Status", "Progress", "Created", "Due", "Audit", "Assurance", "Exact", ""],
    items.map((request) => [
      name(request.id), words(request.scope), requestStatus(request),
      request.status === "cancelled" ? "–" : bar(request.progress, `Progress of ${request.id}`),
      when(request.created_at), when(request.due_at), auditOf(request),
      request.assurance === "none" ? "–" : badge(request.assurance), exactTime(request), requestActions(request),
    ]));
}

function auditTables(audit) {
  const parts = [];
  const paired = [
    ["forget", "Forgotten rows"], ["holdout", "Holdout users"],
    ["cohort", "Holdout users"], // the key that earlier versions stored
    ["movement", "Forgotten less holdout"], ["test", "Test rows"],
  ].filter(([key]) => audit[key]);
  if (paired.length) {
    parts.push(table(["Change in loss (nats)", "Mean", "Interval", "Rows"],
      paired.map(([key, label]) => {
        const change = audit[key];
        return [label, signed(change.mean), change.interval.map(signed).join(" … "), String(change.rows)];
      }), [1, 2, 3]));
  }
  const shares = Object.values(audit.kinds || {}).flatMap((kind) =>
    Object.entries(kind.shares || {}).map(([view, share]) =>
      [words(view), percent(share.share), share.interval.map(percent).join(" … "), String(kind.people)]));
  if (shares.length) parts.push(table(["Share of the expected change", "Estimate", "90 % interval", "People"], shares, [1, 2, 3]));
  const measures = [["utility", "Test"], ["forget_utility", "Forgotten"]].flatMap(([key, label]) =>
    audit[key] ? ["auc", "log_loss"].filter((metric) => metric in (audit[key].before || {})).map((metric) =>
      [`${label} ${metric === "auc" ? "AUC" : "log loss"}`, decimal(audit[key].before[metric]), decimal(audit[key].after[metric])]) : []);
  if (audit.membership) measures.push(["Membership AUC", decimal(audit.membership.before.auc), decimal(audit.membership.after.auc)]);
  if (measures.length) parts.push(table(["Measure", "Before", "After"], measures, [1, 2]));
  return element("div", { class: "figures" }, ...parts);
}

function jobCard(job) {
  const head = element("div", { class: "job-head" },
    badge(job.status), element("strong", {}, words(job.kind)),
    job.method === job.kind ? "" : element("span", {}, words(job.method)), name(job.id),
    element("span", { class: "when" }, when(job.created_at)));
  const running = OPEN_JOB_STATUSES.has(job.status);
  const parts = [head];
  if (running) parts.push(bar(job.progress, `Progress of job ${job.id}`), element("small", {}, `stage: ${words(job.stage)}`));
  if (job.reason) parts.push(element("small", {}, `reason: ${RENEWAL_REASONS[job.reason] || words(job.reason)}`));
  if (job.error) parts.push(notice(job.error, job.metrics.preempted ? "info" : "bad"));
  const attempts = (job.metrics.tries || [])
    .map((attempt, index) => ({ ...attempt, sentence: job.audits[index].sentence }))
    .filter((attempt) => attempt.audit && Object.keys(attempt.audit).length);
  attempts.forEach(({ attempt, audit, outcome, sentence }, index) => {
    const number = attempts.length > 1 ? ` ${index + 1} (${words(attempt)})` : "";
    const people = Object.values(audit.people || {}).reduce((sum, count) => sum + count, 0);
    const passed = people ? ` (${audit.people.passed} of ${people} people passed)` : "";
    const summary = `Audit${number} of the batch${outcome ? `: ${words(outcome)}` : ""}${passed}`;
    parts.push(disclosure(`${job.id}-${index}`, summary,
      sentence ? element("p", { class: "finding" }, sentence) : "", auditTables(audit)));
  });
  return element("article", { class: "job", "aria-label": `Job ${job.id}` }, ...parts);
}

function releaseRows({ items, live }) {
  if (!items.length) return empty("No release yet. Import data, then run lethe train.");
  return table(["Release", "Status", "Method", "Audit of the batch", "Since"], items.map((release) => [
    name(release.id), badge(release.id === live ? "live" : release.status), words(release.method),
    release.outcome ? badge(release.outcome) : "–", when(release.live_at || release.created_at),
  ]));
}

function replicaRows({ replicas, live }) {
  if (!replicas.length) return empty("No replica is registered.");
  return table(["Replica", "Host", "Serves", "Prepared", "Lease"], replicas.map((replica) => [
    name(replica.id), replica.host, name(replica.serving), name(replica.prepared),
    element("span", {}, badge(replica.lease),
      replica.problem ? element("div", { class: "notice bad" }, replica.problem)
        : replica.serving && replica.serving !== live ? element("small", {}, " behind") : ""),
  ]));
}

// ---- Actions -------------------------------------------------------------------------------

function ask(dialog) {
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

function confirmed(title, text, yes) {
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  return ask(byId("confirm"));
}

async function act(run) {
  try {
    await run();
    showError("");
  } catch (problem) {
    showError(problem.message);
  }
  await refresh();
}

async function cancel(request) {
  const isConfirmed = await confirmed("Cancel this deletion?",
    "The data will be used in recommendations again.", "Cancel the deletion");
  if (isConfirmed) await act(() => call("DELETE", `/forget/${request.id}`));
}

// Saves the text as sent: writing the parsed numbers again would turn 3.0 into 3.
async function download(id, number) {
  const query = number ? `?number=${number}` : "";
  const { text } = await request("GET", `/forget/${id}/certificate${query}`);
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href: url, download: `certificate-${id}${number ? `-${number}` : ""}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// Returns the signed statement of a certificate; those of the first version have no envelope.
function statement({ payload, payloadType }) {
  if (!payloadType) return payload;
  const bytes = Uint8Array.from(atob(payload), (letter) => letter.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(bytes)).predicate;
}

// Shows all certificates of a deletion side by side, oldest first.
async function compare(id) {
  const { items } = await call("GET", `/forget/${id}/certificates`);
  const stated = items.map((item) => statement(item.certificate));
  const line = (title, read) => [title, ...stated.map((content, index) => read(content, items[index]) ?? "–")];
  const rows = [
    line("Kind", (_, item) => words(item.kind)),
    line("Issued", (_, item) => when(item.created_at)),
    line("Method", ({ method }) => words(method || "–")),
    line("Release", ({ release }) => name(release)),
    line("Audit", ({ finding, outcome }) => finding ? element("p", { class: "finding" }, finding.sentence) : outcome && badge(outcome)),
    line("Cites", ({ cites }) => cites && element("span", { class: "mono", title: cites.sha256 }, `${cites.number}: ${cites.sha256.slice(0, 12)}…`)),
    line("", (_, { number }) => element("button", {
      type: "button", class: "small quiet", "aria-label": `Save certificate ${number}`,
      onclick: () => act(() => download(id, number)),
    }, "Save")),
  ];
  byId("compare-table").replaceChildren(table(["", ...items.map(({ number }) => `Number ${number}`)], rows));
  await ask(byId("compare"));
}

async function recommend(event) {
  event.preventDefault();
  const form = event.target.elements;
  const output = byId("recommendations");
  const path = `/recommend/${encodeURIComponent(form.user.value)}`;
  try {
    const answer = await call("GET", `${path}?n=${Number(form.n.value)}&exclude_seen=${form.unseen.checked}`);
    const items = answer.items.map((item) => element("li", {},
      element("span", { class: "rank" }, String(item.rank)), element("span", {}, item.title || item.item_id),
      element("progress", { max: 1, value: item.score, "aria-hidden": "true" }),
      element("span", { class: "score" }, `${(item.score * 100).toFixed(1)}\u00a0%`)));
    output.replaceChildren(
      element("ol", { class: "items" }, ...items),
      items.length ? element("small", {}, "from release ", name(answer.release)) : empty("No items to recommend."));
  } catch (problem) {
    output.replaceChildren(notice(problem.message, problem.status === 410 ? "good" : "bad"));
  }
}

async function forget(event) {
  event.preventDefault();
  const form = event.target;
  const user = form.elements.user.value;
  const items = form.elements.items.value.split(",").map((id) => id.trim()).filter(Boolean);
  const subject = items.length ? `${items.length} item(s) of user ${user}` : `user ${user}`;
  const isConfirmed = await confirmed(`Forget ${subject}?`,
    "Recommendations stop using the data at once. You can cancel the request while it is scheduled; after that, the data is deleted permanently.",
    "Forget");
  if (!isConfirmed) return;
  const output = byId("forget-result");
  try {
    const request = await call("POST", "/forget", items.length ? { user_id: user, item_ids: items } : { user_id: user });
    output.replaceChildren(notice(`Recorded as ${request.id}: ${words(request.status)}.`, "good"));
    form.reset();
  } catch (problem) {
    output.replaceChildren(notice(problem.message, "bad"));
  }
  await refresh();
}

async function enterKey() {
  const input = byId("key-input");
  input.value = "";
  if (await ask(byId("key-dialog"))) {
    if (input.value) sessionStorage.setItem(KEY, input.value);
    else sessionStorage.removeItem(KEY);
    await refresh();
  }
  input.value = "";
}

// ---- Refresh ------------------------------------------------------------------------------

function showError(message) {
  byId("notice").textContent = message;
  byId("notice").hidden = !message;
}

function service(text, tone, title = "") {
  const pill = byId("service");
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = `badge ${tone}`;
  pill.title = title;
}

let failing = false;

async function load() {
  const health = await call("GET", "/readyz");
  service(health.status === "ok" ? "ready" : "not ready", health.status === "ok" ? "good" : "warn",
    (health.reasons || []).join("; "));
  show("warnings", [health.worker_count ?? null, health.warnings || [], health.reasons || []], warningNotices);
  const [jobs, requests, releases] = await Promise.all(
    ["/jobs?limit=20", "/forget?limit=50&total=false", "/releases?limit=20"].map((path) => call("GET", path)));
  // The expiry changes with every call and is not shown; with it, every refresh would redraw.
  releases.replicas.forEach((replica) => delete replica.lease_expires_at);
  show("tiles", { releases, requests, jobs }, tiles);
  show("requests", requests, requestRows);
  show("jobs", jobs, ({ items }) => (items.length ? items.map(jobCard) : empty("No job has run yet.")));
  show("releases", releases, releaseRows);
  show("replicas", releases, replicaRows);
  return jobs.items.some((job) => OPEN_JOB_STATUSES.has(job.status));
}

async function refresh() {
  clearTimeout(timer);
  let busy = false;
  try {
    busy = await load();
    if (failing) showError("");
    failing = false;
  } catch (problem) {
    failing = true;
    if (problem.status === 0) service("unreachable", "bad");
    showError(problem.status === 401 ? "An API key is needed: press “API key” and enter your key." : problem.message);
  }
  clearTimeout(timer);
  timer = setTimeout(() => (document.hidden ? undefined : refresh()), busy ? 1000 : 3000);
}

byId("recommend-form").addEventListener("submit", recommend);
byId("forget-form").addEventListener("submit", forget);
byId("key-button").addEventListener("click", enterKey);
document.addEventListener("visibilitychange", () => (document.hidden ? undefined : refresh()));
refresh();
