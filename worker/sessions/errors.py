"""The errors of the sessions room.

ExecutorError
├── InputError
│   ├── SessionError                  a session cannot be encoded or trusted as it is
│   │   ├── SessionFileError          a session file does not parse, or does not match what it claims
│   │   └── ExcessPrivilegeError      a session may do more than it needs, and nobody has accepted that
│   ├── SessionConflictError          the id is registered with other content
│   └── SessionNotFoundError          no such session
└── ServiceError
    ├── SessionStoreUnavailableError  Redis did not answer; nothing is known to be stored
    ├── SessionCorruptError           what is stored is not what was registered
    │   └── SessionForgedError        it was written by somebody else, or is an old copy
    └── EmissaryReplyError            the session contract's answer is not what its ABI says
"""

from __future__ import annotations

from worker.errors import InputError, ServiceError


class SessionError(InputError):
    """A session cannot be encoded as it is. ``field`` is a path such as ``actions[0].policies[1].limit``."""


class SessionFileError(SessionError):
    """A session file does not parse, or does not match what it claims."""


class ExcessPrivilegeError(SessionError):
    """A session may do more than it needs, and nobody has accepted that."""


class SessionConflictError(InputError):
    """The session id is registered with other content."""


class SessionNotFoundError(InputError):
    """No session is registered under the id."""


class SessionStoreUnavailableError(ServiceError):
    """Redis did not answer in time, or refused; nothing is known to be stored."""


class SessionCorruptError(ServiceError):
    """A stored session is damaged, or this version encodes it differently; it must not be used."""


class SessionForgedError(SessionCorruptError):
    """A stored session has no seal of ours, or is an old copy of itself; it must not be used."""


class EmissaryReplyError(ServiceError):
    """The session contract's answer is not what its ABI says: no contract there, or another one."""
