"""The outermost middleware: paths, HEAD and Allow behave the same for every route.

- A proxy may or may not strip LETHE_ROOT_PATH from the path.
- A collection answers with and without a slash at its end, and never redirects.
- HEAD is answered as GET, without a body.
- `?id=` names a user or an item whose id no path can say, such as `..`: see `_QUERY_FORMS`.
- The header Allow of a 405 lists the methods of all routes and query forms of the path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.routing import compile_path

from app.api.problems import kind_of, problem
from app.domain.errors import InvalidInputError

if TYPE_CHECKING:
    from re import Pattern

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.settings import Settings

_NOT_ALLOWED: Final = 405
#: Routes that only this middleware and the query forms use.
BY_ID: Final = "/by-id"
#: Path and methods of a query form, and the path before the id that it stands for.
_QUERY_FORMS: Final = {
    ("/items", "GET"): f"{BY_ID}/items/",
    ("/items", "DELETE"): f"{BY_ID}/items/",
    ("/similar", "GET"): f"{BY_ID}/similar/",
    ("/users", "GET"): f"{BY_ID}/users/",
    ("/users", "DELETE"): f"{BY_ID}/users/",
    ("/users/erasure", "GET"): f"{BY_ID}/erasure/",
    ("/recommend", "GET"): "/recommend/",
}
#: Start and end of paths in which the id is between the two.
_AROUND_IDS: Final = (("/items/", "/similar"), ("/users/", "/erasure"))


class Edge:
    """Middleware that gives every request the path and method that the routes expect."""

    def __init__(
        self, app: ASGIApp, settings: Settings, routes: tuple[tuple[str, frozenset[str]], ...]
    ) -> None:
        self._app = app
        self._root = settings.root_path
        self._collections = frozenset(path for path, _ in routes if "{" not in path)
        self._routes: list[tuple[Pattern[str], frozenset[str]]] = [
            (compile_path(path)[0], methods) for path, methods in routes
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The server keeps its own scope: with the method HEAD, it sends no body.
        inner = dict(scope)
        is_head = scope["method"] == "HEAD"
        if is_head:
            inner["method"] = "GET"
        try:
            self._set_path(inner)
        except InvalidInputError as error:
            answer = problem(kind_of(InvalidInputError), str(error))
            await answer(inner, receive, send)
            return

        async def edge_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == _NOT_ALLOWED:
                allowed = self._allowed(inner["path"])
                MutableHeaders(scope=message)["Allow"] = ", ".join(allowed)
            if not is_head:
                await send(message)
            elif message["type"] == "http.response.start":
                await send(message)
                # The answer ends here. The end of a stream may be far away.
                await send({"type": "http.response.body", "body": b""})

        await self._app(inner, receive, edge_send)

    def _set_path(self, scope: Scope) -> None:
        """Set the path of the route; raises InvalidInputError for a query form with several ids."""
        path = scope["path"]
        if self._root and (path == self._root or path.startswith(f"{self._root}/")):
            path = path[len(self._root) :] or "/"
        stripped = path.rstrip("/")
        if stripped in self._collections or (stripped, scope["method"]) in _QUERY_FORMS:
            path = stripped
        before_id = _QUERY_FORMS.get((path, scope["method"]))
        query = scope["query_string"].decode("latin-1")
        if before_id is not None and "id=" in query:
            pairs = parse_qsl(query, keep_blank_values=True)
            ids = [value for name, value in pairs if name == "id"]
            if len(ids) > 1:
                raise InvalidInputError("This call is about one id. Give one `id` in the query.")
            if ids:
                rest = [pair for pair in pairs if pair[0] != "id"]
                path = before_id + ids[-1]
                scope["query_string"] = urlencode(rest).encode("ascii")
        for start, end in _AROUND_IDS:
            if path.startswith(start) and path.endswith(end):
                # An encoded slash is part of the id: "x%2Fsimilar" is an item, and no query about
                # "x".
                raw = scope.get("raw_path", b"").decode("latin-1").partition("?")[0]
                if unquote(raw.rpartition("/")[2]).endswith(end):
                    path = f"{BY_ID}{path}"
        scope["path"] = path

    def _allowed(self, path: str) -> list[str]:
        """Return the methods of the path's routes and query forms, and HEAD beside GET."""
        methods = {
            method
            for pattern, methods_of_route in self._routes
            if pattern.match(path)
            for method in methods_of_route
        }
        methods |= {method for of_path, method in _QUERY_FORMS if of_path == path.rstrip("/")}
        return sorted(methods | ({"HEAD"} if "GET" in methods else set()))
