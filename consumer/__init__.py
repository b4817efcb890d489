"""The consumer: runs jobs from queues, and tells their producers how they ended."""

import sys

if "structlog" not in sys.modules and "rich" not in sys.modules:
    # structlog loads rich wherever it is, for tracebacks that we don't print: a tenth of a second of each start.
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog as structlog
    except ModuleNotFoundError:  # whoever needs it says so
        pass
    finally:
        del sys.modules["rich"]
