from typing import Any

# the compiled modules, until each has a stub of its own
def __getattr__(name: str) -> Any: ...
