import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

function Greeting({ name }) {
  const [message, setMessage] = useState("…");
  useEffect(() => {
    fetch(`/api/greeting/${name}`)
      .then((answer) => answer.json())
      .then((answer) => setMessage(answer.message));
  }, [name]);
  return <h1>{message}</h1>;
}

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <Greeting name="reader" />
  </StrictMode>,
);
