"""What the signing room raises.

InputError
└── SigningInputError         a value cannot be signed, packed or unpacked as it is
"""

from __future__ import annotations

from worker.errors import InputError


class SigningInputError(InputError):
    """A value has the wrong type, width, range or layout. ``field`` is its path; no secret is ever quoted."""
