"""Who may do what.

Owns the table of roles and rights. Does not own users (see ``users``). The rights are asked
for where the store is changed, not in the page: another way in must not be a way around.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from edge_runtime.errors import AccessError

if TYPE_CHECKING:
    from edge_runtime.clinic.store.users import User

Role = Literal["operator", "reviewer", "admin"]
Right = Literal["examine", "correct", "sign", "export", "delete", "manage"]

ROLES: tuple[Role, ...] = get_args(Role)
# An admin keeps the device and does not sign: whoever does both has two accounts.
_RIGHTS: dict[Role, frozenset[Right]] = {
    "operator": frozenset({"examine", "correct"}),
    "reviewer": frozenset({"examine", "correct", "sign", "export"}),
    "admin": frozenset({"export", "delete", "manage"}),
}
_SAY: dict[Right, str] = {
    "examine": "examine films",
    "correct": "correct cells",
    "sign": "sign or reopen films",
    "export": "export films",
    "delete": "delete films",
    "manage": "manage users and settings",
}


def may(role: Role, right: Right) -> bool:
    """Whether a role has a right."""
    return right in _RIGHTS[role]


def require(user: User, right: Right) -> None:
    """Refuses what a user's role does not allow.

    Raises:
        AccessError: it does not, or the account is closed.
    """
    if not user.active:
        raise AccessError(f"user {user.name!r}: the account is closed; ask an admin")
    if not may(user.role, right):
        able = " or ".join(role for role in ROLES if may(role, right))
        raise AccessError(f"user {user.name!r} ({user.role}) may not {_SAY[right]}; ask {able}")
