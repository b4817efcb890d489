"""Sealed variables: only the consumers' private key opens them. With PyNaCl, which is in the extra `seal`.

A sealed box is libsodium's crypto_box_seal (X25519, XSalsa20-Poly1305): https://doc.libsodium.org/public-key_cryptography/sealed_boxes
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import TYPE_CHECKING, Any

from enqueue.errors import UsageError

if TYPE_CHECKING:
    from enqueue.job import Job

PUBLIC, PRIVATE = "lspub1_", "lskey1_"
"""What keys begin with; 32 bytes in URL-safe base64 without padding follow."""


def new_key() -> tuple[str, str]:
    """A private key and its public key. Raises UsageError without PyNaCl."""
    key = nacl().PrivateKey.generate()
    return _text(PRIVATE, bytes(key)), _text(PUBLIC, bytes(key.public_key))


def key_id(public: bytes) -> str:
    """What a sealed variable calls the key: 16 hexadecimal digits of the SHA-256 of the public key's 32 bytes."""
    return hashlib.sha256(public).hexdigest()[:16]


def sealed(job: Job, key: str) -> Job:
    """The job with its sensitive variables sealed for the owners of a public key; those that are stay.

    Raises UsageError for a text that is no public key, and without PyNaCl.
    """
    public = key_bytes(key, PUBLIC)
    box, name = nacl().SealedBox(nacl().PublicKey(public)), key_id(public)
    variables = tuple(
        variable.model_copy(update={"value": _closed(box, variable.value), "sealed": name})
        if variable.sensitive and variable.sealed is None
        else variable
        for variable in job.variables
    )
    return job.model_copy(update={"variables": variables})


def key_bytes(text: str, prefix: str) -> bytes:
    """The 32 bytes of a key in words. Raises UsageError, which never quotes it."""
    what = "a public key" if prefix == PUBLIC else "a private key"
    other = PRIVATE if prefix == PUBLIC else PUBLIC
    text = text.strip()
    if text.startswith(other):
        raise UsageError(f"this is {'a private' if prefix == PUBLIC else 'a public'} key, where {what} is wanted")
    try:
        raw = base64.b64decode(text.removeprefix(prefix) + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not text.startswith(prefix) or len(raw) != 32:
        raise UsageError(f"this is no {what.removeprefix('a ')}: it begins with {prefix} and has 50 characters")
    return raw


def nacl() -> Any:
    """PyNaCl's module for boxes. Raises UsageError that says how to get it."""
    try:
        import nacl.public
    except ImportError:
        raise UsageError("sealed variables need PyNaCl: pip install 'longshore[seal]'") from None
    return nacl.public


def _closed(box: Any, text: str) -> str:
    return base64.b64encode(box.encrypt(text.encode())).decode()


def _text(prefix: str, raw: bytes) -> str:
    return prefix + base64.urlsafe_b64encode(raw).decode().rstrip("=")
