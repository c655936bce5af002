"""The guestbook's API: messages live in PostgreSQL, the number of visits in Redis."""

import os
import socket

import psycopg
import redis
from fastapi import FastAPI
from pydantic import BaseModel, Field

app = FastAPI(title="Guestbook")
cache = redis.Redis(host=os.environ["REDIS_HOST"], decode_responses=True)


class Message(BaseModel):
    author: str = Field(min_length=1, max_length=80)
    text: str = Field(min_length=1, max_length=1000)


@app.on_event("startup")
def create_table():
    # Where the database is and who we are there, psycopg learns from PGHOST, PGUSER, PGPASSWORD and PGDATABASE.
    with psycopg.connect() as db:
        db.execute(
            "create table if not exists message"
            " (id bigserial primary key, author text not null, text text not null, at timestamptz not null default now())"
        )


@app.get("/api/health")
def health():
    with psycopg.connect() as db:
        db.execute("select 1")
    return {"database": "ok", "cache": "ok" if cache.ping() else "down"}


@app.get("/api/messages")
def messages():
    with psycopg.connect() as db:
        rows = db.execute("select id, author, text, at from message order by id desc limit 50").fetchall()
    return [dict(zip(("id", "author", "text", "at"), row)) for row in rows]


@app.post("/api/messages", status_code=201)
def sign(message: Message):
    with psycopg.connect() as db:
        row = db.execute(
            "insert into message (author, text) values (%s, %s) returning id", (message.author, message.text)
        ).fetchone()
    return {"id": row[0]}


@app.get("/api/visits")
def visits():
    return {"visits": cache.incr("visits"), "served_by": socket.gethostname()}
