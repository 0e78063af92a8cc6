"""Images: from a name to directories that overlayfs stacks, and back.

Read ``pull.py`` first, the recipe.  Its parts: ``reference`` (names), ``registry`` over ``wire`` and
``auth`` (whom to ask and how), ``documents`` (index, manifest, config), ``unpack`` (one layer: bytes to
files, by ``compression``, ``tar`` and ``layer``), ``inherit`` (what a layer takes from those below) and
``store`` (what is here, what may go).  ``pack`` and ``push`` are the other direction.
"""
