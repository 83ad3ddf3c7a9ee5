"""The HTTP surface: the Resend API at the root, the platform's own under /v1, the operations of the local stack in catch mode.

edge        before every route: paths, body limit, rate-limit headers, the last net under errors (pure ASGI)
auth        bearer token → Principal
body        JSON in, under limits; pydantic models for what is not hot
errors      every error as {statusCode, name, message}
pages       limit, after, before
app         the routers; a new area is a folder with `router` and one line there
context     what the process shares
main        the composition root

The surface's sources are spec/resend.md and DESIGN §5. An unknown or revoked key is answered as the live service does,
400 `validation_error` "API key is invalid" (resend.md §12 lists the variants).
"""
