"""Options that mean nothing in a call are refused: whoever gives one expects it to change something."""

from __future__ import annotations

from collections.abc import Collection

import typer


def refuse(context: typer.Context, call: str, options: Collection[str], alone: str) -> None:
    """Raise ValueError that names those of ``options``, by their parameters' names, which the user gave.

    ``call``: the one that was made, as the user knows it. ``alone``: with what such options mean something.
    """
    found = []
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        # By name: the enumeration is click's or typer's own, by typer's version.
        if name in options and source is not None and source.name == "COMMANDLINE":
            spelled = parameter.opts if context.params[name] is not False else parameter.secondary_opts
            found.append(spelled[0])
    if found:
        verb, them = ("changes", "it") if len(found) == 1 else ("change", "them")
        raise ValueError(f"{call}: {', '.join(found)} {verb} nothing here, only {alone}; leave {them} out")
