"""Locust, imported without gevent's patches: this process runs other tests as well."""

import os

os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"
import locust  # noqa: F401

del os.environ["LOCUST_SKIP_MONKEY_PATCH"]  # what tests start is to be patched
