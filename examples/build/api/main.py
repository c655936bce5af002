"""Greets people, and says who it runs as."""

import os

from fastapi import FastAPI

app = FastAPI()


@app.get("/health")
def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/greeting/{name}")
def greeting(name: str) -> dict[str, str | int]:
    return {"message": f"Hello, {name}!", "user": os.getuid()}
