"""What can go wrong with a key store.

KeyStoreError(ServiceError)          the store cannot give what was asked
├── KeyNotFoundError                 no key of that address was ever stored there
├── KeyDeletedError                  its latest version is deleted or destroyed; older ones are never used
├── KeyExistsError                   a key of that address is stored already; it is never overwritten
├── KeyMismatchError                 the stored key belongs to another address
├── KeyFormatError                   what is stored is no private key
├── KeyStoreSetupError               the settings do not fit the store (mount, path, file mode, no credentials)
├── KeyStoreDeniedError              the store knows us and says no (policy, role, passphrase)
│   ├── KeyStoreTokenExpiredError    our token has run out or was revoked
│   └── KeyStoreWrappingError        a wrapped secret id was unwrapped before us: possible theft
└── KeyStoreUnavailableError         sealed, down, timed out or 5xx: may be tried again later
    └── KeyStoreRateLimitedError     429; ``retry_after_s`` says when, if the store said
KeyAddressError(InputError)          the caller's address is no address
KeyLabelError(InputError)            the caller's label is too long or not printable

No message, field or fix ever holds stored content: a malformed key may be a good key with a typing error.
"""

from __future__ import annotations

from worker.errors import InputError, ServiceError


class KeyStoreError(ServiceError):
    """The key store cannot give what was asked."""


class KeyNotFoundError(KeyStoreError):
    """No key of that address is stored."""


class KeyDeletedError(KeyStoreError):
    """The latest version of the key is deleted or destroyed."""


class KeyExistsError(KeyStoreError):
    """A key of that address is, or was, stored already."""


class KeyMismatchError(KeyStoreError):
    """The stored key belongs to another address."""


class KeyFormatError(KeyStoreError):
    """What is stored is no private key."""


class KeyStoreSetupError(KeyStoreError):
    """The settings do not fit the store; nothing works until an operator changes them."""


class KeyStoreDeniedError(KeyStoreError):
    """The store answers and says no."""


class KeyStoreTokenExpiredError(KeyStoreDeniedError):
    """The token ran out or was revoked; not a matter of policy."""


class KeyStoreWrappingError(KeyStoreDeniedError):
    """The wrapping token of our secret id was used before, or is not the AppRole's own: somebody else may hold it."""


class KeyStoreUnavailableError(KeyStoreError):
    """The store is sealed, down, too slow or broken. May be tried again later."""


class KeyStoreRateLimitedError(KeyStoreUnavailableError):
    """The store asks for fewer requests.

    Args:
        message: as for every error.
        field: as for every error.
        fix: as for every error.
        retry_after_s: the store's own ``Retry-After`` in seconds, or None.
    """

    def __init__(
        self, message: str, *, field: str = "", fix: str = "", retry_after_s: float | None = None
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, field=field, fix=fix)


class KeyAddressError(InputError):
    """The caller's address is not an address."""


class KeyLabelError(InputError):
    """The caller's label cannot be kept."""
