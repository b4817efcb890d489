"""The consumer: runs jobs from queues, and tells their producers how they ended."""

import sys

# Two libraries load others wherever these are installed, for what we never use: rich, for tracebacks that we don't
# print, and OpenTelemetry, for measures that nobody asks redis-py for: a tenth of a second of each start each.
for library, needless in (("structlog", "rich"), ("redis", "opentelemetry")):
    if library not in sys.modules and needless not in sys.modules:
        sys.modules[needless] = None  # type: ignore[assignment]
        try:
            __import__(library)
        except ModuleNotFoundError:  # whoever needs it says so
            pass
        finally:
            del sys.modules[needless]
