# SPDX-License-Identifier: Apache-2.0
"""initialise_missing_keys: what a checkpoint lacked gets its initial values, within a byte budget."""
import contextlib
import functools
import warnings

import _unshard_torch as native
import torch
import torch.distributed as dist

from . import handles, undo
from .leases import Follower, Leader, cost
from .slots import slots_of
from .watching import Watch


class NotInitialised(native.Error):
    """No initialiser filled some of the missing parameters. `names` lists them."""

    def __init__(self, text, names=()):
        super().__init__(text)
        self.names = list(names)


@torch.no_grad()
def initialise_missing_keys(model, budget, *, root=0, initialise=None, missing=None, process_group=None, in_flight=1,
                            **options):
    """Gives the missing parameters of a model their initial values: calls the initialiser of each module once, children
    first, as transformers does. On rank `root` what an initialiser uses has its whole values while it runs, the others
    get their shards. Collective; blocks for as long as the initialisers run.

    budget      bytes that whole values may take on the root at any moment
    initialise  what to call for a module; default: for a model of transformers what transformers calls, else the
                module's `reset_parameters` or `_reset_parameters`, where something of the module is missing
    missing     names of the missing parameters and buffers; default: those not marked as loaded (`_is_hf_initialized`)
    in_flight   2: one module's values go to the shards while the next one's are initialised, if the budget has room
    options     `timeout_ms` and `verify`, as of `gathered`

    An initialiser may do what it likes: read loaded values, write by `.data` or numpy, bind a new parameter. Loaded
    parameters and buffers keep every bit. The other ranks run every initialiser, too, for what it does to buffers and
    modules: there missing parameters are zeros, and large ones are not written. Random generators end, and buffers that
    differ are, as on the root (where a rank's generators began in another state, it keeps its own).

    NotInitialised, on every rank, names the missing parameters that no initialiser filled; those that transformers' own
    initialisers leave are a warning instead, and keep their values. BudgetTooSmall: one initialiser uses more than the
    budget. After an error random generators, buffers and modules are as before, and the call can be repeated; missing
    parameters may have got new values. Afterwards all of them are marked as loaded.
    """
    stage = _Stage(model, budget, root, initialise, missing, process_group, in_flight, options)
    leading = stage.rank == root
    role = Leader(stage) if leading else Follower(stage)
    modules, buffers = undo.Modules(model), stage.buffers
    try:
        try:
            stage.show(role)
            with _guarded(model):
                left = role.run()
        except BaseException as e:
            if leading:
                stage.tell([("fail", *_told(e, stage.rank))])
            role.discard(e)
            raise
        finally:
            stage.hide()
        stage.agree_at_the_end(role.error if not leading else None)
        stage.same_buffers()
        if left and not stage.of_transformers:
            raise NotInitialised("unshard.initialise_missing_keys: no initialiser filled %s. Pass `initialise`, or fill %s "
                                 "with unshard.gathered." % (", ".join(left), "it" if len(left) == 1 else "them"), left)
    except BaseException:
        modules.restore()
        buffers.restore()
        undo.set_random_states(stage.states)
        raise
    if left:
        warnings.warn("unshard.initialise_missing_keys: the model's own initialisers do not fill %s: as with transformers "
                      "alone, %s as constructed" % (", ".join(left), "it is" if len(left) == 1 else "they are"))
    for slot in stage.slots:
        slot.param._is_hf_initialized = True


