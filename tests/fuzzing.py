"""Hostile JSON for the tests, by hypothesis: a right document with some values replaced."""

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = [500, pytest.param(10_000, marks=pytest.mark.nightly)]
"""How many cases: in every run, and at night."""

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 2, -1, 10**9, 2**31, 2**63, 10**400]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["../x", "/etc/passwd", "a\0b", "seg", "ctn", "paper", "F32", "I64"]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=8,
)


def _spots(document, path=()):
    """Yields the path of every value in a document."""
    items = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for key, value in items:
        yield (*path, key)
        yield from _spots(value, (*path, key))


@st.composite
def mutated(draw, document):
    """Draws a document of which one to three values are replaced, removed, doubled or moved."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 3))):
        spots = list(_spots(document))
        if not spots:
            break
        *path, key = draw(st.sampled_from(spots))
        parent = document
        for step in path:
            parent = parent[step]
        action = draw(st.sampled_from(["replace", "replace", "remove", "copy", "rename"]))
        if action == "replace":
            parent[key] = draw(ANYTHING)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif action == "copy":
            parent[key] = copy.deepcopy(draw(st.sampled_from(list(parent.values()))))
        else:
            parent[draw(st.text(max_size=8))] = parent.pop(key)
    return document


def fuzz(check, strategy, examples):
    """Calls a function with that many cases, the same ones in every run."""
    run = settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run(given(strategy)(check))()
