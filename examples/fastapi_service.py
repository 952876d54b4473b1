"""A FastAPI service that registers itself, from its lifespan.

    pip install fastapi uvicorn
    PORT=8082 ETCD=http://127.0.0.1:2379 python examples/fastapi_service.py

A lifespan begins before the server listens, so the instance starts as unhealthy, and the check
calls it healthy once it answers.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from proxy.register import Record, Registrar

PORT = int(os.environ.get("PORT", "8082"))
ETCD = os.environ.get("ETCD", "http://127.0.0.1:2379")


@asynccontextmanager
async def registered(app: FastAPI) -> AsyncIterator[None]:
    async with Registrar(
        Record(service="hello-fastapi", port=PORT, version=app.version),
        endpoints=[ETCD],
        check=f"http://127.0.0.1:{PORT}/health",
    ):
        yield


app = FastAPI(lifespan=registered)


@app.get("/")
async def hello() -> dict[str, str]:
    return {"hello": "from FastAPI"}


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ok": True}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=PORT)
