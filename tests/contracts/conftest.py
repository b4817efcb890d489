"""Fixtures of the contract suites."""

from support.api_servers import server

__all__ = ["server"]
