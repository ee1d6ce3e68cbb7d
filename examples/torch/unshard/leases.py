# SPDX-License-Identifier: Apache-2.0
"""Memory for the parameters that an initialiser uses: one rank leads, and opens ranges as it needs them; the others follow.

Every message of the leader is a list of commands, in the order in which all ranks carry them out:
  ("steps", n, states)    the leader has run the first n steps; states of the random generators, by step: after each
                          write to a large parameter, and at the end
  ("open", lease, slots, access, everywhere, budget)
  ("close", leases)       what was written goes to the shards
  ("join", leases)        waits until it is there
  ("end", left, states)   all steps were run; the names of parameters that none of them filled
  ("fail", class, text)   everything open is discarded
"""
import threading

import _unshard_torch as native
import torch

from . import handles, undo
from .gathering import gathered

SMALL = 64 * 2 ** 10     # bytes: smaller parameters come with their neighbours, and have values on every rank
_TOGETHER = 4 * 2 ** 20  # bytes of such neighbours
_ALIGNMENT = 128


def cost(slots):
    return sum(-(-s.nbytes // _ALIGNMENT) * _ALIGNMENT for s in slots)


class Lease:
    """Some parameters whose values are here: those of a range of one chunk, or of no range, only in memory."""

    def __init__(self, slots, access, everywhere=False):
        self.slots, self.access, self.everywhere = slots, access, everywhere
        self.bytes, self.used, self._range, self._thread, self._error = cost(slots), 0, None, None, None

    def open(self, budget, stage):
        items = [(s.name, s.param) for s in self.slots]
        opened = gathered(items, budget, self.access, None if self.everywhere else stage.root, group=[1] * len(items),
                          process_group=stage.process_group, **stage.options)
        opened.__enter__()
        self._range = opened
        for piece in next(opened):
            self.lend(self.slots[piece.index], piece.tensor)
        self.bytes += opened.staging

    def lend(self, slot, tensor):
        slot.lend(tensor)
        slot.lease = self

    def close(self, watched, behind):
        """`behind`: by a thread, until join()."""
        for slot in self.slots:
            if slot.lease is self:
                slot.take_back(watched)
        if behind and self._range is not None:
            self._thread = threading.Thread(target=self._finish)
            self._thread.start()
        else:
            self._finish()
            self.join()

    def _finish(self):
        try:
            if self._range is not None:
                next(self._range, None)
        except BaseException as e:
            self._error = e

    def join(self):
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        self.discard(None)

    def discard(self, error):
        if self._thread is not None:
            self._thread.join()
        if self._range is not None:
            self._range.__exit__(type(error), error, None)
        self._range = None


class Leader:
    """The rank that initialises. It runs every initialiser once."""

    def __init__(self, stage):
        self.stage = stage
        self._leases, self._numbers = {}, 0          # open ones, by number
        self._due, self._writing = [], []            # to be closed, closed and not yet joined
        self._near = {}
        for slot in stage.slots:
            for module, _ in slot.places:
                self._near.setdefault(id(module), []).append(slot)
        self._step, self._states, self._told = 0, {}, 0

    def run(self):
        stage = self.stage
        for self._step, (module, call) in enumerate(stage.steps):
            self._written = []
            with stage.watch:
                call()
            self._end_step(module)
        self._take_over(stage.slots)
        self._due = list(self._leases)
        self._say([])
        if self._writing:
            self._say([("join", self._joined())])
        left = [s.name for s in stage.slots if s.missing and not s.written and s.elements > 0]
        states = undo.random_states()
        stage.tell([("steps", len(stage.steps), self._states), ("end", left, states)])
        return left

    def touch(self, slot, fills, unseen=False):
        lease = slot.lease or self._lease(slot, fills)
        lease.used = self._step
        if unseen and slot.digest is None and not slot.written:
            slot.digest = undo.digest(slot.tensor)

    def skips(self, slot):
        return False

    def wrote(self, slot):
        if _is_left_out(slot):
            self._written.append(torch.get_rng_state())

    def _lease(self, slot, fills):
        if not slot.missing and fills:               # a loaded one is never written: values that nobody keeps
            self._room_for([slot])
            lease = Lease([slot], "none")
            lease.lend(slot, torch.empty(slot.shape, dtype=slot.param.dtype))
            self._keep(lease)
            return lease
        slots = self._with_neighbours(slot) if slot.missing and slot.nbytes <= SMALL else [slot]
        access = "read" if not slot.missing else "overwrite" if fills and slot.nbytes > SMALL else "read_write"
        budget = self._room_for(slots)
        need = cost(slots)
        budget = min(budget, need + need // 8 + SMALL)
        lease = Lease(slots, access, everywhere=access == "read")
        number = self._keep(lease)
        self._say([("open", number, [s.index for s in slots], access, lease.everywhere, budget)])
        lease.open(budget, self.stage)
        return lease

    def _keep(self, lease):
        lease.used = self._step
        self._numbers += 1
        self._leases[self._numbers] = lease
        return self._numbers

    def _with_neighbours(self, slot):
        """Small ones of this step's module, and those of later ones as far as there is room beside the large ones."""
        own = [s for s in self._near.get(id(self.stage.steps[self._step][0]), ())
               if s.missing and s.lease is None and s.elements > 0 and s is not slot]
        out = [slot] + [s for s in own if s.nbytes <= SMALL]
        in_use = sum(l.bytes for l in self._leases.values() if l.used == self._step)
        left = min(self.stage.budget - in_use - cost({slot, *own}), self.stage.budget // 4, _TOGETHER)
        for other in self.stage.slots[slot.index + 1:]:
            if other.nbytes > SMALL or not other.missing or other.elements == 0 or other in out:
                continue
            if other.lease is not None or cost([other]) > left:
                break
            left -= cost([other])
            out.append(other)
        return sorted(out, key=lambda s: s.index)

    def _room_for(self, slots):
        """Bytes of the budget that are free, at least those of `slots`."""
        def free():
            return self.stage.budget - sum(l.bytes for l in (*self._leases.values(), *self._writing_leases()))
        need = cost(slots)
        if free() < need:
            idle = [n for n, l in self._leases.items() if l.used < self._step and n not in self._due]
            while idle and free() + sum(self._leases[n].bytes for n in self._due) < need:
                self._due.append(idle.pop(0))
            self._say([])
        if free() < need and self._writing:
            self._say([("join", self._joined())])
        if free() < need:
            names = [s.name for l in self._leases.values() for s in l.slots if l.used == self._step]
            raise native.BudgetTooSmall(
                "unshard.initialise_missing_keys: the initialiser of module %r uses %s together, of at least %d bytes; the "
                "budget is %d. Set .budget to at least %d."
                % (self.stage.name_of(self._step), ", ".join(repr(n) for n in names + [s.name for s in slots]),
                   self.stage.budget - free() + need, self.stage.budget, self.stage.budget - free() + need))
        return free()

    def _writing_leases(self):
        return [lease for _, lease in self._writing]

    def _joined(self):
        numbers = [n for n, _ in self._writing]
        return numbers

    def _say(self, more):
        """What is due, then `more`."""
        due, self._due = self._due, []
        commands = []
        if self._step > self._told:
            commands.append(("steps", self._step, self._states))
            self._told, self._states = self._step, {}
        ranges = [n for n in due if self._leases[n].access != "none"]
        if ranges:
            commands.append(("close", ranges))
        if commands or more:
            self.stage.tell(commands + more)
        for number in due:
            lease = self._leases.pop(number)
            for slot in lease.slots:
                if slot.digest is not None and not slot.written:
                    slot.written = undo.digest(slot.tensor) != slot.digest
                slot.digest = None
            lease.close(self.stage.watched, self.stage.behind)
            if self.stage.behind and lease.access != "none":
                self._writing.append((number, lease))
        for command in more:
            if command[0] == "join":
                for _, lease in self._writing:
                    lease.join()
                self._writing = []

    def _end_step(self, module):
        self._take_over([s for m in (module, *module.children()) for s in self._near.get(id(m), ())])
        self.stage.buffers.protect()
        for number, lease in self._leases.items():
            if number not in self._due and (lease.used == self._step and lease.slots[0].nbytes > SMALL or
                                            not lease.slots[0].missing or lease.slots[-1].step <= self._step):
                self._due.append(number)
        if self._written:
            self._states[self._step] = self._written, undo.random_states()

    def _take_over(self, slots):
        """Values that an initialiser bound in the place of a parameter become that parameter's."""
        for slot in slots:
            value = slot.rebound()
            if value is None:
                continue
            value = value.detach()
            slot.show_again()
            if not slot.missing:
                continue
            if list(value.shape) != slot.shape:
                raise ValueError("unshard.initialise_missing_keys: an initialiser bound a tensor of shape %s in the place of "
                                 "%r, whose shape is %s" % (list(value.shape), slot.name, slot.shape))
            source = self.stage.watched.get(value.untyped_storage()._cdata)
            if source is not None:
                self.touch(source, False)
            self.touch(slot, True)
            slot.tensor.copy_(value)
            slot.written = True

    def discard(self, error):
        for lease in (*self._leases.values(), *self._writing_leases()):
            try:
                lease.discard(error)
            except BaseException:      # the first error is the one that counts
                pass
        self._leases, self._writing = {}, []


class Follower:
    """A rank that takes part in the leader's ranges, and runs every initialiser once, for what it does to buffers and
    modules: small parameters have memory of zeros, larger ones only addresses, and writes to those are left out."""

    def __init__(self, stage):
        self.stage = stage
        self._leases, self._lent, self._next, self._waiting = {}, [], 0, (0, {})
        self.error = None

    def run(self):
        while True:
            for command in self.stage.hear():
                if command[0] == "fail":
                    raise self.error or command[1](command[2])
                if command[0] == "end":
                    self._run_steps()
                    self.stage.set_states(command[2])
                    return command[1]
                try:
                    getattr(self, "_" + command[0])(*command[1:])
                except Exception as e:     # the leader hears of it at the next range, or at the end
                    self.error = self.error or e
            self._run_steps()

    def _steps(self, number, states):
        self._waiting = (number, {**self._waiting[1], **states})

    def _open(self, number, slots, access, everywhere, budget):
        lease = Lease([self.stage.slots[i] for i in slots], access, everywhere)
        if self.error is not None:
            self.stage.refuse(self.error)
        else:
            self._leases[number] = lease
            lease.open(budget, self.stage)

    def _close(self, numbers):
        if any(self._leases[n].everywhere for n in numbers if n in self._leases):
            self._run_steps()          # as long as they can read what the leader read
        for number in numbers:
            lease = self._leases.get(number)
            if lease is not None and self.error is not None:
                lease.discard(self.error)
            elif lease is not None:
                lease.close(self.stage.watched, self.stage.behind)

    def _join(self, numbers):
        for number in numbers:
            self._leases[number].join()

    def touch(self, slot, fills, unseen=False):
        if slot.lease is None:
            slot.lease = "zeros"
            slot.lend(_zeros(slot))
            self._lent.append(slot)

    def skips(self, slot):
        if not _is_left_out(slot):
            return False
        if self._after:
            self.stage.set_states((self._after.pop(0), None, None))
        return True

    def wrote(self, slot):
        pass

    def _run_steps(self):
        number, states = self._waiting
        while self._next < number and self.error is None:
            self._after, at_the_end = states.pop(self._next, ([], None))
            try:
                with self.stage.watch:
                    self.stage.steps[self._next][1]()
            except Exception as e:
                self.error = e
            self.stage.buffers.protect()
            for slot in self._lent:
                slot.take_back(self.stage.watched)
            self._lent = []
            if at_the_end is not None:
                self.stage.set_states(at_the_end)
            self._next += 1
        self._waiting = (number, states)

    def discard(self, error):
        for lease in self._leases.values():
            try:
                lease.discard(error)
            except BaseException:
                pass
        self._leases = {}


def _is_left_out(slot):
    """Whether a write to a parameter happens on the leader only."""
    return slot.nbytes > SMALL and not (isinstance(slot.lease, Lease) and slot.lease.everywhere)


def _zeros(slot):
    """Zeros that take no memory until they are written."""
    if slot.nbytes <= SMALL:
        return torch.zeros(slot.shape, dtype=slot.param.dtype)
    import mmap
    memory = mmap.mmap(-1, slot.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.uint8).view(slot.param.dtype).view(slot.shape)
