// Keeps the page as the server has it. The server sends the page whole and escaped; what changed of it takes the
// place of what is shown. The events of the runs that go on say when to look, and a clock where there are none.

const EVERY = 5000;
const MOST_STREAMS = 2; // a browser opens six connections to a server, over all its tabs
const streams = new Map();
let asking = false;
let again = false;

async function look() {
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    const answer = await fetch("/", { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    put(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    late();
  } finally {
    asking = false;
    if (again) {
      again = false;
      look();
    }
  }
}

function put(fresh) {
  if (!fresh.getElementById("federation")) {
    location.reload(); // the session has ended: the server sends its form
    return;
  }
  for (const part of fresh.querySelectorAll("#state, section")) {
    const shown = document.getElementById(part.id);
    if (shown.className === part.className && same(shown, part)) continue;
    const open = [...shown.querySelectorAll("details[open]")].map((one) => one.id);
    const focus = place(shown, document.activeElement);
    const scrolled = [...shown.querySelectorAll(".wide")].map((one) => one.scrollLeft);
    shown.className = part.className;
    shown.replaceChildren(...document.importNode(part, true).childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    shown.querySelectorAll(".wide").forEach((one, n) => (one.scrollLeft = scrolled[n] ?? 0));
    if (focus >= 0) shown.querySelectorAll("summary, [tabindex]")[focus]?.focus({ preventScroll: true });
  }
  listen();
}

function same(shown, part) {
  const closed = shown.cloneNode(true);
  for (const one of closed.querySelectorAll("details[open]")) one.removeAttribute("open");
  return closed.innerHTML === part.innerHTML;
}

function place(section, element) {
  return [...section.querySelectorAll("summary, [tabindex]")].indexOf(element);
}

function late() {
  const state = document.getElementById("state");
  if (state.classList.contains("late")) return;
  state.classList.add("late");
  state.append(" The server does not answer: what you see may be old.");
}

function listen() {
  const runs = [...document.querySelectorAll("[data-run]")].map((one) => one.dataset.run).slice(0, MOST_STREAMS);
  const wanted = new Set(document.hidden ? [] : runs);
  for (const [run, stream] of streams) {
    if (!wanted.has(run) || stream.readyState === EventSource.CLOSED) {
      stream.close();
      streams.delete(run);
    }
  }
  for (const run of wanted) {
    if (streams.has(run)) continue;
    const stream = new EventSource(`/v1/runs/${encodeURIComponent(run)}/events`);
    streams.set(run, stream);
    for (const kind of ["queue", "round", "participation", "end"]) {
      stream.addEventListener(kind, (event) => heard(run, kind, event));
    }
  }
}

function heard(run, kind, event) {
  if (kind === "end") streams.get(run)?.close(); // else the browser would ask again
  const told = JSON.parse(event.data);
  const words = { round: `Round ${told.number} of ${run} is finished.`, end: `${run} has ended: ${told.status}.` };
  if (words[kind]) document.getElementById("told").textContent = words[kind];
  look();
}

if (document.getElementById("federation")) {
  listen();
  setInterval(() => document.hidden || look(), EVERY);
  document.addEventListener("visibilitychange", () => {
    listen();
    if (!document.hidden) look();
  });
}
