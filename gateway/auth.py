"""Who calls and what they may do: Bearer keys, roles, namespaces, restriction to functions."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from core.errors import Forbidden, FunctionNotFound, Unauthenticated
from core.model import DEFAULT_NAMESPACE, PLATFORM_NAMESPACE, Key, Role

KEY_PREFIX = b"hk_"
_BEARER = b"bearer "


class Right(Enum):
    """What a call needs."""

    READ = "read"
    INVOKE = "invoke"
    DEPLOY = "deploy"
    ADMIN = "admin"


RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.ADMIN: frozenset(Right),
    Role.DEPLOYER: frozenset({Right.READ, Right.INVOKE, Right.DEPLOY}),
    Role.INVOKER: frozenset({Right.INVOKE}),
    Role.VIEWER: frozenset({Right.READ}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """A key as the edge uses it, made once for each key of the catalog's view."""

    key: Key
    rights: frozenset[Right]
    expires: float | None  # Unix time
    functions: frozenset[str]  # empty = all of the namespace

    @classmethod
    def of(cls, key: Key) -> Caller:
        expires = key.expires_at.timestamp() if key.expires_at else None
        return cls(key, RIGHTS[key.role], expires, frozenset(key.functions))

    @property
    def home(self) -> str:
        """The namespace that a bare name means."""
        return DEFAULT_NAMESPACE if self.is_platform else self.key.namespace

    @property
    def is_platform(self) -> bool:
        """Whether the key administers every namespace."""
        return self.key.namespace == PLATFORM_NAMESPACE

    def sees(self, namespace: str) -> bool:
        """Whether the namespace exists as far as this caller can tell."""
        return self.key.namespace in (namespace, PLATFORM_NAMESPACE)

    def may(self, right: Right, namespace: str, name: str | None) -> bool:
        """The right on a function, or (`name` None) on the namespace as a whole, which a key
        restricted to functions never has but for reading."""
        if right not in self.rights or not self.sees(namespace):
            return False
        if not self.functions:
            return True
        return right is Right.READ if name is None else name in self.functions


def authenticate(callers: Mapping[str, Caller], authorization: bytes | None) -> Caller | None:
    """Whose key this header carries. None when it is not ours at all: no header, another scheme,
    a Bearer token of another kind. Unauthenticated for a Hearth key that opens nothing."""
    if authorization is None or authorization[:7].lower() != _BEARER:
        return None
    text = authorization[7:].strip()
    if not text.startswith(KEY_PREFIX):
        return None
    # The digest, not the key, is looked up: what the comparison's time tells is of no use.
    digest = hashlib.sha256(text).hexdigest()
    caller = callers.get(digest)
    if caller is None or not hmac.compare_digest(caller.key.digest, digest):
        raise Unauthenticated("nobody knows this key")
    if caller.expires is not None and time.time() >= caller.expires:
        raise Unauthenticated("the key has expired")
    return caller


def require(caller: Caller | None, right: Right, namespace: str, name: str | None) -> Caller:
    """The caller, if it may. Unauthenticated, Forbidden; FunctionNotFound for what stands in
    another namespace, whose very names are nobody else's business."""
    if caller is None:
        raise Unauthenticated("a key is needed: send `Authorization: Bearer <key>`")
    if caller.may(right, namespace, name):
        return caller
    if not caller.sees(namespace):
        raise FunctionNotFound(f"no function {name!r} in namespace {namespace!r}")
    if right in caller.rights:
        raise Forbidden(f"the key {caller.key.name!r} is restricted to certain functions")
    raise Forbidden(f"the role {caller.key.role.value} does not include this call")
