"""The page of all error messages, docs/errors.md, made from the source of the package.

python -m jax_itm.config.messages > docs/errors.md

A value in a message is shown as its name in the source, in angle brackets. The advice on the most likely
messages is in `advice.py`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from jax_itm.config.advice import ADVICE, NEAREST

PACKAGE = Path(__file__).resolve().parents[1]
# What a user sees; `ValueError` and the like become the end of a line that begins with the file.
RAISED = (
    "ArgumentError",
    "ArgumentTypeError",
    "HTTPException",
    "PeerTimeout",
    "ReadError",
    "RuntimeError",
    "UserError",
    "ValueError",
)
LIKE_THEIR_ARGUMENT = (
    "float",
    "int",
    "list",
    "listed",
    "max",
    "min",
    "next",
    "repr",
    "sorted",
    "str",
    "type",
)

INTRODUCTION = """# Errors

An error that a user can cause ends in one line, `jax_itm: MESSAGE`, with exit status 2 (75 where another
process was lost and the same command may succeed later). `python -m jax_itm --debug COMMAND ..` shows the
traceback. In Python it is `jax_itm.errors.UserError`; functions of the library raise `ArgumentError`, which
is a `ValueError`, too.

Below are all {count} messages, by package and module. A name in angle brackets stands for a value. Messages
without a file or field are the last part of a longer line that names one. To find yours, search the page
for a few words that do not change. This page is generated:
`python -m jax_itm.config.messages > docs/errors.md`.

One message rewords an error of JAX: `a device has too little memory` ([memory](training.md#memory)).

## What to do

"""


def errors_page() -> str:
    """The page."""
    rooms = messages()
    count = sum(len(texts) for modules in rooms.values() for texts in modules.values())
    rows = [f"| {_code(text)} | {advice} |" for text, advice in ADVICE.items()]
    parts = [
        INTRODUCTION.format(count=count),
        "| message | what to do |\n| --- | --- |\n",
        "\n".join(rows),
        "\n",
    ]
    for room, modules in rooms.items():
        parts.append(f"\n## {room}\n")
        for module, texts in modules.items():
            parts += [f"\n`{module}`\n\n", *(f"- {_code(text)}\n" for text in texts)]
    return "".join(parts)


def messages() -> dict[str, dict[str, list[str]]]:
    """{package: {module: its messages, in the order of the source}}."""
    rooms: dict[str, dict[str, list[str]]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        if texts := list(dict.fromkeys(messages_of(file.read_text()))):
            path = file.relative_to(PACKAGE)
            room = path.parts[0] if len(path.parts) > 1 else "jax_itm"
            rooms.setdefault(room, {})[path.as_posix()] = texts
    return rooms


def messages_of(source: str) -> Iterator[str]:
    """The messages that a module's `raise` statements have, and those of `UserError`s that it only makes.

    >>> list(messages_of("if x: raise UserError(f'config.{name}={value!r}: must be {what[0]}')"))
    ['config.<name>=<value>: must be <what>']
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        if name in RAISED and call.args:
            for text in _alternatives(call.args[-1]):
                if text.strip("<>. ") and not (text.startswith("<") and text.find(">") == len(text) - 1):
                    yield " ".join(text.split())


def _alternatives(node: ast.expr) -> list[str]:
    """The texts that an expression may be."""
    if isinstance(node, ast.IfExp):
        return _alternatives(node.body) + _alternatives(node.orelse)
    return [_text(node)]


def _text(node: ast.expr) -> str:
    """The text that an expression gives, with names for values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.Call) and _name(node.func) == "nearest":
        return NEAREST
    return f"<{_name(node).strip()}>"


def _name(node: ast.expr) -> str:
    """What to call a value: the last name of what it is taken from."""
    if isinstance(node, ast.Name):
        return node.id.strip("_").replace("_", " ")
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Attribute):
        return _name(node.value) if node.attr.startswith("__") else node.attr.replace("_", " ")
    if isinstance(node, ast.Subscript | ast.Starred):
        return _name(node.value)
    if isinstance(node, ast.BinOp):
        return _name(node.left)
    if isinstance(node, ast.IfExp):
        return " or ".join(text.strip("<> ") for text in _alternatives(node) if text.strip())
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return _name(node.elt)
    return _name_of_call(node) if isinstance(node, ast.Call) else ".."


def _name_of_call(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        if function.attr == "join" and node.args:
            return _name(node.args[0]) + (", .." if "," in _text(function.value) else "")
        return _name(function.value if not node.args else function)
    name = _name(function)
    if name == "len" and node.args:
        return f"number of {_name(node.args[0])}"
    if name == "map" and len(node.args) > 1:
        return _name(node.args[1])
    return _name(node.args[0]) if name in LIKE_THEIR_ARGUMENT and node.args else name


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    print(errors_page(), end="")
