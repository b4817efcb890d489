"""TLS to servers whose certificates come from an authority of one's own."""

from __future__ import annotations

import ssl


def client_context(cafile: str | None = None, cadata: str | None = None) -> ssl.SSLContext:
    """Checks chain, dates and host name. Raises OSError, SSLError for certificates that can't be read.

    From Python 3.13 on, `ssl.create_default_context` also refuses what RFC 5280 wants written otherwise
    (VERIFY_X509_STRICT). Authorities that people made long ago lack what it asks for: key identifiers in clusters of
    EKS from Kubernetes 1.16 and before, key usage where somebody followed Docker's guide. kubectl, docker and Faktory's
    clients take them, and it makes none of them more trustworthy: the operator has named them.
    """
    context = ssl.create_default_context(cafile=cafile, cadata=cadata)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
