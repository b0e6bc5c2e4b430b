"""What the shell may offer next: kubectl's own completion asks a plugin through `kubectl_complete-svcroute`.

kubectl (1.26 and later) runs it with the words behind `kubectl svcroute`, the last of which is the one being typed, and
reads what cobra's completions print: `value<TAB>help` lines, then a directive. Silence is the answer to whatever fails: a
completion that prints an error ruins the line that somebody is typing.

What can be told from the command line's own definition costs no more than that; only names of a cluster load more.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import click

from ..render import FORMATS

Offer = tuple[str, str]
"""A value, and a few words about it."""

NO_FILES, FILES = 4, 0
"""cobra's ShellCompDirective: NoFileComp, and Default, where the shell offers files."""

_FILES = {"kubeconfig", "identities", "ssh_config", "snapshot", "output_file", "certificate_authority", "path", "reports"}
_NAMES = {"names": "services", "service": "services", "services": "services", "nodes": "nodes", "node": "nodes",
          "namespace": "namespaces", "kube_context": "contexts", "cluster": "clusters", "user": "users",
          "selector": "labels"}  # fmt: skip
"""Parameter -> what of the cluster or the kubeconfig it names."""


def complete(words: Sequence[str]) -> tuple[list[Offer], int]:
    """What may stand in place of the last word, and what the shell shall do besides."""
    from .root import LAZY, cli, route  # noqa: PLC0415 - the command line itself, and no more

    before, typed = list(words[:-1]), words[-1] if words else ""
    routed = route(before)
    command, rest = _command(cli, routed)
    found = _Line(command, rest)
    top = routed[0] == "check"
    if found.pending is not None:
        return _values(found.pending, typed, found)
    if typed.startswith("--") and "=" in typed:
        name, _, value = typed.partition("=")
        option = found.options.get(name)
        if option is None or _flag(option):
            return [], NO_FILES
        offers, directive = _values(option, value, found)
        return [(f"{name}={offer}", words) for offer, words in offers], directive
    if typed.startswith("-") and not found.only_arguments:
        return [offer for offer in found.flags() if offer[0].startswith(typed)], NO_FILES
    if isinstance(command, click.Group):
        return _starting(((name, one.get_short_help_str(70)) for name, one in command.commands.items()), typed), NO_FILES
    offers = []
    if top and not found.arguments:
        offers = _starting(LAZY.items(), typed)
    argument = found.next_argument()
    if argument is None:
        return offers, NO_FILES
    more, directive = _values(argument, typed, found)
    return [*offers, *more], directive


def _command(group: click.Group, words: Sequence[str]) -> tuple[click.Command, list[str]]:
    """The command that words lead to, through groups, and the words that are its own."""
    command: click.Command = group
    left = list(words)
    while isinstance(command, click.Group) and left:
        inner = command.get_command(click.Context(command), left[0])
        if inner is None:
            break
        command = inner
        left.pop(0)
    return command, left


def _flag(option: click.Option) -> bool:
    return option.is_flag or option.count


class _Line:
    """A command, and the words that were typed for it: options with their values, arguments, and what waits for a value."""

    def __init__(self, command: click.Command, words: Sequence[str]) -> None:
        self.command = command
        own = [p for p in command.params if isinstance(p, click.Option)]
        self.options = {name: option for option in own for name in (*option.opts, *option.secondary_opts)}
        self.arguments: list[str] = []
        self.given: dict[str, list[str]] = {}
        self.pending: click.Option | None = None
        self.only_arguments = False
        left = list(words)
        while left:
            word = left.pop(0)
            name, equals, value = word.partition("=")
            if self.only_arguments or not word.startswith("-") or word == "-":
                self.arguments.append(word)
            elif word == "--":
                self.only_arguments = True
            elif name in self.options:
                option = self.options[name]
                if _flag(option):
                    self._give(option, "")
                elif equals:
                    self._give(option, value)
                elif left:
                    self._give(option, left.pop(0))
                else:
                    self.pending = option
            elif word[:2] in self.options:  # -nshop
                self._give(self.options[word[:2]], word[2:])

    def _give(self, option: click.Option, value: str) -> None:
        self.given.setdefault(str(option.name), []).append(value)

    def value(self, name: str) -> str | None:
        """The last value of an option; None when it was not given."""
        return self.given.get(name, [None])[-1]

    def flags(self) -> list[Offer]:
        """Options that may still be given."""
        found = []
        for option in self.command.params:
            if not isinstance(option, click.Option) or option.hidden:
                continue
            if option.name in self.given and not (option.multiple or option.count):
                continue
            found += [(name, _first_sentence(option.help or "")) for name in option.opts]
        return [*found, ("--help", "Show this message and exit.")]

    def next_argument(self) -> click.Argument | None:
        """The argument that the next word is."""
        count = len(self.arguments)
        for argument in self.command.params:
            if isinstance(argument, click.Argument):
                if argument.nargs == -1 or count < argument.nargs:
                    return argument
                count -= argument.nargs
        return None


