"""Pickles from strangers: plain data, and the objects that the caller allows by name."""

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from rlhf_jax.errors import UserError

# Instructions that change nothing beside the unpickler's stack and memo. Three more are replaced below.
_ALLOWED = """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE
    BINBYTES SHORT_BINBYTES EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST APPEND APPENDS EMPTY_DICT BINPUT
    LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID REDUCE
"""
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


def load(
    program: bytes,
    where: str,
    names: Mapping[str, Any],
    persistent_load: Callable[[Any], Any] | None = None,
    set_state: Mapping[type, Callable[[Any, Any], object]] | None = None,
) -> Any:
    """Loads the pickle `program`. Nothing is imported, and only values of `names` are called.

    The callables that the caller supplies raise ValueError to refuse their arguments.

    Args:
      where: the file, as messages name it.
      names: the globals that the pickle may ask for, such as "collections.OrderedDict", and the values it gets.
      persistent_load: maps a persistent id to an object. None allows no such ids.
      set_state: by type, the function that takes an object and its pickled state. Other objects have no state.

    Raises:
      UserError: the pickle is damaged, asks for something else, or is refused by one of these callables.
    """
    try:
        return _Unpickler(program, names, persistent_load, set_state or {}).load()
    except Exception as error:  # a broken program fails anywhere
        reason = str(error) if isinstance(error, ValueError) else f"damaged, {type(error).__name__}: {error}"
        raise UserError(f"{where}: the pickle is refused: {' '.join(reason.split())[:200]}") from None


class _Instructions(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise ValueError(f"the instruction {_NAMES.get(code, code)} is not allowed")


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler with few instructions.

    The one written in C crashes on hostile files. It hashes nested tuples until the stack overflows, and allocates a
    memo of any size. Keys of dicts are strings and integers here, which are cheap to hash.
    """

    dispatch = _Instructions(
        {code: pickle._Unpickler.dispatch[code] for code, name in _NAMES.items() if name in _ALLOWED.split()}
    )

    def __init__(
        self,
        program: bytes,
        names: Mapping[str, Any],
        persistent_load: Callable[[Any], Any] | None,
        set_state: Mapping[type, Callable[[Any, Any], object]],
    ) -> None:
        super().__init__(io.BytesIO(program))
        self._names, self._set_state = names, set_state
        if persistent_load is not None:
            self.persistent_load = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self._names:
            raise ValueError(f"it asks to call or make {full[:100]!r} (nothing in the file was run)")
        return self._names[full]

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        for kind, function in self._set_state.items():
            if isinstance(target, kind):
                function(target, state)
                return
        raise ValueError(f"{type(target).__name__} has no state")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key], [value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set_items(items[::2], items[1::2])

    def _set_items(self, keys: list[Any], values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError(f"found {type(target).__name__} in place of dict")
        for key, value in zip(keys, values, strict=True):
            if not isinstance(key, str | int):
                raise ValueError(f"a key of a dict is {type(key).__name__}")
            target[key] = value

    dispatch |= {pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems}
