"""Notes are kept in PostgreSQL; how often they were looked at is counted in Redis."""

import os
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import redis
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

settings = tomllib.loads(Path(__file__).with_name("settings.toml").read_text())
cache = redis.Redis(host=os.environ["REDIS_HOST"], decode_responses=True)


class Note(BaseModel):
    text: str


class Notes(BaseModel):
    title: str
    looks: int
    notes: list[str]


@asynccontextmanager
async def lifespan(_: FastAPI):
    # Where the database is and who we are there, psycopg learns from PGHOST, PGUSER, PGPASSWORD and PGDATABASE.
    with psycopg.connect() as db:
        db.execute("create table if not exists note (id bigserial primary key, text text not null)")
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/api/health")
def health() -> dict[str, bool]:
    with psycopg.connect() as db:
        db.execute("select 1")
    return {"ok": cache.ping()}


@app.get("/api/notes")
def notes() -> Notes:
    with psycopg.connect() as db:
        rows = db.execute("select text from note order by id desc limit 50").fetchall()
    return Notes(title=settings["title"], looks=cache.incr("looks"), notes=[text for (text,) in rows])


@app.post("/api/notes", status_code=201)
def add(note: Note) -> None:
    if not 0 < len(note.text) <= settings["longest"]:
        raise HTTPException(422, f"a note has 1 to {settings['longest']} characters")
    with psycopg.connect() as db:
        db.execute("insert into note (text) values (%s)", (note.text,))
