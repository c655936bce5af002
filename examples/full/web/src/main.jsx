import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

function Notes() {
  const [{ title, looks, notes }, setState] = useState({ title: "…", looks: 0, notes: [] });
  const load = async () => setState(await (await fetch("/api/notes")).json());
  useEffect(() => {
    load();
  }, []);

  const add = async (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const body = JSON.stringify({ text: new FormData(form).get("text") });
    await fetch("/api/notes", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    form.reset();
    await load();
  };

  return (
    <main>
      <h1>{title}</h1>
      <form onSubmit={add}>
        <input name="text" required />
        <button>Keep</button>
      </form>
      <ul>
        {notes.map((note, index) => (
          <li key={notes.length - index}>{note}</li>
        ))}
      </ul>
      <p>Looked at {looks} times.</p>
    </main>
  );
}

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <Notes />
  </StrictMode>,
);
