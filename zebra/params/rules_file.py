"""Reads the rules of a campaign from a YAML file; every error is one line that begins with file and line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from zebra.errors import ConfigError
from zebra.params.parameter import Profile, Space, Value
from zebra.params.rules import Constraint, Rules

SECTIONS = ("values", "exclude", "constraints", "profiles")


def read_rules(path: Path, space: Space) -> Rules:
    """The rules in a file, checked against a space. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    return _File(path, space).rules(text)


class _File:
    """One file. Scalars stay text, as `on` and `0755` are what a person wrote: the parameters' types read them."""

    def __init__(self, path: Path, space: Space) -> None:
        self.path, self.space = path, space

    def rules(self, text: str) -> Rules:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark is not None else 1
            raise ConfigError(f"{self.path}:{line}: not YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{self.path}: not YAML: {str(error).splitlines()[0]}") from None
        sections = self.mapping(root, "the file") if root is not None else {}
        rules = Rules()
        for key in sections:
            if key.value not in SECTIONS:
                raise self.wrong(key, f"unknown section {key.value!r}, known are {', '.join(SECTIONS)}")
        ordered = sorted(sections.items(), key=lambda item: SECTIONS[::-1].index(item[0].value))  # profiles first
        for key, node in ordered:
            for each, where in getattr(self, key.value)(node):
                with self.at(where):
                    (rules + each).applied(self.space)
                rules += each
        return rules

    # -- the sections ----------------------------------------------------------------------------------------

    def values(self, node: yaml.Node) -> Iterator[tuple[Rules, yaml.Node]]:
        for key, listed in self.mapping(node, "values").items():
            yield Rules(values={key.value: self.texts(listed, f"values of {key.value}")}), key

    def exclude(self, node: yaml.Node) -> Iterator[tuple[Rules, yaml.Node]]:
        for key, said in self.mapping(node, "exclude").items():
            if isinstance(said, yaml.MappingNode):
                reasons = {v.value: self.reason(why) for v, why in self.mapping(said, key.value).items()}
                yield Rules(exclude_values={key.value: reasons}), key
            else:
                yield Rules(exclude={key.value: self.reason(said)}), key

    def constraints(self, node: yaml.Node) -> Iterator[tuple[Rules, yaml.Node]]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.wrong(node, "constraints: expected a list of {when: …, set: …}")
        for item in node.value:
            parts = {key.value: (key, part) for key, part in self.mapping(item, "a constraint").items()}
            if set(parts) != {"when", "set"}:
                raise self.wrong(
                    item, f"a constraint has `when` and `set`, this one has {', '.join(parts) or 'nothing'}"
                )
            when = self.mapping(parts["when"][1], "when")
            if len(when) != 1:
                raise self.wrong(parts["when"][0], f"`when` names one parameter, this one {len(when)}")
            ((key, values),) = when.items()
            settings = self.mapping(parts["set"][1], "set")
            if not settings:
                raise self.wrong(parts["set"][0], "`set` names no parameter")
            wanted = {k.value: self.text(v, k.value) for k, v in settings.items()}
            yield Rules(constraints=(Constraint(key.value, self.texts(values, key.value), wanted),)), item

    def profiles(self, node: yaml.Node) -> Iterator[tuple[Rules, yaml.Node]]:
        for key, listed in self.mapping(node, "profiles").items():
            values: dict[str, dict[str, Value]] = {}
            for value, settings in self.mapping(listed, key.value).items():
                pairs = self.mapping(settings, f"{key.value}={value.value}").items()
                values[value.value] = {k.value: self.text(v, k.value) for k, v in pairs}
            yield Rules(profiles=(Profile(key.value, values),)), key

    # -- nodes -----------------------------------------------------------------------------------------------

    def mapping(self, node: yaml.Node, what: str) -> dict[yaml.ScalarNode, yaml.Node]:
        """The pairs of a mapping, whose keys are text and different."""
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"{what}: expected `name: …` pairs")
        seen = set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.wrong(key, f"{what}: a name is text, not a list or mapping")
            if key.value in seen:
                raise self.wrong(key, f"{what}: {key.value!r} stands here twice")
            seen.add(key.value)
        return dict(node.value)

    def text(self, node: yaml.Node, what: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.wrong(node, f"{what}: expected one value")
        return str(node.value)

    def texts(self, node: yaml.Node, what: str) -> tuple[str, ...]:
        if not isinstance(node, yaml.SequenceNode):
            return (self.text(node, what),)
        if not node.value:
            raise self.wrong(node, f"{what}: expected a value at least")
        return tuple(self.text(each, what) for each in node.value)

    def reason(self, node: yaml.Node) -> str:
        text = self.text(node, "exclude").strip()
        if not text:
            raise self.wrong(node, "exclude: say the reason, it stands in the report")
        return text

    def wrong(self, node: yaml.Node, what: str) -> ConfigError:
        return ConfigError(f"{self.path}:{node.start_mark.line + 1}: {what}")

    @contextmanager
    def at(self, node: yaml.Node) -> Iterator[None]:
        """Says where in the file an error is."""
        try:
            yield
        except ConfigError as error:
            raise self.wrong(node, str(error)) from None
