"""Which fields of a config the source code of transformers reads, file by file."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Never given the config of a text model: they read tokenizers, images, arguments of a training, other file formats.
BLIND = re.compile(
    r"(tokenization|trainer|training_args|convert_|testing_|image_|video_|audio_|feature_extraction|processing_|"
    r"modelcard|hf_argparser|hyperparameter|optimization|integration_utils|sentencepiece|ggml|modeling_gguf).*"
)
BLIND_FOLDERS = {"models", "gguf", "cli", "commands", "exporters", "chat_parsing", "__pycache__"}
# Where `self` is a config, or what one inherits from.
OF_CONFIGS = re.compile(r"configuration_.*|modeling_rope_utils|hub")
CONFIGLIKE = re.compile(r"(conf|cfg)(?!.*(defaults|names|mapping|file|path)$)", re.IGNORECASE)
SEVERAL = re.compile(r"conf\w*s\b|\)$")
ATTRIBUTES = ("getattr", "hasattr", "setattr", "delattr")


@dataclass(frozen=True)
class Reading:
    """How stock code reads a field: at all; and so that null is another thing than no field."""

    at_all: bool = False
    of_null: bool = False


def search(root: Path, model_type: str, names: list[str]) -> dict[str, Reading]:
    """Every file that can see a config, once: which of the names it reads there."""
    at_all, of_null = set(), set()
    words = {name: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)".encode()) for name in names}
    for path in _files(root, model_type):
        data = path.read_bytes()
        made = _constructed(data)
        at_all |= {name for name in names if any(pattern.fullmatch(name) for pattern in made)}
        present = {name for name in names if name.encode() in data and words[name].search(data)}
        of_configs = bool(OF_CONFIGS.fullmatch(path.stem)) or path.parent.name == "heterogeneity"
        if not present and not of_configs:
            continue
        tree = parsed(path)
        if tree is None:  # a file that this Python cannot parse may read anything that it names
            at_all |= present
            of_null |= present
            continue
        reader = _Reader(present, names, of_configs)
        reader.aliases = _aliases(tree)
        reader.visit(tree)
        at_all |= reader.at_all
        if path.parent.name == model_type or path in (root / "configuration_utils.py", root / "modeling_rope_utils.py"):
            of_null |= reader.of_null  # elsewhere caches and masks are chosen, and null chooses as nothing does
    return {name: Reading(name in at_all, name in of_null) for name in names}


def _files(root: Path, model_type: str) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name not in BLIND_FOLDERS)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py") and not BLIND.match(name))
    for name in ("auto", model_type):
        found = sorted((root / "models" / name).glob("*.py"))
        yield from (path for path in found if not BLIND.match(path.name))


CONSTRUCTED = re.compile(rb"""(?:get|has|set|del)attr\([^\n]{0,200}?,\s*f(["'])([^"'\n]*)\1""")


@cache
def _pattern(text: str) -> re.Pattern[str] | None:
    parts = re.split(r"\{[^{}]*\}", text)
    # a name of nothing but a hole says nothing: what it may be stands elsewhere as a word
    return re.compile(r"\w+".join(map(re.escape, parts))) if any(parts) else None


def _constructed(data: bytes) -> list[re.Pattern[str]]:
    """Names of attributes that are put together: `getattr(config, f"{side}_layers")`."""
    found = (_pattern(text.decode(errors="replace")) for _, text in CONSTRUCTED.findall(data))
    return [made for made in found if made]


def _aliases(tree: ast.Module) -> set[str]:
    """Names of a file that may stand for a config though they do not say so."""
    found: set[str] = set()
    for _ in range(2):  # an alias of an alias
        for node in ast.walk(tree):
            pairs: list[tuple[ast.expr | None, ast.expr]] = []
            if isinstance(node, ast.Assign):
                pairs = [(node.value, target) for target in node.targets]
            elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
                pairs = [(node.value, node.target)]
            elif isinstance(node, (ast.For, ast.comprehension)) and re.search(
                r"conf\w*s\b|\)$", ast.unparse(node.iter)
            ):
                pairs = [(node.iter, node.target)]
            elif isinstance(node, ast.arg) and node.annotation and CONFIGLIKE.search(ast.unparse(node.annotation)):
                found.add(node.arg)
            for value, target in pairs:
                if value is not None and _configlike(value, found):
                    found |= {n.id for n in ast.walk(target) if isinstance(n, ast.Name)}
    return found - {"self", "cls"}


def _configlike(node: ast.expr, aliases: set[str]) -> bool:
    """Whether an expression may be a config."""
    if isinstance(node, ast.Name):
        return bool(CONFIGLIKE.search(node.id)) or node.id in aliases
    if isinstance(node, ast.Attribute):
        return bool(CONFIGLIKE.search(node.attr)) or (node.attr == "__dict__" and _configlike(node.value, aliases))
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "getattr" and len(node.args) > 1:  # of a constant name it is what that says
            return bool(CONFIGLIKE.search(ast.unparse(node.args[1])))
        copies = name in ("copy", "deepcopy", "vars", "super", "to_dict", "items", "values", "dict")
        owner = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        return bool(CONFIGLIKE.search(name)) or (
            copies and (name == "super" or any(_configlike(part, aliases) for part in (*node.args, *owner)))
        )
    if isinstance(node, (ast.Subscript, ast.Starred, ast.Await)):
        return _configlike(node.value, aliases)
    if isinstance(node, ast.IfExp):
        return _configlike(node.body, aliases) or _configlike(node.orelse, aliases)
    if isinstance(node, ast.BoolOp):
        return any(_configlike(value, aliases) for value in node.values)
    if isinstance(node, ast.NamedExpr):
        return _configlike(node.value, aliases)
    if isinstance(node, (ast.Tuple, ast.List)):
        return any(_configlike(value, aliases) for value in node.elts)
    return False


class _Reader(ast.NodeVisitor):
    """Collects which of `present` a file reads from a config: as an attribute of one, or as any text that may name one.

    A text is passed over where it is a key of a literal, a docstring, or looks up what is neither a config nor keyword
    arguments. In files of configs, parameters and members count, and a text that begins a longer name.
    """

    def __init__(self, present: set[str], names: list[str], of_configs: bool) -> None:
        self.present, self.names, self.of_configs = present, names, of_configs
        self.aliases: set[str] = set()
        self.at_all: set[str] = set()
        self.of_null: set[str] = set()
        self.passed: set[int] = set()
        self.inside: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._docstring(node)
        if self.of_configs and re.search("Config|Mixin", node.name):
            members = [line.name for line in node.body if isinstance(line, (ast.FunctionDef, ast.ClassDef))]
            targets = [t for line in node.body if isinstance(line, ast.Assign) for t in line.targets]
            targets += [line.target for line in node.body if isinstance(line, ast.AnnAssign)]
            members += [t.id for t in targets if isinstance(t, ast.Name)]
            self.at_all |= self.present & {*members}
            self.of_null |= self.present & {line.name for line in node.body if isinstance(line, ast.FunctionDef)}
        self.inside.append(node.name)
        self.generic_visit(node)
        self.inside.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._docstring(node)
        if self.of_configs and node.name in ("__init__", "__post_init__"):
            args = node.args
            self.at_all |= self.present & {a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
        self.generic_visit(node)

    def _docstring(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        if node.body and isinstance(node.body[0], ast.Expr):
            self.passed.add(id(node.body[0].value))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in self.present and self._is_config(node.value):
            self.at_all.add(node.attr)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        self.passed |= {id(key) for key in node.keys}
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not self._is_mapping(node.value):
            self.passed.add(id(node.slice))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for op, right in zip(node.ops, node.comparators):
            if isinstance(op, (ast.In, ast.NotIn)) and self._name(node.left):
                if self._is_mapping(right):
                    self.of_null.add(node.left.value)  # type: ignore[attr-defined]
                else:
                    self.passed.add(id(node.left))
            elif isinstance(op, (ast.Eq, ast.NotEq)):
                # a text that something is compared with names a field only where names of fields are compared
                self.passed |= set() if self.of_configs else {id(node.left), id(right)}
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ATTRIBUTES and len(node.args) > 1 and self._name(node.args[1]):
            default = node.args[2] if len(node.args) > 2 else None
            if called == "hasattr" or (called == "getattr" and not _nothing(default)):
                self.of_null.add(node.args[1].value)  # type: ignore[attr-defined]
        elif called in ("get", "pop", "setdefault") and node.args and self._name(node.args[0]):
            assert isinstance(node.func, ast.Attribute)
            if not self._is_mapping(node.func.value):
                self.passed.add(id(node.args[0]))
            elif not _nothing(node.args[1] if len(node.args) > 1 else None):
                self.of_null.add(node.args[0].value)  # type: ignore[attr-defined]
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, str) or id(node) in self.passed:
            return
        if node.value in self.present:
            self.at_all.add(node.value)
        elif self.of_configs and len(node.value) > 2 and node.value.isidentifier():
            self.at_all |= {name for name in self.names if name.startswith(node.value.rstrip("_") + "_")}

    def _name(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Constant) and node.value in self.present

    def _is_config(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name) and node.id in ("self", "cls"):
            return self.of_configs and any(re.search("Config|Mixin", name) for name in self.inside)
        return _configlike(node, self.aliases)

    def _is_mapping(self, node: ast.expr) -> bool:
        named = isinstance(node, ast.Name) and "kwargs" in node.id
        return named or self._is_config(node) or (self.of_configs and isinstance(node, ast.Name))


def _nothing(node: ast.expr | None) -> bool:
    """A default that null stands for as well: none, None or false."""
    return node is None or (isinstance(node, ast.Constant) and not node.value)


def parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
