"""Smart accounts with ECDSA owners as SDK 1.15.0 makes them: address, init code, and the calls that install modules.

An account's address follows from its init code (CREATE2), so a user may be given it, receive tokens on it and approve
sessions for it before it is deployed; ``setup_ops`` of the first intent deploys it. ``proxies.json`` beside this file
holds the creation code of each kind's proxy, without its constructor's arguments: the address is a hash over it.

The SDK compares a configured owner module with its own constants by text, so a checksummed spelling of the Ownable
validator makes it another module there, and such a Nexus cannot be deployed. Here addresses have one spelling.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import NamedTuple, cast

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_hash.auto import keccak

from worker.policies.base import Execution
from worker.sessions.errors import SessionError
from worker.sessions.model import EcdsaOwners
from worker.signing import values
from worker.signing.contracts import (
    INTENT_EXECUTOR,
    OWNABLE_VALIDATOR,
    SMART_SESSION_EMISSARY,
    STARTALE_K1_VALIDATOR,
    ZERO_ADDRESS,
)
from worker.signing.session_signature import check_kind
from worker.signing.structs import AccountKind

VALIDATOR, EXECUTOR, FALLBACK = 1, 2, 3
"""ERC-7579 module types."""

NEXUS_VERSIONS = ("1.2.0", "1.2.1")
"""What a new Nexus can be; the SDK deploys 1.2.0 for every older version that it is given."""

SAFE_SESSION_FALLBACK = "0x000000000052e9685932845660777df43c2dc496"
"""Answers ``eip712Domain()`` on a Safe, which ERC-7739 session signatures need."""


class Module(NamedTuple):
    """An ERC-7579 module: its type, its lower-case address, and what its ``onInstall`` gets."""

    type_id: int
    address: str
    init_data: bytes


EMISSARY_MODULE = Module(VALIDATOR, SMART_SESSION_EMISSARY, b"")
"""Checks what session keys sign. Sessions work on an account only once it is installed."""

EXECUTOR_MODULE = Module(EXECUTOR, INTENT_EXECUTOR, b"")
"""Executes intents. Every account of the SDK has it from the start."""

FALLBACK_MODULE = Module(
    FALLBACK,
    SAFE_SESSION_FALLBACK,
    # bytes4 selector of eip712Domain(), bytes1 0xfe: a static call, bytes: nothing more
    encode(["bytes4", "bytes1", "bytes"], [bytes.fromhex("84b0196e"), b"\xfe", b""]),
)
"""What a Safe has besides, from its creation."""


@dataclass(frozen=True, slots=True)
class CounterfactualAccount:
    """An account that may not be deployed yet.

    Attributes:
        address: lower-case.
        kind: its kind.
        owners: its owners, in configured order.
        factory: the contract that deploys it, lower-case.
        factory_data: calldata for the factory.
    """

    address: str
    kind: AccountKind
    owners: EcdsaOwners
    factory: str
    factory_data: bytes = field(repr=False)

    @property
    def setup_ops(self) -> tuple[tuple[str, bytes], ...]:
        """``(to, calldata)`` of the calls that deploy it, for a session file and a route request."""
        return ((self.factory, self.factory_data),)


def derive_account(
    owners: EcdsaOwners,
    kind: AccountKind = "nexus",
    *,
    salt: bytes | None = None,
    salt_nonce: int | None = None,
    version: str | None = None,
    sessions: bool = True,
) -> CounterfactualAccount:
    """The account that the SDK's ``createAccount`` makes of the same configuration.

    Args:
        owners: the owners; their order matters for a Safe's address, for the others only their set does.
        kind: what to deploy.
        salt: 32 bytes, for all but a Safe. By default zeros, for a Nexus ``keccak256("")``.
        salt_nonce: uint256, for a Safe only (the SDK's ``account.nonce``). By default 0.
        version: for a Nexus only, one of ``NEXUS_VERSIONS``.
        sessions: whether the session modules are installed on deployment (``experimental_sessions.enabled``).

    Raises:
        SessionError: an option does not belong to the kind, or the owners cannot own such an account.
        SigningInputError: the kind is unknown, or the salt is not 32 bytes or no uint256.
    """
    known = check_kind(kind)
    _check_options(known, salt, salt_nonce, version)
    validator = owners.module or OWNABLE_VALIDATOR
    if known == "startale" and validator == STARTALE_K1_VALIDATOR:
        raise SessionError(
            "is Startale's K1 validator, whose signatures are not supported",
            field="owners.module",
            fix="leave it out: the Ownable validator serves the same owners",
        )
    owner_module = Module(
        VALIDATOR,
        validator,
        encode(["uint256", "address[]"], [owners.threshold, sorted(owners.accounts)]),
    )
    extra = (EMISSARY_MODULE,) if sessions else ()
    if known == "nexus":
        factory, data, address = _nexus(owner_module, extra, salt, version or NEXUS_VERSIONS[0])
    elif known == "safe":
        factory, data, address = _safe(owners, owner_module, extra, salt_nonce or 0)
    elif known == "kernel":
        factory, data, address = _kernel(owner_module, extra, salt)
    else:
        factory, data, address = _startale(owner_module, extra, salt)
    return CounterfactualAccount(address, known, owners, factory, data)


def install_calls(kind: AccountKind, account: str, module: Module = EMISSARY_MODULE) -> tuple[Execution, ...]:
    """The calls that install a module on a deployed account; the account itself must make them, all of them.

    With the default module they are the SDK's ``experimental_enable``: afterwards the account takes sessions.

    Args:
        kind: the account's kind.
        account: the account, lower-case.
        module: what to install.

    Raises:
        SigningInputError: the kind is unknown, or the account no lower-case address.
    """
    values.address(account, "account")
    if check_kind(kind) != "kernel":
        return (Execution(account, 0, _install(module, module.init_data)),)
    return tuple(Execution(account, 0, data) for data in _kernel_install(module))


def uninstall_calls(
    kind: AccountKind, account: str, module: Module = EMISSARY_MODULE
) -> tuple[Execution, ...]:
    """The calls that take a module off a deployed account; the account itself must make them.

    With the default module no session works any more, but the emissary keeps them: installing it again brings back
    every session that was not revoked.

    Args:
        kind: the account's kind.
        account: the account, lower-case.
        module: what to uninstall.

    Raises:
        SigningInputError: the kind is unknown, or the account no lower-case address.
    """
    values.address(account, "account")
    check_kind(kind)
    data = _call(
        "uninstallModule(uint256,address,bytes)",
        ["uint256", "address", "bytes"],
        [module.type_id, module.address, b""],
    )
    return (Execution(account, 0, data),)


def deployed_by(factory: str, factory_data: bytes) -> str | None:
    """The account that a factory's call deploys, whatever its owners and modules; None for a call that is not known.

    Args:
        factory: the contract that is called, lower-case.
        factory_data: its calldata.
    """
    head, arguments = factory_data[:4], factory_data[4:]
    try:
        if factory in _BY_BOOTSTRAP and head == _selector("createAccount(bytes,bytes32)"):
            kind, implementation = _BY_BOOTSTRAP[factory]
            init_data, salt = decode(["bytes", "bytes32"], arguments)
            return _by_bootstrap(kind, factory, implementation, init_data, salt)[2]
        if factory == _SAFE_FACTORY and head == _selector("createProxyWithNonce(address,bytes,uint256)"):
            singleton, setup, salt_nonce = decode(["address", "bytes", "uint256"], arguments)
            salt = keccak(keccak(setup) + salt_nonce.to_bytes(32))
            return _create2(factory, salt, _proxies()["safe"] + encode(["address"], [singleton]))
        if factory == _KERNEL_META_FACTORY and head == _selector("deployWithFactory(address,bytes,bytes32)"):
            deployer, setup, salt = decode(["address", "bytes", "bytes32"], arguments)
            if deployer.lower() == _KERNEL_FACTORY:
                return _create2(_KERNEL_FACTORY, keccak(setup + salt), _proxies()["kernel"])
    except DecodingError:
        pass
    return None


# --- Nexus and Startale: a bootstrap contract installs the modules

_NEXUS_BOOTSTRAP = "0x00000000006efb61d8c9546ff1b500de3f244ea7"
_NEXUS_DEPLOYMENTS = {
    "1.2.0": (
        "0x0000000000679a258c64d2f20f310e12b64b7375",
        "0x000000000032ddc454c3bdcba80484ad5a798705",
    ),
    "1.2.1": (
        "0x0000000099d5576c73a3b190dabeeaa0f128ce6b",
        "0x000000000d41c0bf0063dba53343389cdb2c9c78",
    ),
}
"""Factory and implementation."""

_STARTALE_BOOTSTRAP = "0x000000552a5fae3db7a8f3917c435448f49ba6a9"
_STARTALE_FACTORY = "0x0000003b3e7b530b4f981ae80d9350392defef90"
_STARTALE_IMPLEMENTATION = "0x000000b8f5f723a680d3d7ee624fe0bc84a6e05a"

_BY_BOOTSTRAP: dict[str, tuple[AccountKind, str]] = {
    **{factory: ("nexus", implementation) for factory, implementation in _NEXUS_DEPLOYMENTS.values()},
    _STARTALE_FACTORY: ("startale", _STARTALE_IMPLEMENTATION),
}
"""Factory -> kind and implementation."""

_MODULES_ABI = "(address,bytes)[]"
_BOOTSTRAP_ABI = [_MODULES_ABI, _MODULES_ABI, "(address,bytes)", _MODULES_ABI, "(uint256,address,bytes)[]"]
"""validators, executors, hook, fallbacks, pre-validation hooks."""


def _bootstrap(validators: Sequence[Module]) -> list[object]:
    return [
        [(module.address, module.init_data) for module in validators],
        [(EXECUTOR_MODULE.address, EXECUTOR_MODULE.init_data)],
        (ZERO_ADDRESS, b""),
        [],
        [],
    ]


def _nexus(
    owner: Module, extra: tuple[Module, ...], salt: bytes | None, version: str
) -> tuple[str, bytes, str]:
    if owner.address == OWNABLE_VALIDATOR:
        # It is Nexus's default validator: always there, initialised out of band, never installed.
        setup = _call(
            f"initNexusWithDefaultValidatorAndOtherModulesNoRegistry(bytes,{','.join(_BOOTSTRAP_ABI)})",
            ["bytes", *_BOOTSTRAP_ABI],
            [owner.init_data, *_bootstrap(extra)],
        )
    else:
        setup = _call(
            f"initNexusNoRegistry({','.join(_BOOTSTRAP_ABI)})", _BOOTSTRAP_ABI, _bootstrap((owner, *extra))
        )
    factory, implementation = _NEXUS_DEPLOYMENTS[version]
    init_data = encode(["address", "bytes"], [_NEXUS_BOOTSTRAP, setup])
    return _by_bootstrap("nexus", factory, implementation, init_data, keccak(b"") if salt is None else salt)


def _startale(owner: Module, extra: tuple[Module, ...], salt: bytes | None) -> tuple[str, bytes, str]:
    setup = _call(f"init({','.join(_BOOTSTRAP_ABI)})", _BOOTSTRAP_ABI, _bootstrap((owner, *extra)))
    init_data = encode(["address", "bytes"], [_STARTALE_BOOTSTRAP, setup])
    return _by_bootstrap(
        "startale", _STARTALE_FACTORY, _STARTALE_IMPLEMENTATION, init_data, salt or bytes(32)
    )


def _by_bootstrap(
    kind: AccountKind, factory: str, implementation: str, init_data: bytes, salt: bytes
) -> tuple[str, bytes, str]:
    initialize = _call("initializeAccount(bytes)", ["bytes"], [init_data])
    arguments = encode(["address", "bytes"], [implementation, initialize])
    data = _call("createAccount(bytes,bytes32)", ["bytes", "bytes32"], [init_data, salt])
    return factory, data, _create2(factory, salt, _proxies()[kind] + arguments)


# --- Safe: the launchpad adds the ERC-7579 adapter and, through it, the modules

_SAFE_FACTORY = "0x4e1dcf7ad4e460cfd30791ccc4f9c8a4f820ec67"
_SAFE_SINGLETON = "0x29fcb43b46531bca003ddc8fcb67ffe91900c762"
_SAFE_LAUNCHPAD = "0x75798463024bda64d83c94a64bc7d7eab41300ef"
_SAFE_ADAPTER = "0x7579f2ad53b01c3d8779fe17928e0d48885b0003"


def _safe(
    owners: EcdsaOwners, owner: Module, extra: tuple[Module, ...], salt_nonce: int
) -> tuple[str, bytes, str]:
    modules = (owner, *extra, EXECUTOR_MODULE, *((FALLBACK_MODULE,) if extra else ()))
    add_modules = _call(
        "addSafe7579(address,(address,bytes,uint256)[],address[],uint8)",
        ["address", "(address,bytes,uint256)[]", "address[]", "uint8"],
        [
            _SAFE_ADAPTER,
            [(module.address, module.init_data, module.type_id) for module in modules],
            [],
            0,
        ],
    )
    types = ["address[]", "uint256", "address", "bytes", "address", "address", "uint256", "address"]
    setup = _call(
        f"setup({','.join(types)})",
        types,
        [
            list(owners.accounts),
            owners.threshold,
            _SAFE_LAUNCHPAD,
            add_modules,
            _SAFE_ADAPTER,
            ZERO_ADDRESS,
            0,
            ZERO_ADDRESS,
        ],
    )
    data = _call(
        "createProxyWithNonce(address,bytes,uint256)",
        ["address", "bytes", "uint256"],
        [_SAFE_SINGLETON, setup, salt_nonce],
    )
    salt = keccak(keccak(setup) + salt_nonce.to_bytes(32))
    init_code = _proxies()["safe"] + encode(["address"], [_SAFE_SINGLETON])
    return _SAFE_FACTORY, data, _create2(_SAFE_FACTORY, salt, init_code)


# --- Kernel: the owners' validator is the root validator, the rest is installed by calls

_KERNEL_META_FACTORY = "0xd703aae79538628d27099b8c4f621be4ccd142d5"
_KERNEL_FACTORY = "0x2577507b78c2008ff367261cb6285d44ba5ef2e9"
_KERNEL_HOOK_INSTALLED = bytes(19) + b"\x01"
"""In place of a hook: installed, without one."""

_KERNEL_EXECUTE = bytes.fromhex("e9ae5c53")
"""ERC-7579 ``execute``, the function that a validator is granted."""


def _kernel(owner: Module, extra: tuple[Module, ...], salt: bytes | None) -> tuple[str, bytes, str]:
    types = ["bytes21", "address", "bytes", "bytes", "bytes[]"]
    setup = _call(
        f"initialize({','.join(types)})",
        types,
        [
            _kernel_validator(owner),
            ZERO_ADDRESS,
            owner.init_data,
            b"",
            [call for module in (*extra, EXECUTOR_MODULE) for call in _kernel_install(module)],
        ],
    )
    salt = salt or bytes(32)
    data = _call(
        "deployWithFactory(address,bytes,bytes32)",
        ["address", "bytes", "bytes32"],
        [_KERNEL_FACTORY, setup, salt],
    )
    address = _create2(_KERNEL_FACTORY, keccak(setup + salt), _proxies()["kernel"])
    return _KERNEL_META_FACTORY, data, address


def _kernel_validator(module: Module) -> bytes:
    return b"\x01" + bytes.fromhex(module.address[2:])


def _kernel_install(module: Module) -> tuple[bytes, ...]:
    if module.type_id == VALIDATOR:
        data = _KERNEL_HOOK_INSTALLED + encode(["bytes", "bytes", "bytes"], [module.init_data, b"", b""])
        grant = _call(
            "grantAccess(bytes21,bytes4,bool)",
            ["bytes21", "bytes4", "bool"],
            [_kernel_validator(module), _KERNEL_EXECUTE, True],
        )
        return _install(module, data), grant
    if module.type_id == EXECUTOR:
        return (_install(module, bytes(20) + encode(["bytes", "bytes"], [module.init_data, b""])),)
    raise SessionError(
        f"type {module.type_id} cannot be installed on a kernel account here",
        field="module",
        fix="only validators and executors are needed for sessions",
    )


# --- common


def _install(module: Module, init_data: bytes) -> bytes:
    return _call(
        "installModule(uint256,address,bytes)",
        ["uint256", "address", "bytes"],
        [module.type_id, module.address, init_data],
    )


def _call(signature: str, types: Sequence[str], arguments: Sequence[object]) -> bytes:
    return _selector(signature) + encode(types, arguments)


def _selector(signature: str) -> bytes:
    return keccak(signature.encode())[:4]


def _create2(factory: str, salt: bytes, init_code: bytes) -> str:
    return "0x" + keccak(b"\xff" + bytes.fromhex(factory[2:]) + salt + keccak(init_code))[12:].hex()


@cache
def _proxies() -> dict[AccountKind, bytes]:
    table = json.loads(files("worker.sessions").joinpath("proxies.json").read_text("utf-8"))
    return {cast("AccountKind", kind): bytes.fromhex(code[2:]) for kind, code in table.items()}


def _check_options(
    kind: AccountKind, salt: bytes | None, salt_nonce: int | None, version: str | None
) -> None:
    if salt is not None:
        if kind == "safe":
            raise SessionError("a Safe has no salt", field="salt", fix="give a salt nonce")
        values.fixed_bytes(salt, 32, "salt")
    if salt_nonce is not None:
        if kind != "safe":
            raise SessionError(f"a {kind} account has no salt nonce", field="salt nonce", fix="give a salt")
        values.uint(salt_nonce, 256, "salt nonce")
    if version is not None:
        if kind != "nexus":
            raise SessionError(f"is for nexus accounts, not for {kind}", field="version", fix="leave it out")
        if version not in NEXUS_VERSIONS:
            raise SessionError(
                f"{version!r} is none that can be deployed",
                field="version",
                fix=f"one of: {', '.join(NEXUS_VERSIONS)}",
            )
