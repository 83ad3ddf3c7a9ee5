"""The cookie of a browser, and what keeps other sites from using it (RFC 6265bis; OWASP's cheat sheet on CSRF).

A request that a cookie authenticates and that changes something must carry `X-Requested-With`: a form of another site cannot set
it, and a script of another site is asked for permission first, which nobody gives. Where the browser says whence the request
comes (Origin, Sec-Fetch-Site), that has to be here.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import Response

from api.errors import ApiError
from mailcore.store.people import SESSION_DAYS

NAME = "postroom_session"
SECURE_NAME = "__Host-postroom_session"
"""Set only over TLS and only by this very host: no subdomain can plant one (RFC 6265bis §4.1.3.2)."""
MAX_AGE = SESSION_DAYS * 86_400
MAX_SECRET = 100
_READING = frozenset(("GET", "HEAD", "OPTIONS"))


def secret_of(request: HTTPConnection, public_url: str) -> str | None:
    secret = request.cookies.get(SECURE_NAME if is_secure(request, public_url) else NAME)
    return secret if secret and len(secret) <= MAX_SECRET else None


def keep(response: Response, request: HTTPConnection, public_url: str, secret: str) -> None:
    secure = is_secure(request, public_url)
    response.set_cookie(
        SECURE_NAME if secure else NAME,
        secret,
        max_age=MAX_AGE,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def drop(response: Response, request: HTTPConnection, public_url: str) -> None:
    secure = is_secure(request, public_url)
    response.delete_cookie(SECURE_NAME if secure else NAME, path="/", secure=secure, httponly=True, samesite="lax")


def is_secure(request: HTTPConnection, public_url: str) -> bool:
    """Over TLS to us, to a trusted proxy, or by the public URL."""
    return request.scope["scheme"] in ("https", "wss") or public_url.startswith("https:")


def check_own_page(request: HTTPConnection, public_url: str) -> None:
    """That a page of ours sent this. Raises ApiError 403."""
    if request.scope.get("method", "GET") in _READING:
        return
    headers = request.headers
    if not headers.get("x-requested-with"):
        raise _refused("Set the header X-Requested-With: a browser's session changes nothing without it.")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise _refused("This request comes from another site.")
    origin = headers.get("origin")
    if origin is not None and origin not in (_origin(public_url), f"{request.scope['scheme']}://{headers.get('host')}"):
        raise _refused("This request comes from another site. If this is your own address, set HTTP__PUBLIC_URL to it.")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _refused(message: str) -> ApiError:
    return ApiError(403, "csrf_refused", message)
