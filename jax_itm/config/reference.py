"""Generates the reference page of all fields, docs/configuration.md.

python -m jax_itm.config.reference > docs/configuration.md
"""

import html
from collections.abc import Iterator

from jax_itm.config.fields import COMMON, Field, Section
from jax_itm.config.loss_fields import CROSS_LOSSES, HEAD, LOSSES, MATCHER, MINING, UNITER, model_fields
from jax_itm.config.presets import PRESETS

INTRODUCTION = """# Configuration

A run is described by one `ml_collections.ConfigDict`. A file in `configs/` starts from a preset and changes
fields:

    from jax_itm.config import default

    def get_config():
        config = default("sigmoid")
        config.name = "mine"
        config.losses.dimension.weight = 0.5
        return config

`--config.losses.dimension.weight=0.5` does the same on the command line, and `python -m jax_itm config FILE`
prints every field with its value and where it came from. Unknown fields, values of another type and values
out of range are errors.

A *duration* is a string: `"1000 steps"`, `"30 epochs"` (an epoch is one pass over the training captions) or
`"1e6 examples"`. Fields marked **resume** may change when a run resumes, those marked **host** may differ
between the hosts of one run. This page is generated:
`python -m jax_itm.config.reference > docs/configuration.md`.
"""


def reference() -> str:
    """The page."""
    parts = [INTRODUCTION, "## Presets\n", _presets(), "## Common fields\n", _table(COMMON)]
    parts += [_titled(section, name) for name, section in _sections(COMMON)]
    parts.append("## Loss terms of a dual encoder\n")
    parts += [_titled(term, f"losses.{name}") for name, term in LOSSES.items()]
    score = {"score": model_fields("dual_encoder")["score"]}
    parts += ["### `config.head` and `config.score`\n", _table(HEAD, "head"), _table(score)]
    parts.append("## A cross-encoder\n")
    parts += [_titled(term, f"losses.{name}") for name, term in CROSS_LOSSES.items()]
    parts += [_titled(MINING, "mining"), _titled(UNITER, "uniter")]
    parts.append("## A matcher on the tokens of a dual encoder\n")
    parts += ["The loss terms and the mining of a cross-encoder, and:\n", _titled(MATCHER, "matcher")]
    return "\n".join(parts)


def _sections(section: Section) -> Iterator[tuple[str, Section]]:
    for name, entry in section.items():
        if not isinstance(entry, Field) and entry:
            yield name, entry


def _presets() -> str:
    lines = ["| preset | kind of model | what it changes | source |", "| --- | --- | --- | --- |"]
    for name, preset in PRESETS.items():
        changes = ", ".join(f"`{field}={value!r}`" for field, value in preset.fields.items())
        lines.append(f"| `{name}` | {preset.model} | {changes} | {preset.source} |")
    return "\n".join(lines) + "\n"


def _titled(section: Section, name: str) -> str:
    return f"### `config.{name}`\n\n{_table(section, name)}"


def _table(section: Section, prefix: str = "") -> str:
    lines = ["| field | default | values | meaning |", "| --- | --- | --- | --- |"]
    for name, field in _leaves(section, prefix):
        marks = " **resume**" * field.resume + " **host**" * field.per_host
        lines.append(f"| `{name}` | {_code(field.default)} | {_values(field)} | {field.help}{marks} |")
    return "\n".join(lines) + "\n"


def _code(value: object) -> str:
    """A value as code in a table, whose cells end at a bar: GitHub and the site escape one differently."""
    text = repr(value)
    return (
        f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"
        if "|" in text
        else f"`{text}`"
    )


def _leaves(section: Section, prefix: str) -> Iterator[tuple[str, Field]]:
    """The fields of a section, and of those inside it that have no table of their own."""
    for name, entry in section.items():
        dotted = f"{prefix}.{name}" if prefix else name
        if isinstance(entry, Field):
            yield dotted, entry
        elif prefix:
            yield from _leaves(entry, dotted)


def _values(field: Field) -> str:
    if field.choices:
        return ", ".join(f"`{choice}`" for choice in field.choices)
    if field.duration:
        return "durations" if isinstance(field.default, tuple) else "a duration"
    limits = [
        (field.at_least, "at least"),
        (field.above, "above"),
        (field.at_most, "at most"),
        (field.below, "below"),
    ]
    said = [f"{words} {limit:,}" for limit, words in limits if limit is not None and limit < 2**31 - 1]
    return ", ".join(said) or type(field.default).__name__


if __name__ == "__main__":
    print(reference(), end="")
