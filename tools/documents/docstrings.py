"""An extension of Griffe in mkdocs.yml: docstrings are plain text, not HTML."""

import re
from typing import Any

import griffe

# `code`, which stays, or what Markdown would take for the beginning of a tag.
_CODE_OR_TAG = re.compile(r"(`[^`]*`)|<(?=\w)")


class PlainText(griffe.Extension):
    """Keeps "<task>.safetensors" readable on a page."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Escapes what would vanish as a tag.

        Args:
          obj: a module, class, function or attribute that was read.
          **kwargs: not used.
        """
        if obj.docstring is not None:
            obj.docstring.value = _CODE_OR_TAG.sub(
                lambda found: found[1] or "&lt;", obj.docstring.value
            )
