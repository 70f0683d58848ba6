"""Which fields of a config the source code of transformers reads, file by file.

A file is read and parsed once in a process, and then tells of any field: installed packages do not change meanwhile.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from grow.architectures.stock_files import parsed, stock_files

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
CONFIG_CLASS = re.compile("Config|Mixin")
ATTRIBUTES = ("getattr", "hasattr", "setattr", "delattr")
CONSTRUCTED = re.compile(rb"""(?:get|has|set|del)attr\([^\n]{0,200}?,\s*f(["'])([^"'\n]*)\1""")


@dataclass(frozen=True)
class Reading:
    """Whether stock code reads a field at all, and whether null then differs from a missing field."""

    at_all: bool = False
    of_null: bool = False


def search(root: Path, model_type: str, names: Iterable[str]) -> dict[str, Reading]:
    """How each of the fields is read, by any file that can see a config."""
    names, at_all, of_null = [*names], set[str](), set[str]()
    words = {name: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)".encode()) for name in names}
    own = (root / "configuration_utils.py", root / "modeling_rope_utils.py")
    place = stock_files(root, model_type)
    for path in _files(root, model_type):
        file = _source_file(path)
        at_all |= {name for name in names if file.constructs(name)}
        present = {name for name in names if name.encode() in file.data and words[name].search(file.data)}
        if not present and not file.of_configs:  # most files: they need not be parsed
            continue
        reads = file.reads
        if reads is None:  # a file that this Python cannot parse may read anything that it names
            at_all |= present
            of_null |= present
            continue
        at_all |= present & reads.at_all
        at_all |= {name for name in names if any(name.startswith(start) for start in reads.starts)}
        if (place and path.parent == place.config.parent) or path in own:
            of_null |= present & reads.of_null  # elsewhere caches and masks are chosen, and null is a choice like none
    return {name: Reading(name in at_all, name in of_null) for name in names}


class _SourceFile:
    """One file of the package: its bytes, and once somebody asks what it reads of configs."""

    def __init__(self, path: Path) -> None:
        self.path, self.data = path, path.read_bytes()
        self.of_configs = bool(OF_CONFIGS.fullmatch(path.stem)) or path.parent.name == "heterogeneity"

    @cached_property
    def reads(self) -> _Reads | None:
        """None for a file that this Python cannot parse."""
        tree = parsed(self.path)
        if tree is None:
            return None
        reads = _Reads(_aliases(tree), self.of_configs)
        reads.visit(tree)
        return reads

    @cached_property
    def _constructed(self) -> list[re.Pattern[str]]:
        patterns = (_pattern(text.decode(errors="replace")) for _, text in CONSTRUCTED.findall(self.data))
        return [pattern for pattern in patterns if pattern]

    def constructs(self, name: str) -> bool:
        """Whether it puts together names of attributes that may be this one: `getattr(config, f"{side}_layers")`."""
        return any(pattern.fullmatch(name) for pattern in self._constructed)


_source_file = cache(_SourceFile)


@cache
def _files(root: Path, model_type: str) -> tuple[Path, ...]:
    """Every file that can see a config of this type."""
    files: list[Path] = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if name not in BLIND_FOLDERS)
        files += (Path(folder, name) for name in sorted(names) if name.endswith(".py") and not BLIND.match(name))
    place = stock_files(root, model_type)
    for of in (root / "models" / "auto", *([place.config.parent] if place else [])):
        files += (path for path in sorted(of.glob("*.py")) if not BLIND.match(path.name))
    return tuple(files)


@cache
def _pattern(text: str) -> re.Pattern[str] | None:
    parts = re.split(r"\{[^{}]*\}", text)
    # a name of nothing but a hole says nothing: what it may be stands elsewhere as a word
    return re.compile(r"\w+".join(map(re.escape, parts))) if any(parts) else None


def _aliases(tree: ast.Module) -> set[str]:
    """Names of a file that may stand for a config though they do not say so."""
    given: list[tuple[ast.expr | None, set[str]]] = []  # (what is assigned, to which names); None: a config anyway
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            given += [(node.value, _names_in(target)) for target in node.targets]
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            given += [(node.value, _names_in(node.target))] if node.value is not None else []
        elif isinstance(node, (ast.For, ast.comprehension)) and SEVERAL.search(ast.unparse(node.iter)):
            given.append((node.iter, _names_in(node.target)))
        elif isinstance(node, ast.arg) and node.annotation and CONFIGLIKE.search(ast.unparse(node.annotation)):
            given.append((None, {node.arg}))
    aliases: set[str] = set()
    for _ in range(2):  # an alias of an alias
        for value, names in given:
            if value is None or _configlike(value, aliases):
                aliases |= names
    return aliases - {"self", "cls"}


def _names_in(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


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


class _Reads(ast.NodeVisitor):
    """The names that a file reads from configs: as an attribute of one, or as any text that may name one.

    at_all   every such name
    of_null  those for which null is another thing than no field
    starts   how longer names begin that the file may put together; of files of configs alone

    A text is passed over where it is a key of a literal, a docstring, or looks up what is neither a config nor keyword
    arguments. In files of configs, parameters and members count.
    """

    def __init__(self, aliases: set[str], of_configs: bool) -> None:
        self.at_all: set[str] = set()
        self.of_null: set[str] = set()
        self.starts: set[str] = set()
        self._aliases, self._of_configs = aliases, of_configs
        self._passed: set[int] = set()
        """Constants that are not names of fields."""
        self._looks_up: set[int] = set()
        """Those that look something up elsewhere, and may be the start of a name all the same."""
        self._inside: list[str] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._docstring(node)
        if self._of_configs and CONFIG_CLASS.search(node.name):
            functions = {line.name for line in node.body if isinstance(line, ast.FunctionDef)}
            classes = {line.name for line in node.body if isinstance(line, ast.ClassDef)}
            targets = [target for line in node.body if isinstance(line, ast.Assign) for target in line.targets]
            targets += [line.target for line in node.body if isinstance(line, ast.AnnAssign)]
            variables = {target.id for target in targets if isinstance(target, ast.Name)}
            self.at_all |= functions | classes | variables
            self.of_null |= functions
        self._inside.append(node.name)
        self.generic_visit(node)
        self._inside.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._docstring(node)
        if self._of_configs and node.name in ("__init__", "__post_init__"):
            args = node.args
            self.at_all |= {arg.arg for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
        self.generic_visit(node)

    def _docstring(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        if node.body and isinstance(node.body[0], ast.Expr):
            self._passed.add(id(node.body[0].value))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr not in self.at_all and self._is_config(node.value):
            self.at_all.add(node.attr)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        self._passed |= {id(key) for key in node.keys}
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not self._is_mapping(node.value):
            self._passed.add(id(node.slice))
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for op, right in zip(node.ops, node.comparators):
            if isinstance(op, (ast.In, ast.NotIn)) and (name := _text(node.left)) is not None:
                if self._is_mapping(right):
                    self.of_null.add(name)
                else:
                    self._looks_up.add(id(node.left))
            elif isinstance(op, (ast.Eq, ast.NotEq)):
                # a text that something is compared with names a field only where names of fields are compared
                self._passed |= set() if self._of_configs else {id(node.left), id(right)}
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ATTRIBUTES and len(node.args) > 1 and (name := _text(node.args[1])) is not None:
            default = node.args[2] if len(node.args) > 2 else None
            if called == "hasattr" or (called == "getattr" and not _nothing(default)):
                self.of_null.add(name)
        elif (
            isinstance(node.func, ast.Attribute)
            and called in ("get", "pop", "setdefault")
            and node.args
            and (name := _text(node.args[0])) is not None
        ):
            if not self._is_mapping(node.func.value):
                self._looks_up.add(id(node.args[0]))
            elif not _nothing(node.args[1] if len(node.args) > 1 else None):
                self.of_null.add(name)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if not isinstance(text, str) or id(node) in self._passed:
            return
        if id(node) not in self._looks_up:
            self.at_all.add(text)
        if self._of_configs and len(text) > 2 and text.isidentifier():
            self.starts.add(text.rstrip("_") + "_")

    def _is_config(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name) and node.id in ("self", "cls"):
            return self._of_configs and any(CONFIG_CLASS.search(name) for name in self._inside)
        return _configlike(node, self._aliases)

    def _is_mapping(self, node: ast.expr) -> bool:
        named = isinstance(node, ast.Name) and "kwargs" in node.id
        return named or self._is_config(node) or (self._of_configs and isinstance(node, ast.Name))


def _text(node: ast.expr) -> str | None:
    """The text that a constant is, None for everything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _nothing(node: ast.expr | None) -> bool:
    """Whether null stands for this default as well: none, None or false."""
    return node is None or (isinstance(node, ast.Constant) and not node.value)