def _values(parameter: click.Parameter, typed: str, line: _Line) -> tuple[list[Offer], int]:
    """What a parameter may be."""
    name = str(parameter.name)
    if isinstance(parameter.type, click.Choice):
        return _starting(((str(one), "") for one in parameter.type.choices), typed), NO_FILES
    if name in _FILES or isinstance(parameter.type, click.Path | click.File):
        return [], FILES
    if name in ("outputs", "output"):
        if "=" in typed:
            return [], FILES
        listed = re.search(r"One of ([\w, -]+)", getattr(parameter, "help", None) or "")
        return _starting(((one, "") for one in (listed[1].split(", ") if listed else FORMATS)), typed), NO_FILES
    if name in ("code", "codes"):
        return _codes(typed), NO_FILES
    if name in _NAMES:
        from .complete_names import names  # noqa: PLC0415 - reads a cluster

        if line.command.name == "demo":
            line.given["snapshot"] = ["demo"]
        if _NAMES[name] == "services":
            if "all_namespaces" in line.given or "selector" in line.given:
                return [], NO_FILES  # these and names exclude each other
            kind, slash, rest = typed.rpartition("/")
            if slash and kind not in ("svc", "service", "services"):
                return [], NO_FILES
            offers = _starting(names("services", line.given), rest)
            taken = {word.rpartition("/")[2] for word in line.arguments}
            return [(f"{kind}{slash}{one}", about) for one, about in offers if one not in taken], NO_FILES
        taken = set(line.given.get(name, ()))
        if _NAMES[name] == "labels":
            done, comma, rest = typed.rpartition(",")
            return [(f"{done}{comma}{one}", about) for one, about in _starting(names("labels", line.given), rest)], NO_FILES
        return [offer for offer in _starting(names(_NAMES[name], line.given), typed) if offer[0] not in taken], NO_FILES
    return [], NO_FILES


def _codes(typed: str) -> list[Offer]:
    from ..checks.registry import CODES  # noqa: PLC0415 - for `explain` alone

    if typed[:1].islower() and not "sr".startswith(typed[:2]) and not typed.startswith("sr"):
        return _starting(((code.name, code.title) for code in CODES.values()), typed)
    return _starting(((code.code, f"{code.name}: {code.title}") for code in CODES.values()), typed.upper())


def _starting(offers: Iterable[Offer], typed: str) -> list[Offer]:
    return [offer for offer in offers if offer[0].startswith(typed)]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[\w)])[.;:](?:\s|$)| \(", " ".join(text.split()))[0]


def answer(words: Sequence[str]) -> str:
    """What is printed: cobra's lines, and its directive."""
    offers, directive = complete(words)
    lines = []
    for value, about in offers:
        # Names may come from a snapshot that somebody sent: nothing that a name cannot hold reaches the shell.
        if value.isprintable() and not any(c.isspace() for c in value):
            clean = "".join(c for c in " ".join(about.split()) if c.isprintable())
            lines.append(f"{value}\t{clean}" if clean else value)
    return "".join(f"{line}\n" for line in (*lines, f":{directive}"))


def main(words: Sequence[str] | None = None) -> NoReturn:
    """`kubectl_complete-svcroute WORDS…`."""
    from .process import prepare  # noqa: PLC0415

    prepare()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace")
    # Whatever a library or a credential plugin says would end up in the line that is being typed.
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    text = f":{NO_FILES}\n"
    status: Any = 0
    try:
        text = answer(sys.argv[1:] if words is None else words)
    except (Exception, KeyboardInterrupt):
        status = 1
    with out:
        out.write(text)
    # Not sys.exit: a thread that still waits for a server must not be waited for.
    os._exit(status)
