"""The board's address in, what it answers to a program out: over HTTP and over its websocket."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request

import websockets

SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport="


def asked(url: str, **headers: str) -> tuple[int, str]:
    """Status and body; redirections are not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


async def socket_says(url: str, **headers: str) -> str:
    """The first words of the board's websocket, or the status of its refusal."""
    address = url.replace("http:", "ws:") + SOCKET + "websocket"
    try:
        async with websockets.connect(address, additional_headers=headers) as connection:
            return str(await asyncio.wait_for(connection.recv(), 10))
    except websockets.InvalidStatus as refused:
        return str(refused.response.status_code)
