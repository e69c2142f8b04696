"""The ``KeyStore`` port: where session keys live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


class SecretKey:
    """A private key that can be used and not seen: every rendering of it is masked.

    Holds 32 bytes in a ``bytearray`` so that ``wipe`` can overwrite them (best effort: the interpreter may
    have copied them). ``use()`` is the only way to the bytes.
    """

    __slots__ = ("_value", "address", "version")

    def __init__(self, value: bytes | bytearray, address: str) -> None:
        self._value = bytearray(value)
        self.address = address
        #: Of the stored key, for the audit trail; "" where there are none.
        self.version = ""

    def use(self) -> bytes:
        """The 32 bytes. Keep them in one expression; never bind them to a name that outlives the call.

        Raises:
            ValueError: the key was wiped.
        """
        if not any(self._value):
            raise ValueError("the key was wiped")
        return bytes(self._value)

    def wipe(self) -> None:
        """Overwrite the bytes."""
        self._value[:] = bytes(len(self._value))

    def __repr__(self) -> str:
        return f"<SecretKey of {self.address}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce__(self) -> str:
        raise TypeError("a SecretKey cannot be pickled")

    def __getstate__(self) -> object:
        raise TypeError("a SecretKey cannot be serialised")


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be known of a key.

    Attributes:
        address: lower-case.
        created: unix seconds; 0 if unknown.
        version: of the stored secret, where the store counts them.
        label: for people.
        replaces: address of the key whose place it takes, or is to take; empty for none.
        rotated: unix seconds since when another key has its place; 0 if none has.
    """

    address: str
    created: int
    version: str = ""
    label: str = ""
    replaces: str = ""
    rotated: int = 0


class KeyGiver(Protocol):
    """What signing needs of a key store."""

    def get(self, address: str) -> AbstractContextManager[SecretKey]:
        """See ``KeyStore.get``."""
        ...


class KeyStore(Protocol):
    """Where session keys live. Every method raises ``KeyStoreError`` subclasses of ``worker/keys/errors.py``."""

    def create(self, *, label: str = "", replaces: str = "") -> KeyInfo:
        """Generate a key inside the store's process and keep it; an existing one is never overwritten."""
        ...

    def adopt(self, key: SecretKey, *, label: str = "") -> KeyInfo:
        """Keep a key that was made elsewhere; one that is, or was, there is never overwritten.

        Raises:
            KeyExistsError
        """
        ...

    def mark_rotated(self, address: str) -> None:
        """Note that another key has taken the place of this one, which stays readable. May be repeated."""
        ...

    def destroy(self, address: str) -> None:
        """Destroy a key for good, every version of it.

        Raises:
            KeyNotFoundError, KeyDeletedError: there is nothing (any more) to destroy.
            KeyStoreDeniedError: these credentials may not.
        """
        ...

    def get(self, address: str) -> AbstractContextManager[SecretKey]:
        """The key of ``address`` for one signing; wiped when the context ends.

        Raises:
            KeyNotFoundError, KeyDeletedError, KeyMismatchError, KeyStoreUnavailableError, KeyStoreDeniedError
        """
        ...

    def list(self) -> Iterator[KeyInfo]:
        """The keys held, without secrets."""
        ...

    def check(self) -> str:
        """Prove that the store answers and our credentials hold; returns a short description for ``doctor``."""
        ...
