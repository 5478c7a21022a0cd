"""Equations as MathML, which browsers show without a script and screen readers read."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)


def _formula(writer: Any, node: nodes.Element, block: bool) -> None:
    text = node.astext()
    try:
        writer.body.append(tex2mathml(text, as_block=block))
    except (SyntaxError, ValueError) as error:
        LOG.warning("equation '%s' is not understood: %s", text, error, location=node)
        writer.body.append(writer.encode(text))
    raise nodes.SkipNode


def visit_inline(writer: Any, node: nodes.math) -> None:
    """A formula in a sentence."""
    _formula(writer, node, block=False)


def visit_block(writer: Any, node: nodes.math_block) -> None:
    """A formula on lines of its own."""
    _formula(writer, node, block=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
