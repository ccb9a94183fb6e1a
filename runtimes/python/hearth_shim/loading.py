"""Become the function that INIT describes: environment, search path, import, handler."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import time
from typing import Any

from .answers import Answer, failure
from .function import Function, Handler, is_async
from .wire import INIT_ERROR, READY

FOUND_MAX = 100
KEPT_ENV = ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE")


class HandlerNotFound(Exception):
    """No such module, or no such callable in it. `found` names what there is."""

    def __init__(self, message: str, found: list[str]) -> None:
        super().__init__(message)
        self.found = found[:FOUND_MAX]


class Unfit(Exception):
    """The code is there and cannot run as the configuration asks. No line of it is to blame."""


class HandlerNotAsync(Unfit):
    """Several calls at once are asked for, and the handler would make them wait for each other."""


def load(config: dict[str, Any], task: str) -> tuple[Answer, Function | None]:
    """Become the function that INIT describes: environment, search path, import, handler."""
    apply_environment(config, task)
    try:
        os.chdir(task)
        asked = [path for path in os.environ.get("PYTHONPATH", "").split(":") if path]
        sys.path[:0] = [task, *asked, os.path.join(task, ".hearth/site-packages")]
        if ":" in config["handler"]:
            from .applications import become  # only functions that are one pay for it

            app = find_application(config["handler"], task)
            return (READY, {}, b""), become(app, config)
        handler = find_handler(config["handler"], task)
        if config.get("per_sandbox", 1) > 1 and not is_async(handler):
            name = config["handler"]
            raise HandlerNotAsync(f"{name} is not `async def`, which several calls at once need")
        return (READY, {}, b""), Function(handler, config)
    except BaseException as error:  # importing user code may raise anything, SystemExit too
        problem = failure("", error)
        del problem["code"]
        if isinstance(error, HandlerNotFound):
            problem |= {"trace": [], "found": error.found}
        if isinstance(error, Unfit):
            problem["trace"] = []
        return (INIT_ERROR, problem, b""), None


def apply_environment(config: dict[str, Any], task: str) -> None:
    """The function's environment replaces the one this process was started with."""
    kept = {name: os.environ[name] for name in KEPT_ENV if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update(config.pop("env"))
    os.environ.update(
        LAMBDA_TASK_ROOT=task,
        _HANDLER=config["handler"],
        AWS_LAMBDA_FUNCTION_NAME=config["function"],
        AWS_LAMBDA_FUNCTION_VERSION=str(config["version"]),
        AWS_LAMBDA_FUNCTION_MEMORY_SIZE=str(config["memory_mb"]),
        HEARTH_NAMESPACE=config["namespace"],
        TMPDIR="/tmp",
        HOME="/tmp",
    )
    time.tzset()
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    if level in logging.getLevelNamesMapping():
        logging.getLogger().setLevel(level)


def find_handler(name: str, task: str) -> Handler:
    """The callable that `module.function` names; HandlerNotFound says what there is instead."""
    path, dot, attribute = name.rpartition(".")
    module_name = path.replace("/", ".")
    if not dot or not attribute or not all(module_name.split(".")):
        raise HandlerNotFound(f"handler {name!r} is not module.function", modules_in(task))
    module = find_module(module_name, task)
    handler: Handler | None = getattr(module, attribute, None)
    if not callable(handler):
        what = "is not callable" if hasattr(module, attribute) else "does not exist"
        raise HandlerNotFound(f"{attribute!r} in module {module_name!r} {what}", callables(module))
    return handler


def find_application(name: str, task: str) -> Any:
    """What `module:attribute` names, or `module:attribute.of.it`."""
    path, _, attribute = name.partition(":")
    module_name = path.replace("/", ".")
    if not all(module_name.split(".")) or not all(attribute.split(".")):
        raise HandlerNotFound(f"handler {name!r} is not module:attribute", modules_in(task))
    module = found = find_module(module_name, task)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        what = "does not exist" if found is None else "is not callable"
        raise HandlerNotFound(f"{attribute!r} in module {module_name!r} {what}", callables(module))
    return found


def find_module(module_name: str, task: str) -> Any:
    """The function's module; HandlerNotFound when it has none of that name."""
    try:
        return import_from_task(module_name, task)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(missing + "."):
            raise  # the module is there; something that it imports is not
        raise HandlerNotFound(f"no module {module_name!r} in the code", modules_in(task)) from None


def import_from_task(name: str, task: str) -> Any:
    """Import the function's module, also when the standard library already took its name."""
    top = name.partition(".")[0]
    file = os.path.join(task, *name.split(".")) + ".py"
    if top not in sys.modules or not os.path.exists(file):
        return importlib.import_module(name)
    # json.py, say: shim and libraries keep the real json, the function's file gets another name.
    spec = importlib.util.spec_from_file_location(f"task_{name.replace('.', '_')}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def modules_in(task: str) -> list[str]:
    """Names of the modules and packages in the root of the code."""
    found = set()
    for entry in os.scandir(task):
        if entry.name.endswith(".py") and entry.is_file():
            found.add(entry.name[:-3])
        elif entry.is_dir() and "__init__.py" in os.listdir(entry.path):
            found.add(entry.name)
    return sorted(found)


def callables(module: Any) -> list[str]:
    """Public callables of a module: its own, or all when it defines none."""
    names = [n for n, value in vars(module).items() if callable(value) and n[:1] != "_"]
    own = [n for n in names if getattr(vars(module)[n], "__module__", "") == module.__name__]
    return sorted(own or names)
