"""The manual page, from what the parser of the command line knows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from proxy.cli import main

PAGE = Path("deploy/man/fairlead.1")

_END = r"""
.SH EXIT STATUS
0: done. 1: failed at run time. 2: bad usage, or a bad configuration.
.SH ENVIRONMENT
.TP
.B FAIRLEAD_ADMIN_TOKEN
Token for the commands that ask a running proxy.
.TP
.B _FAIRLEAD_COMPLETE
.B bash_source
.RB , " zsh_source " or " fish_source" :
print what makes a shell complete commands and options; see below.
.SH COMPLETION
.nf
bash:  eval "$(_FAIRLEAD_COMPLETE=bash_source fairlead)"   in ~/.bashrc
zsh:   eval "$(_FAIRLEAD_COMPLETE=zsh_source fairlead)"    in ~/.zshrc
fish:  _FAIRLEAD_COMPLETE=fish_source fairlead | source    in ~/.config/fish/config.fish
.fi
.SH SIGNALS
.B fairlead run
stops gracefully at SIGTERM and SIGINT (a second one stops at once), reads its configuration again
at SIGHUP, reopens the access log at SIGUSR1, and replaces itself by what is installed at SIGUSR2.
.SH FILES
.I proxy.yaml
in the working directory, unless
.B \-c
names another one.
"""


def page() -> str:
    """The page, in the macros of man(7)."""
    return "\n".join(_lines()) + _END


def _lines() -> Iterator[str]:
    yield '.\\" Made by `make docs`.'
    yield ".TH FAIRLEAD 1"
    yield ".SH NAME"
    yield "fairlead \\- a service-discovery reverse proxy"
    yield ".SH SYNOPSIS"
    yield ".B fairlead"
    yield ".I COMMAND"
    yield "[options]"
    yield ".SH COMMANDS"
    yield from _commands(main, click.Context(main, info_name="fairlead", **main.context_settings))


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            within = click.Context(command, context, info_name=name)
            yield from _command(command, within)
            if isinstance(command, click.Group):
                yield from _commands(command, within)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    pieces = [context.command_path, *command.collect_usage_pieces(context)]
    yield f'.SS "{_plain(" ".join(pieces))}"'
    for paragraph in (command.help or "").split("\n\n"):
        yield ".PP"
        yield _plain(" ".join(paragraph.split()))
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield ".TP"
            yield f".B {_plain(record[0])}"
            yield _plain(record[1])


def _plain(text: str) -> str:
    """Text that is no request and holds no escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    text = re.sub(r"[^ -~]", lambda found: f"\\[u{ord(found[0]):04X}]", text)
    return re.sub(r"^([.'])", r"\\&\1", text)


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(), "utf-8")