class _Stage:
    """What both roles share."""

    def __init__(self, model, budget, root, initialise, missing, process_group, in_flight, options):
        self.budget, self.root, self.process_group, self.options = int(budget), root, process_group, options
        self.behind = in_flight > 1
        self.rank, self._model = dist.get_rank(process_group), model
        self._group = handles.control_group(process_group)
        self.of_transformers = initialise is None and hasattr(model, "_initialize_weights")
        self.states = undo.random_states()
        self._follows = True
        names = None if missing is None else set(missing)
        wrong = None
        try:
            self.slots = slots_of(model, lambda name, p: not getattr(p, "_is_hf_initialized", False) if names is None
                                  else name in names)
            self._check_names(names)
            self.steps, self._names = _steps(model, initialise, self.slots, names)
            self.buffers = undo.Buffers(model, functools.partial(_loaded, names))
        except Exception as e:
            wrong = e
        self._agree(wrong)
        self._check_budget()
        self.watched = {}

    def show(self, role):
        self.watch = Watch(self.watched, self.buffers, role)
        for slot in self.slots:
            slot.show(self.watched)

    def hide(self):
        for slot in self.slots:
            slot.restore()
        self.buffers.protect_bindings()

    def name_of(self, step):
        return self._names.get(id(self.steps[step][0]), "")

    def _check_names(self, names):
        known = set()
        if names is not None:
            known = {n for n, _ in self._model.named_parameters(remove_duplicate=False)} | \
                    {n for n, _ in self._model.named_buffers(remove_duplicate=False)}
            unknown = sorted(names - known)
            if unknown:
                raise ValueError("unshard.initialise_missing_keys: the model has no %s; `missing` takes names of its "
                                 "parameters and buffers" % ", ".join(map(repr, unknown)))
            for slot in self.slots:                  # by any of the names of a tied one
                slot.missing = slot.missing or any(n in names for n in slot.names)

    def _agree(self, wrong):
        """The same call on every rank, or an error on every rank."""
        mine = None if wrong else [(s.name, s.shape, str(s.param.dtype), s.missing) for s in self.slots]
        shape = None if wrong else (undo.digest(mine), len(self.steps), self.budget, self.root)
        said = self._everyone((wrong and "%s: %s" % (type(wrong).__name__, wrong), shape,
                               undo.digest_of_states(self.states)))
        if wrong:
            raise wrong
        failed = next((r for r, s in enumerate(said) if s[0]), None)
        if failed is not None:
            raise native.PeerFailed("unshard.initialise_missing_keys: rank %d: %s" % (failed, said[failed][0]))
        if any(s[1] != said[0][1] for s in said):
            lists = self._everyone((mine, shape[1:]))
            rank = next(r for r, s in enumerate(said) if s[1] != said[0][1])
            what = "%d steps, budget and root: %s against %s" % (len(self.steps), lists[0][1], lists[rank][1])
            for a, b in zip(lists[0][0], lists[rank][0]):
                if a != b:
                    what = "(name, shape, type, missing) %s against %s" % (a, b)
                    break
            raise native.PlanMismatch("unshard.initialise_missing_keys: rank %d differs from rank 0: %s" % (rank, what))
        self._follows = said[self.rank][2] == said[self.root][2]

    def _check_budget(self):
        own = {}
        for slot in self.slots:
            if slot.missing:
                own.setdefault(id(slot.places[0][0]), []).append(slot)
        for slots in own.values():
            if cost(slots) > self.budget:
                raise native.BudgetTooSmall(
                    "unshard.initialise_missing_keys: a module's %s take %d bytes, and its initialiser needs them together; "
                    "the budget is %d. Set .budget to at least %d."
                    % (", ".join(repr(s.name) for s in slots), cost(slots), self.budget, cost(slots)))

    def set_states(self, states):
        if self._follows:
            undo.set_random_states(states)

    def tell(self, commands):
        if dist.get_world_size(self._group) > 1:
            dist.broadcast_object_list([commands], group=self._group, group_src=self.root)

    def hear(self):
        box = [None]
        dist.broadcast_object_list(box, group=self._group, group_src=self.root)
        return box[0]

    def refuse(self, error):
        communicator = handles.take_communicator(self.process_group)
        native.refuse(communicator, str(error), self.options.get("timeout_ms", 600_000))
        handles.give_back(communicator, self.process_group)

    def _everyone(self, mine):
        said = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(said, mine, group=self._group)
        return said

    def agree_at_the_end(self, error):
        said = self._everyone(error and "%s: %s" % (type(error).__name__, error))
        if error:
            raise error
        failed = next((r for r, s in enumerate(said) if s), None)
        if failed is not None:
            raise native.PeerFailed("unshard.initialise_missing_keys: rank %d: %s" % (failed, said[failed]))

    def same_buffers(self):
        """Those that initialisers changed are the root's, on every rank."""
        changed = self.buffers.changed(self._model)
        said = self._everyone({name: undo.digest(b) for name, (_, _, b) in changed.items()})
        for name in said[self.root]:
            if all(s.get(name) == said[self.root][name] for s in said):
                continue
            box = [changed[name][2] if self.rank == self.root else None]
            dist.broadcast_object_list(box, group=self._group, group_src=self.root)
            if self.rank != self.root:
                owner = self._model.get_submodule(name.rpartition(".")[0])
                self.buffers.set(owner, name.rpartition(".")[2], box[0])


def _loaded(names, full, module, name, buffer):
    """Whether a checkpoint had a buffer. Given names of what is missing, it had the others that checkpoints have, unless
    all parameters of the module are missing."""
    if names is None or getattr(buffer, "_is_hf_initialized", False):
        return getattr(buffer, "_is_hf_initialized", False)
    prefix = full[:len(full) - len(name)]
    own = [prefix + n in names for n, p in module._parameters.items() if p is not None]
    return full not in names and name not in module._non_persistent_buffers_set and not (own and all(own))


def _told(error, rank):
    """An error's class and words for the other ranks."""
    if isinstance(error, (native.BudgetTooSmall, ValueError)) and type(error) in (native.BudgetTooSmall, ValueError):
        return type(error), str(error)
    return native.PeerFailed, "unshard.initialise_missing_keys: rank %d: %s: %s" % (rank, type(error).__name__, error)


def _steps(model, initialise, slots, names):
    """[(module, what to call)], children first, as transformers goes through a model; and names of modules."""
    prefixes = {id(m): prefix for prefix, m in model.named_modules()}
    steps = []
    if initialise is None and hasattr(model, "_initialize_weights"):
        custom = model.is_custom_code() if hasattr(model, "is_custom_code") else False

        def visit(module, call):
            for child in module.children():
                # A model in the model: its own rules.
                visit(child, child._initialize_weights if hasattr(child, "_initialize_weights") else call)
            steps.append((module, functools.partial(call, module, custom)))

        visit(model, model._initialize_weights)
        return steps, prefixes

    def reset(module):
        own = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if own is not None:
            own()

    missing = {id(m): s for s in slots if s.missing for m, _ in s.places}
    owners = {id(m) for s in slots for m, _ in s.places}

    def wanted(module):
        """Whether something of it is missing; of a module that has nothing itself, something below it."""
        lacks = id(module) in missing or names is not None and any(
            prefixes[id(module)] + ("." if prefixes[id(module)] else "") + n in names for n in module._buffers)
        return lacks or id(module) not in owners and any(id(m) in missing for m in module.modules())

    seen = set()

    def walk(module):
        if id(module) in seen:
            return
        seen.add(id(module))
        for child in module.children():
            walk(child)
        if wanted(module):
            steps.append((module, functools.partial(initialise or reset, module)))

    walk(model)
    return steps, prefixes


def _guarded(model):
    """transformers' guard: torch's own initialisers leave alone what is marked as loaded."""
    if not hasattr(model, "_initialize_weights"):
        return contextlib.nullcontext()
    from transformers import initialization
    return initialization.guard_torch_init_functions()
