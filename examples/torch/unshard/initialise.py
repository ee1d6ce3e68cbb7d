# SPDX-License-Identifier: Apache-2.0
"""initialise_missing_keys: what a checkpoint lacked gets its initial values, within a byte budget."""
import contextlib

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import handles
from .gathering import gathered


@torch.no_grad()
def initialise_missing_keys(model, budget, *, root=0, initialise=None, missing=None, **options):
    """Runs the initialiser of every module that has missing parameters, children first, in the order of the module tree
    (the same on every rank). On rank `root`, with whole values; the others get their shards. Collective.

    initialise  what to call for a module; default: transformers' own for its models, else `module.reset_parameters()`
    missing     names of the missing parameters; default: those that transformers has not marked as loaded
    options     as of `gathered`

    What one initialiser touches is in one chunk, and nothing is cut: the same seed gives the same bits for every budget.
    To learn what each one touches, every rank first runs them on tensors without memory; that run also sets the buffers
    that initialisers compute. Parameters that are not missing are not touched. Where initialisers far apart touch the
    same parameter (tied weights), the later one gets it in a second range.
    """
    steps, places, names = _steps(model, initialise), {}, {}
    for prefix, module in model.named_modules():
        for name, p in module._parameters.items():
            if p is not None:
                places.setdefault(p, []).append((module, name))
                names.setdefault(p, prefix + ("." if prefix else "") + name)
    missing = {p for p in places if not getattr(p, "_is_hf_initialized", False)} if missing is None else \
              {p for p in places if names[p] in set(missing)}
    done_before = {m for m, _ in steps if getattr(m, "_is_hf_initialized", False)}

    stand_ins = {p: _parameter(torch.empty(handles.whole_shape(p), dtype=p.dtype, device="meta"), p, p not in missing)
                 for p in places}
    with _in_place_of(stand_ins, places), _guarded(model), torch.random.fork_rng(devices=[]):
        wanted = {stand_ins[p].untyped_storage()._cdata: p for p in missing}
        used = [_use(module, call, wanted) for module, call in steps]
        for module, _ in steps:
            if module not in done_before:
                module._is_hf_initialized = False

    with _in_place_of(stand_ins, places), _guarded(model):
        for todo in _passes(steps, used):
            groups = todo.groups(names)
            listed = [(names[p], p) for group in groups for p in group]
            numbers = [number for number, group in enumerate(groups, 1) for _ in group]
            with gathered(listed, budget, todo.access(), root, group=numbers, **options) as chunks:
                for chunk in chunks:
                    here = {p: _parameter(tensor, p) for p, tensor in chunk.params()}
                    with _in_place_of(here, places):
                        while todo.steps and todo.steps[0][2] <= here.keys():
                            module, call, _, _ = todo.steps.pop(0)
                            call(module)
                    del here
    for module, _ in steps:
        module._is_hf_initialized = True


def _steps(model, initialise):
    """[(module, what to call for it)], children first."""
    from_transformers = initialise is None and hasattr(model, "_initialize_weights")
    if initialise is None and not from_transformers:
        def initialise(module):
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    steps = []

    def visit(module, call):
        for child in module.children():
            own = from_transformers and hasattr(child, "_initialize_weights")   # a model in the model: its own rules
            visit(child, child._initialize_weights if own else call)
        steps.append((module, call))

    visit(model, model._initialize_weights if from_transformers else initialise)
    return steps


def _guarded(model):
    """transformers' guard: torch's own initialisers leave alone what is marked as loaded."""
    if not hasattr(model, "_initialize_weights"):
        return contextlib.nullcontext()
    from transformers import initialization
    return initialization.guard_torch_init_functions()


def _parameter(tensor, like, loaded=False):
    p = nn.Parameter(tensor, requires_grad=like.requires_grad)
    p._is_hf_initialized = loaded
    return p


@contextlib.contextmanager
def _in_place_of(others, places):
    """Puts `others[p]` wherever the model has p."""
    before = [(module, name, module._parameters[name]) for p in others for module, name in places[p]]
    try:
        for p, other in others.items():
            for module, name in places[p]:
                module._parameters[name] = other
        yield
    finally:
        for module, name, p in before:
            module._parameters[name] = p


class _Uses(TorchDispatchMode):
    """Notes which stand-ins operations use, and which of them are filled whole before anything else."""

    FILLS = {"normal_", "uniform_", "zero_", "fill_", "copy_", "bernoulli_", "exponential_", "log_normal_", "random_"}

    def __init__(self, params):
        super().__init__()
        self._params = params                                            # by the storage of the stand-in
        self.uses, self.filled = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        schema = func._schema
        if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
            return func(*args, **(kwargs or {}))                         # a view: neither reads nor writes
        values, tensors, fills = {**dict(zip([a.name for a in schema.arguments], args)), **(kwargs or {})}, 0, False
        for a in schema.arguments:
            for t in tree_leaves(values.get(a.name)):
                tensors += isinstance(t, torch.Tensor)
                p = self._params.get(t.untyped_storage()._cdata) if isinstance(t, torch.Tensor) else None
                if p is None:
                    continue
                fills = a.alias_info is not None and a.alias_info.is_write and t.numel() == _numel(p) and \
                    schema.name.split("::")[1] in self.FILLS
                if fills and p not in self.uses:
                    self.filled.add(p)
                self.uses.add(p)
        # A stand-in has nothing to fill, and torch's own way to do so takes a millisecond.
        return args[0] if fills and tensors == 1 else func(*args, **(kwargs or {}))


def _numel(p):
    n = 1
    for extent in handles.whole_shape(p):
        n *= extent
    return n


def _use(module, call, params):
    """The missing parameters that a step uses, and those among them that it fills before it reads them."""
    noted = _Uses(params)
    try:
        with noted:
            call(module)
        return noted.uses, noted.filled
    except (RuntimeError, NotImplementedError):    # it wants values: then all that it may touch, in case
        near = [p for m in (module, *module.children()) for p in m.parameters(recurse=False)]
        near = {params.get(p.untyped_storage()._cdata) for p in near} - {None}
        return noted.uses | near, set()


class _Pass:
    """Steps whose parameters are gathered by one range. Each group is what neighbouring steps have in common."""

    def __init__(self):
        self.steps, self._groups, self._known, self._filled = [], [], set(), set()

    def add(self, module, call, uses, filled):
        """False where a parameter of an earlier group is wanted again."""
        last = self._groups[-1] if self._groups else set()
        if uses & (self._known - last):
            return False
        if not uses & last:
            self._groups.append(set())
        self._groups[-1] |= uses
        self._filled |= filled - self._known
        self._known |= uses
        self.steps.append((module, call, uses, filled))
        return True

    def access(self):
        return "overwrite" if self._filled == self._known else "read_write"

    def groups(self, names):
        rank = {p: i for i, p in enumerate(names)}
        return [sorted(group, key=rank.__getitem__) for group in self._groups]


def _passes(steps, used):
    passes = [_Pass()]
    for (module, call), (uses, filled) in zip(steps, used):
        if uses and not passes[-1].add(module, call, uses, filled):
            passes.append(_Pass())
            passes[-1].add(module, call, uses, filled)
    return [p for p in passes if p.steps]
