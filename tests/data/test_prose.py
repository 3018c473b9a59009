import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.prose import plain, prose


@pytest.mark.parametrize(
    ("marked_up", "words"),
    [
        ("Use :func:`numpy.sort` or :class:`~numpy.ndarray`.", "Use numpy.sort or numpy.ndarray."),
        ("See :ref:`the guide <guide>` and `docs <https://x.org/a>`_.", "See the guide and docs."),
        ("A [`Model`] and a [link](https://x.org/a_(b)) here", "A Model and a link here"),
        ("[![badge](https://x.org/b.svg)](https://x.org) Text", "Text"),
        ("A **bold** and *italic* ``literal`` word", "A bold and italic literal word"),
        ("a * b * c and `**kwargs` and `__init__` and ``coef_``", "a * b * c and **kwargs and __init__ and coef_"),
        ("Go to https://x.org/a?b=c.", "Go to."),
    ],
)
def test_plain_keeps_the_words(marked_up, words):
    assert plain(marked_up) == words


def test_a_numpy_docstring_keeps_its_description_and_notes():
    text = """
        The sort is done along an axis
        of the array, in ascending order.

        .. versionadded:: 1.2
           Never mind which version that was.

        .. note:: The input is not changed by this.

        Parameters
        ----------
        a : array_like
            Array to be sorted, whatever is in it.

        Returns
        -------
        sorted : ndarray
            Array of the same type as the input.

        Notes
        -----
        Various algorithms exist for this task::

            sort(a, kind="fast")

        >>> sort([2, 1])
        array([1, 2]) and some words of output

        After the doctest comes more text.

        ====== =====
        kind   speed
        ====== =====

        See Also
        --------
        argsort : Indirect sort of the same kind.
    """
    assert prose(inspect.cleandoc(text)) == (
        "The sort is done along an axis of the array, in ascending order. The input is not changed by this. "
        "Various algorithms exist for this task: After the doctest comes more text."
    )


@given(st.text(alphabet="ab \n\t.:`*_[]()<>#=-|>1/\\", max_size=200))
def test_any_text_gives_one_clean_line(text):
    line = prose(text)
    assert line == " ".join(line.split())
