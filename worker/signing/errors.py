"""What the signing room raises.

InputError
└── SigningInputError         a value cannot be signed, packed or unpacked as it is
RefusedError
└── SignatureFaultError       a signature that was just made is wrong, so it is thrown away
"""

from __future__ import annotations

from worker.errors import InputError, RefusedError


class SigningInputError(InputError):
    """A value has the wrong type, width, range or layout. ``field`` is its path; no secret is ever quoted."""


class SignatureFaultError(RefusedError):
    """A signature does not recover to its own key. A faulty one may give the key away, so it goes nowhere."""
