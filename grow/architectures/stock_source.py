"""What the installed transformers does with a config, read from its source code.

    fields    name -> annotation and default of every field of the config class (a strict dataclass refuses others)
    classes   the model classes of the family
    reads     whether any code that can see a config reads a field of that name, and whether null is then no value

Importing a config class would import torch, and a plan needs none. Where the source has another form than these rules
know (another version), less is known: then nothing counts as unread.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from grow.files.json_floats import is_special

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
class Declared:
    """A field of the config class: what its annotation admits, and the bounds of its validator."""

    annotation: ast.expr
    default: ast.expr | None

    @property
    def words(self) -> str:
        """`float | int`"""
        return ast.unparse(self.annotation)

    def admits(self, value: Any) -> bool:
        """Whether stock code lets a field have this value, as far as its declaration says."""
        return _admits(self.annotation, value) and self._within(value)

    @property
    def bounds(self) -> dict[str, float]:
        """`interval(min=0.0, max=1.0)(default=0.02)` -> {"min": 0.0, "max": 1.0}"""
        call = self.default.func if isinstance(self.default, ast.Call) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "interval":
            return {}
        found = {str(k.arg): k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        return {name: n for name, n in found.items() if name in ("min", "max") and isinstance(n, (int, float))}

    @property
    def unset(self) -> bool:
        """Whether the field is null where config.json leaves it out."""
        return isinstance(self.default, ast.Constant) and self.default.value is None

    def _within(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return True
        bounds = self.bounds
        return bounds.get("min", value) <= value <= bounds.get("max", value)


@dataclass(frozen=True)
class Reading:
    """How stock code reads a field: at all; and so that null is another thing than no field."""

    at_all: bool = False
    of_null: bool = False


@dataclass(frozen=True)
class Stock:
    """The source of one model type. `fields` is empty where this version declares none."""

    model_type: str
    fields: Mapping[str, Declared] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    root: Path | None = None
    _found: dict[str, Reading] = field(default_factory=dict, repr=False, compare=False)

    def readings(self, names: Iterable[str]) -> dict[str, Reading]:
        """How each of these is read; as if it were, where there is no source to tell."""
        names = [*names]
        if self.root is None:
            return dict.fromkeys(names, Reading(True, True))
        wanted = [name for name in names if name not in self._found]
        if wanted:
            self._found.update(_search(self.root, self.model_type, wanted))
        return {name: self._found[name] for name in names}

    @cached_property
    def generates(self) -> frozenset[str]:
        """Fields that only generation takes from a config: the parameters of the generation config."""
        tree = _parsed(self.root / "generation" / "configuration_utils.py") if self.root else None
        wanted = [node for node in ast.walk(tree) if _is_class(node, "GenerationConfig")] if tree else []
        popped = (node for found in wanted for node in ast.walk(found) if isinstance(node, ast.Call))
        return frozenset(
            str(call.args[0].value)
            for call in popped
            if _is_call_of(call, "kwargs", "pop") and call.args and isinstance(call.args[0], ast.Constant)
        )


@cache
def stock_of(model_type: str) -> Stock:
    """The stock code of a model type; one that knows nothing when transformers is not there or has no such type."""
    root, name = root_of_transformers(), _module(model_type)
    folder = folder_of(model_type)
    if root is None or folder is None:
        return Stock(model_type)
    tree = _parsed(folder / f"configuration_{name}.py")
    base = _parsed(root / "configuration_utils.py")
    if tree is None or base is None:
        return Stock(model_type)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and _says(node, model_type)]
    common = [node for node in base.body if isinstance(node, ast.ClassDef) and node.name == "PreTrainedConfig"]
    strict = classes and any("strict" in ast.unparse(d) for d in classes[0].decorator_list)
    fields = dict(_declared(common[0])) | dict(_declared(classes[0])) if strict and common else {}
    models = _parsed(folder / f"modeling_{name}.py")
    return Stock(model_type, fields, _exported(models) if models else (), root)


@cache
def root_of_transformers() -> Path | None:
    """Where the package lies, without importing it."""
    try:
        spec = importlib.util.find_spec("transformers")
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def known_type(model_type: str) -> bool:
    """Whether the installed transformers has models of this type."""
    return folder_of(model_type) is not None


@cache
def folder_of(model_type: str) -> Path | None:
    """Where the stock code of a model type lies; None where there is none. A folder may hold several types."""
    root, name = root_of_transformers(), _module(model_type)
    if root is None or not name.isidentifier():
        return None
    own = root / "models" / name
    return own if own.is_dir() else next((p.parent for p in own.parent.glob(f"*/configuration_{name}.py")), None)


def _module(model_type: str) -> str:
    """What files are called after a model type: `x-y` may be one, and no module has such a name."""
    return model_type.replace("-", "_")


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _is_class(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.ClassDef) and node.name == name


def _is_call_of(call: ast.Call, base: str, method: str) -> bool:
    found = call.func
    named = isinstance(found, ast.Attribute) and found.attr == method
    return named and isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name) and found.value.id == base


def _says(node: ast.ClassDef, model_type: str) -> bool:
    return any(
        isinstance(line, ast.Assign)
        and isinstance(line.value, ast.Constant)
        and line.value.value == model_type
        and any(isinstance(target, ast.Name) and target.id == "model_type" for target in line.targets)
        for line in node.body
    )


def _declared(node: ast.ClassDef) -> Iterator[tuple[str, Declared]]:
    lines = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    for line in lines:
        if isinstance(line.target, ast.Name) and "ClassVar" not in ast.unparse(line.annotation):
            yield line.target.id, Declared(line.annotation, line.value)


def _exported(tree: ast.Module) -> tuple[str, ...]:
    for line in tree.body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__all__":
            return tuple(str(name.value) for name in getattr(line.value, "elts", ()) if isinstance(name, ast.Constant))
    return ()


def _admits(kind: ast.expr, value: Any) -> bool:
    """An annotation against a value of JSON, by the rules of strict dataclasses; True for what is not known here."""
    if isinstance(kind, ast.BinOp):
        return _admits(kind.left, value) or _admits(kind.right, value)
    if isinstance(kind, ast.Constant):
        return value is None if kind.value is None else True
    if isinstance(kind, ast.Subscript):
        inner = list(kind.slice.elts) if isinstance(kind.slice, ast.Tuple) else [kind.slice]
        name = ast.unparse(kind.value).rpartition(".")[2]
        if name in ("Union", "Optional"):
            return (name == "Optional" and value is None) or any(_admits(item, value) for item in inner)
        if name == "Literal":
            said = [item.value for item in inner if isinstance(item, ast.Constant)]
            return any(type(item) is type(value) and item == value for item in said)
        if name in ("list", "List"):
            return isinstance(value, list) and all(_admits(inner[0], item) for item in value)
        if name in ("dict", "Dict"):
            return isinstance(value, dict) and all(_admits(inner[-1], item) for item in value.values())
        return True
    if isinstance(kind, ast.Name):
        if is_special(value):
            return kind.id not in ("int", "str", "bool", "list")
        if kind.id == "int":
            return type(value) is int
        plain_types = {"float": float, "str": str, "bool": bool, "dict": dict, "list": list}
        return isinstance(value, plain_types[kind.id]) if kind.id in plain_types else not _is_scalar(kind.id, value)
    return True


def _is_scalar(name: str, value: Any) -> bool:
    """A typed dict such as RopeParameters is not a number and no text; nothing is known of other names."""
    return name.endswith("Parameters") and not isinstance(value, dict)


def _search(root: Path, model_type: str, names: list[str]) -> dict[str, Reading]:
    """Every file that can see a config, once: which of the names it reads there."""
    at_all, of_null, own = set(), set(), folder_of(model_type)
    words = {name: re.compile(rf"(?<!\w){re.escape(name)}(?!\w)".encode()) for name in names}
    for path in _files(root, model_type):
        data = path.read_bytes()
        made = _constructed(data)
        at_all |= {name for name in names if any(pattern.fullmatch(name) for pattern in made)}
        present = {name for name in names if name.encode() in data and words[name].search(data)}
        of_configs = bool(OF_CONFIGS.fullmatch(path.stem)) or path.parent.name == "heterogeneity"
        if not present and not of_configs:
            continue
        tree = _parsed(path)
        if tree is None:  # a file that this Python cannot parse may read anything that it names
            at_all |= present
            of_null |= present
            continue
        reader = _Reader(present, names, of_configs)
        reader.aliases = _aliases(tree)
        reader.visit(tree)
        at_all |= reader.at_all
        if path.parent == own or path in (root / "configuration_utils.py", root / "modeling_rope_utils.py"):
            of_null |= reader.of_null  # elsewhere caches and masks are chosen, and null chooses as nothing does
    return {name: Reading(name in at_all, name in of_null) for name in names}


def _files(root: Path, model_type: str) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if name not in BLIND_FOLDERS)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py") and not BLIND.match(name))
    for place in filter(None, (root / "models" / "auto", folder_of(model_type))):
        found = sorted(place.glob("*.py"))
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
