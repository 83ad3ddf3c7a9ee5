"""What people send and what they get."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints

from api.body import Asked

Email = Annotated[str, StringConstraints(min_length=3, max_length=254)]
Password = Annotated[str, StringConstraints(max_length=1_000)]
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Register(Asked):
    email: Email
    password: Password
    """8 characters to 72 bytes."""
    name: Line
    team_name: Line


class SignIn(Asked):
    email: Annotated[str, StringConstraints(max_length=1_000)]
    password: Password
    team_id: str | None = None
    """The organization to work in. Default: the one joined first."""


class ChangePassword(Asked):
    old_password: Password
    new_password: Password


class Switch(Asked):
    organization_id: str


class User(BaseModel):
    id: str
    email: str
    name: str


class TokenAndUser(BaseModel):
    token: str
    user: User


class SignedInUser(BaseModel):
    object: str = "session"
    id: str
    user: User


class Membership(BaseModel):
    id: str
    name: str
    role: str


class Current(BaseModel):
    id: str
    kind: str


class Me(User):
    object: str = "user"
    admin: bool
    """Of the installation."""
    created_at: str
    organization: Membership
    organizations: list[Membership]
    session: Current


class SessionShown(BaseModel):
    id: str
    kind: str
    current: bool
    organization_id: str
    ip: str | None
    user_agent: str | None
    created_at: str
    used_at: str
    expires_at: str


class SessionList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[SessionShown]


class SessionDeleted(BaseModel):
    object: str = "session"
    id: str
    deleted: bool


class SessionsDeleted(BaseModel):
    object: str = "session"
    deleted: int


class PasswordChanged(BaseModel):
    object: str = "user"
    id: str
    sessions_ended: int


class Switched(BaseModel):
    object: str = "organization"
    id: str
    token: str | None = None
    """In place of the one that asked; a browser gets a new cookie instead."""


class Member(User):
    role: str
    created_at: str
    """When they joined."""


class MemberList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[Member]


class AuthEvent(BaseModel):
    id: str
    type: str
    created_at: str
    organization_id: str | None
    user_id: str | None
    email: str | None
    ip: str | None
    user_agent: str | None
    detail: dict[str, Any]


class AuthEventList(BaseModel):
    object: str = "list"
    has_more: bool
    data: list[AuthEvent]


_TEXTS = {
    401: "Address or password is wrong, or nobody is signed in.",
    403: "Registration is closed; or this is not for API keys, not for members, or came from another site.",
    404: "No such object.",
    409: "The address is taken.",
}


def answers(status: int, model: type[BaseModel], *refusals: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {status: {"model": model}, **{each: {"description": _TEXTS[each], "content": error} for each in refusals}}
